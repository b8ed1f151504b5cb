namespace IlgpuPeft.Kernels;

/// <summary>
/// The operations as hand-written ILGPU kernels, on CUDA, the PTX emulator or ILGPU's CPU accelerator. Activations are stored as <typeparamref name="T"/>; parameters, gradients
/// of parameters and optimizer state are F32, and so is every sum. Each operation's kernels are in the file of its name under <c>Ops</c>.
/// </summary>
/// <typeparam name="T">How activations are stored.</typeparam>
sealed class KernelBackend<T> : Backend where T : unmanaged, IElement<T>
{
    readonly ScratchBuffers scratch;

    /// <summary>Opens the operations on a device, which comes back to it when the backend is disposed.</summary>
    /// <param name="device">From <see cref="KernelDevice.Rent"/>.</param>
    /// <param name="portable">Keeps to kernels that any device runs, even where there are tensor cores.</param>
    public KernelBackend(KernelDevice device, bool portable = false)
    {
        Device = device;
        scratch = new ScratchBuffers(device, Memory);
        UsesTensorCores = !portable && device.HasTensorCores && T.Type == DType.BF16;
    }

    /// <summary>The accelerator and its compiled kernels.</summary>
    public KernelDevice Device { get; }

    /// <summary>Whether matrix products and attention run on tensor cores.</summary>
    public bool UsesTensorCores { get; }

    /// <inheritdoc />
    public override string Name => Device.Name;

    /// <inheritdoc />
    public override DType Activation => T.Type;

    /// <inheritdoc />
    public override DType Parameter => DType.F32;

    /// <inheritdoc />
    public override long ScratchBytes => scratch.Bytes;

    /// <inheritdoc />
    protected override (long Free, long Total)? Room => Device.Buffers.Room;

    /// <inheritdoc />
    protected override nint AllocateBytes(long bytes) => Device.Buffers.Allocate(bytes);

    /// <inheritdoc />
    protected override void FreeBytes(nint address) => Device.Buffers.Free(address);

    /// <inheritdoc />
    public override void Upload(ReadOnlySpan<byte> source, Slice destination)
    {
        Expect.That(source.Length == destination.Bytes, nameof(Upload), $"source has {source.Length} bytes, expected {destination.Bytes}.");
        Device.Transfers.Upload(source, destination);
    }

    /// <inheritdoc />
    public override void Download(Slice source, Span<byte> destination)
    {
        Expect.That(destination.Length == source.Bytes, nameof(Download), $"destination has {destination.Length} bytes, expected {source.Bytes}.");
        Device.Transfers.Download(source, destination);
    }

    /// <inheritdoc />
    public override PendingRead ReadLater(Slice source) => Device.Transfers.ReadLater(source);

    /// <inheritdoc />
    public override void Synchronize() => Device.Synchronize();

    /// <inheritdoc />
    public override void Copy(Slice source, Slice destination) => ElementwiseKernels.Copy(Device, source, destination);

    /// <inheritdoc />
    public override void Fill(Slice destination, double value) => ElementwiseKernels.Fill(Device, destination, value);

    /// <inheritdoc />
    public override void Add(Slice x, double scale, Slice y) => ElementwiseKernels.Add<T>(Device, x, scale, y);

    /// <inheritdoc />
    public override void Dropout(Slice x, double p, RandomKey key, Slice y, bool accumulate) =>
        DropoutKernels.Apply<T>(Device, x, p, key, y, accumulate);

    /// <inheritdoc />
    public override void GatherRows(Slice x, Slice rows, int width, Slice y) => RowsKernels.Gather<T>(Device, x, rows, width, y);

    /// <inheritdoc />
    public override void ScatterRows(Slice x, Slice rows, int width, Slice y, bool accumulate) =>
        RowsKernels.Scatter<T>(Device, scratch, x, rows, width, y, accumulate);

    /// <inheritdoc />
    public override void EmbeddingForward(Slice ids, Weight table, Slice y) => EmbeddingKernels.Forward<T>(Device, ids, table, y);

    /// <inheritdoc />
    public override void EmbeddingBackward(Slice ids, Slice dy, Slice dTable) => EmbeddingKernels.Backward<T>(Device, scratch, ids, dy, dTable);

    /// <inheritdoc />
    public override void RmsNormForward(Slice x, Slice weight, double eps, Slice y, Slice rstd, Slice residual = default) =>
        RmsNormKernels.Forward<T>(Device, x, weight, eps, y, rstd, residual);

    /// <inheritdoc />
    public override void RmsNormBackward(Slice dy, Slice x, Slice weight, Slice rstd, Slice dx, bool accumulate, Slice dWeight) =>
        RmsNormKernels.Backward<T>(Device, scratch, dy, x, weight, rstd, dx, accumulate, dWeight);

    /// <inheritdoc />
    public override void Rope(Slice x, Slice cos, Slice sin, Slice positions, int heads, int headWidth, bool inverse) =>
        RopeKernels.Rotate<T>(Device, x, cos, sin, positions, heads, headWidth, inverse);

    /// <inheritdoc />
    public override void AttentionForward(AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse) =>
        AttentionKernels.Forward<T>(Device, scratch, UsesTensorCores, shape, q, k, v, sequences, y, lse);

    /// <inheritdoc />
    public override void AttentionBackward(AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse, Slice dq, Slice dk, Slice dv) =>
        AttentionBackwardKernels.Backward<T>(Device, scratch, UsesTensorCores, shape, dy, q, k, v, sequences, y, lse, dq, dk, dv);

    /// <inheritdoc />
    public override void SwiGluForward(Slice gate, Slice up, Slice y) => SwiGluKernels.Forward<T>(Device, gate, up, y);

    /// <inheritdoc />
    public override void SwiGluBackward(Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp) => SwiGluKernels.Backward<T>(Device, dy, gate, up, dGate, dUp);

    /// <inheritdoc />
    public override void LinearForward(Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y, bool accumulate) =>
        LinearKernels.Forward<T>(Device, scratch, UsesTensorCores, x, weight, bias, lora, loraInput, xa, y, accumulate);

    /// <inheritdoc />
    public override void LinearBackward(Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx, Slice dLoraInput, bool accumulate,
        Slice dA, Slice dB, Slice dWeight, Slice dBias) =>
        LinearKernels.Backward<T>(Device, scratch, UsesTensorCores, dy, x, loraInput, weight, lora, xa, dx, dLoraInput, accumulate, dA, dB, dWeight, dBias);

    /// <inheritdoc />
    public override void TokenLogProbs(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead,
        Slice entropyCoefficients = default) =>
        CrossEntropyKernels.Run<T>(Device, scratch, UsesTensorCores, hidden, head, targets, temperature, logprobs, entropy, coefficients, dHidden, dHead, entropyCoefficients);

    /// <inheritdoc />
    public override void ScalarHeadForward(Slice hidden, Slice weight, Slice values) => ScalarHeadKernels.Forward<T>(Device, hidden, weight, values);

    /// <inheritdoc />
    public override void ScalarHeadBackward(Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight) =>
        ScalarHeadKernels.Backward<T>(Device, scratch, dValues, hidden, weight, dHidden, dWeight);

    /// <inheritdoc />
    public override void Norm(Slice x, Slice result) => SumKernels.Norm(Device, scratch, x, result);

    /// <inheritdoc />
    public override void Sum(Slice x, double scale, Slice result, bool accumulate) => SumKernels.Sum(Device, scratch, x, scale, result, accumulate);

    /// <inheritdoc />
    public override void AdamW(Slice p, Slice g, Slice m, Slice v, AdamWStep step, Slice norm) => AdamWKernels.Step(Device, p, g, m, v, step, norm);

    /// <inheritdoc />
    public override void AdamW8Bit(Slice p, Slice g, Moments8Bit moments, AdamWStep step, Slice norm) => AdamW8BitKernels.Step(Device, p, g, moments, step, norm);

    /// <inheritdoc />
    public override void Sample(Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs, Slice draws = default) =>
        SamplerKernels.Draw<T>(Device, logits, rows, sampling, key, ids, logprobs, draws);

    /// <inheritdoc />
    protected override void DisposeDevice()
    {
        scratch.Dispose();
        Device.Return();
    }
}
