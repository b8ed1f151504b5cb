using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tests;

/// <summary>A device that has room for so many allocations and then no more: what was taken before a failure must come back. It computes nothing.</summary>
sealed unsafe class LimitedBackend(int room) : Backend
{
    int taken;

    public override string Name => "limited";

    public override DType Activation => DType.F32;

    public override DType Parameter => DType.F32;

    public override void Upload(ReadOnlySpan<byte> source, Slice destination) => source.CopyTo(new Span<byte>((void*)destination.Address, source.Length));

    protected override nint AllocateBytes(long bytes) => taken++ < room ? (nint)NativeMemory.AllocZeroed((nuint)bytes) : throw new OutOfMemoryException();

    protected override void FreeBytes(nint address) => NativeMemory.Free((void*)address);

    public override void Download(Slice source, Span<byte> destination) => throw Unused();

    public override PendingRead ReadLater(Slice source) => throw Unused();

    public override void Copy(Slice source, Slice destination) => throw Unused();

    public override void Fill(Slice destination, double value) => throw Unused();

    public override void Synchronize() => throw Unused();

    public override void Add(Slice x, double scale, Slice y) => throw Unused();

    public override void Dropout(Slice x, double p, RandomKey key, Slice y, bool accumulate) => throw Unused();

    public override void GatherRows(Slice x, Slice rows, int width, Slice y) => throw Unused();

    public override void ScatterRows(Slice x, Slice rows, int width, Slice y, bool accumulate) => throw Unused();

    public override void EmbeddingForward(Slice ids, Weight table, Slice y) => throw Unused();

    public override void EmbeddingBackward(Slice ids, Slice dy, Slice dTable) => throw Unused();

    public override void RmsNormForward(Slice x, Slice weight, double eps, Slice y, Slice rstd, Slice residual = default) => throw Unused();

    public override void RmsNormBackward(Slice dy, Slice x, Slice weight, Slice rstd, Slice dx, bool accumulate, Slice dWeight) => throw Unused();

    public override void Rope(Slice x, Slice cos, Slice sin, Slice positions, int heads, int headWidth, bool inverse) => throw Unused();

    public override void AttentionForward(AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse) => throw Unused();

    public override void AttentionBackward(AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse, Slice dq, Slice dk, Slice dv) => throw Unused();

    public override void SwiGluForward(Slice gate, Slice up, Slice y) => throw Unused();

    public override void SwiGluBackward(Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp) => throw Unused();

    public override void LinearForward(Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y, bool accumulate) => throw Unused();

    public override void LinearBackward(Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx, Slice dLoraInput, bool accumulate,
        Slice dA, Slice dB, Slice dWeight, Slice dBias) => throw Unused();

    public override void TokenLogProbs(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead,
        Slice entropyCoefficients = default) => throw Unused();

    public override void ScalarHeadForward(Slice hidden, Slice weight, Slice values) => throw Unused();

    public override void ScalarHeadBackward(Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight) => throw Unused();

    public override void Norm(Slice x, Slice result) => throw Unused();

    public override void Sum(Slice x, double scale, Slice result, bool accumulate) => throw Unused();

    public override void AdamW(Slice p, Slice g, Slice m, Slice v, AdamWStep step, Slice norm) => throw Unused();

    public override void AdamW8Bit(Slice p, Slice g, Moments8Bit moments, AdamWStep step, Slice norm) => throw Unused();

    public override void Sample(Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs, Slice draws = default) => throw Unused();

    static NotSupportedException Unused() => new("LimitedBackend computes nothing.");
}
