using System.Numerics;
using System.Runtime.InteropServices;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The operations in plain C#, vectorised and multi-threaded: in <see cref="float"/> the <c>cpu</c> device, in <see cref="double"/> the oracle that
/// every other device is held to. Each operation's maths is in the file of its name under <c>Ops</c>.
/// </summary>
/// <typeparam name="T">float or double: the type of activations, parameters and gradients.</typeparam>
public sealed unsafe class HostBackend<T> : Backend where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    const int Alignment = 256;

    /// <inheritdoc />
    public override string Name => typeof(T) == typeof(float) ? "cpu" : "cpu (f64)";

    /// <inheritdoc />
    public override DType Activation => typeof(T) == typeof(float) ? DType.F32 : DType.F64;

    /// <inheritdoc />
    public override DType Parameter => Activation;

    /// <inheritdoc />
    public override bool IsHost => true;

    /// <inheritdoc />
    public override long ScratchBytes => Scratch.Held;

    /// <inheritdoc />
    protected override nint AllocateBytes(long bytes)
    {
        // calloc leaves large blocks untouched until they are written, so what a step never reaches is never resident.
        // The block's own address is kept just below the aligned one.
        nint block = (nint)NativeMemory.AllocZeroed((nuint)bytes + Alignment + (nuint)sizeof(nint));
        nint address = (block + sizeof(nint) + Alignment - 1) & -Alignment;
        ((nint*)address)[-1] = block;
        return address;
    }

    /// <inheritdoc />
    protected override void FreeBytes(nint address) => NativeMemory.Free((void*)((nint*)address)[-1]);

    /// <inheritdoc />
    public override void Upload(ReadOnlySpan<byte> source, Slice destination)
    {
        Expect.That(source.Length == destination.Bytes, nameof(Upload), $"source has {source.Length} bytes, expected {destination.Bytes}.");
        source.CopyTo(new Span<byte>((void*)destination.Address, source.Length));
    }

    /// <inheritdoc />
    public override void Download(Slice source, Span<byte> destination)
    {
        Expect.That(destination.Length == source.Bytes, nameof(Download), $"destination has {destination.Length} bytes, expected {source.Bytes}.");
        new ReadOnlySpan<byte>((void*)source.Address, destination.Length).CopyTo(destination);
    }

    /// <inheritdoc />
    public override PendingRead ReadLater(Slice source) => new Arrived(new ReadOnlySpan<byte>((void*)source.Address, (int)source.Bytes).ToArray());

    /// <inheritdoc />
    public override void Synchronize()
    {
        // Every operation has finished when it returns.
    }

    /// <inheritdoc />
    public override void Copy(Slice source, Slice destination) => Elementwise.Copy(source, destination);

    /// <inheritdoc />
    public override void Fill(Slice destination, double value) => Elementwise.Fill(destination, value);

    /// <inheritdoc />
    public override void Add(Slice x, double scale, Slice y) => Elementwise.Add<T>(x, scale, y);

    /// <inheritdoc />
    public override void Dropout(Slice x, double p, RandomKey key, Slice y, bool accumulate) => Kernels.Dropout.Apply<T>(x, p, key, y, accumulate);

    /// <inheritdoc />
    public override void GatherRows(Slice x, Slice rows, int width, Slice y) => Rows.Gather<T>(x, rows, width, y);

    /// <inheritdoc />
    public override void ScatterRows(Slice x, Slice rows, int width, Slice y, bool accumulate) => Rows.Scatter<T>(x, rows, width, y, accumulate);

    /// <inheritdoc />
    public override void EmbeddingForward(Slice ids, Weight table, Slice y) => Embedding.Forward<T>(ids, table, y);

    /// <inheritdoc />
    public override void EmbeddingBackward(Slice ids, Slice dy, Slice dTable) => Embedding.Backward<T>(ids, dy, dTable);

    /// <inheritdoc />
    public override void RmsNormForward(Slice x, Slice weight, double eps, Slice y, Slice rstd, Slice residual = default) =>
        RmsNorm.Forward<T>(x, weight, eps, y, rstd, residual);

    /// <inheritdoc />
    public override void RmsNormBackward(Slice dy, Slice x, Slice weight, Slice rstd, Slice dx, bool accumulate, Slice dWeight) =>
        RmsNorm.Backward<T>(dy, x, weight, rstd, dx, accumulate, dWeight);

    /// <inheritdoc />
    public override void Rope(Slice x, Slice cos, Slice sin, Slice positions, int heads, int headWidth, bool inverse) =>
        Kernels.Rope.Rotate<T>(x, cos, sin, positions, heads, headWidth, inverse);

    /// <inheritdoc />
    public override void AttentionForward(AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse) =>
        Attention.Forward<T>(shape, q, k, v, sequences, y, lse);

    /// <inheritdoc />
    public override void AttentionBackward(AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse, Slice dq, Slice dk, Slice dv) =>
        Attention.Backward<T>(shape, dy, q, k, v, sequences, y, lse, dq, dk, dv);

    /// <inheritdoc />
    public override void SwiGluForward(Slice gate, Slice up, Slice y) => SwiGlu.Forward<T>(gate, up, y);

    /// <inheritdoc />
    public override void SwiGluBackward(Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp) => SwiGlu.Backward<T>(dy, gate, up, dGate, dUp);

    /// <inheritdoc />
    public override void LinearForward(Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y, bool accumulate) =>
        Linear.Forward<T>(x, weight, bias, lora, loraInput, xa, y, accumulate);

    /// <inheritdoc />
    public override void LinearBackward(Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx, Slice dLoraInput, bool accumulate,
        Slice dA, Slice dB, Slice dWeight, Slice dBias) =>
        Linear.Backward<T>(dy, x, loraInput, weight, lora, xa, dx, dLoraInput, accumulate, dA, dB, dWeight, dBias);

    /// <inheritdoc />
    public override void TokenLogProbs(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead,
        Slice entropyCoefficients = default) =>
        CrossEntropy.Run<T>(hidden, head, targets, temperature, logprobs, entropy, coefficients, dHidden, dHead, entropyCoefficients);

    /// <inheritdoc />
    public override void ScalarHeadForward(Slice hidden, Slice weight, Slice values) => ScalarHead.Forward<T>(hidden, weight, values);

    /// <inheritdoc />
    public override void ScalarHeadBackward(Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight) =>
        ScalarHead.Backward<T>(dValues, hidden, weight, dHidden, dWeight);

    /// <inheritdoc />
    public override void Norm(Slice x, Slice result) => Elementwise.Norm<T>(x, result);

    /// <inheritdoc />
    public override void Sum(Slice x, double scale, Slice result, bool accumulate) => Elementwise.Sum<T>(x, scale, result, accumulate);

    /// <inheritdoc />
    public override void AdamW(Slice p, Slice g, Slice m, Slice v, AdamWStep step, Slice norm) => Kernels.AdamW.Step<T>(p, g, m, v, step, norm);

    /// <inheritdoc />
    public override void AdamW8Bit(Slice p, Slice g, Moments8Bit moments, AdamWStep step, Slice norm) => Kernels.AdamW8Bit.Step<T>(p, g, moments, step, norm);

    /// <inheritdoc />
    public override void Sample(Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs, Slice draws = default) =>
        Sampler.Draw<T>(logits, rows, sampling, key, ids, logprobs, draws);

    sealed class Arrived(byte[] bytes) : PendingRead
    {
        public override bool HasArrived => true;

        public override byte[] Wait() => bytes;
    }
}
