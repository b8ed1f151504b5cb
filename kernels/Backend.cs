namespace IlgpuPeft.Kernels;

/// <summary>
/// The coarse operations that a device must provide: the forward and backward pass of every fused step of a decoder.
/// Tensors are row-major <see cref="Slice"/>s. N is the number of tokens in the call (all sequences of a packed batch in a row),
/// D the model width, H and G the query and key/value heads, C the head width, O and K output and input features, R a LoRA rank, V the vocabulary.
/// An optional slice is left out by passing <c>default</c>. Gradients of parameters are always added to what is there; gradients of
/// activations are written, or added where a method says <c>accumulate</c>.
/// Calls are queued in order; only <see cref="Download"/> and <see cref="Synchronize"/> wait.
/// </summary>
public abstract class Backend : IDisposable
{
    /// <summary>The name that opened it: <c>cpu</c>, <c>cuda:0</c> ...</summary>
    public abstract string Name { get; }

    /// <summary>Element type of activations, and of their gradients.</summary>
    public abstract DType Activation { get; }

    /// <summary>Element type of trainable parameters, their gradients, norm weights, and optimizer state.</summary>
    public abstract DType Parameter { get; }

    /// <summary>Whether the device is the host: then calls return when their work is done, and a download costs nothing.</summary>
    public virtual bool IsHost => false;

    /// <summary>Bytes, by owner, of what is allocated now and at most.</summary>
    public MemoryAccount Memory { get; } = new();

    /// <summary>
    /// Bytes of working memory that kernels hold beside <see cref="Memory"/>: on the host, packed panels and partial results of every thread of this process, which grow
    /// to the largest call so far and are kept; so this is also their peak.
    /// </summary>
    public virtual long ScratchBytes => 0;

    /// <summary>Reserves <paramref name="length"/> zeroed elements, aligned to 256 bytes, until <see cref="Free"/>.</summary>
    /// <param name="type">Element type.</param>
    /// <param name="length">Number of elements; zero is allowed.</param>
    /// <param name="owner">Whom reports name: <c>weights</c>, <c>adapters</c>, <c>optimizer</c>, <c>activations</c>, <c>kv cache</c>.</param>
    /// <exception cref="DeviceMemoryException">The device has no room.</exception>
    public Slice Allocate(DType type, long length, string owner)
    {
        long bytes = Math.Max(1, length) * type.Size();
        nint address;
        try
        {
            address = AllocateBytes(bytes);
        }
        catch (OutOfMemoryException cause)
        {
            throw Memory.NoRoom(Name, bytes, owner, Room, cause);
        }

        var slice = new Slice(address, length, type);
        Memory.Add(owner, slice, bytes);
        return slice;
    }

    /// <summary>Gives back what <see cref="Allocate"/> returned; <c>default</c> is nothing, and nothing happens.</summary>
    /// <exception cref="InvalidOperationException">The slice was never allocated, was freed before, or is a range of an allocation.</exception>
    public void Free(Slice slice)
    {
        if (slice.IsEmpty)
        {
            return;
        }

        Memory.Remove(slice);
        FreeBytes(slice.Address);
    }

    /// <summary>Bytes that the device has free and has in all; null where memory is the host's.</summary>
    protected virtual (long Free, long Total)? Room => null;

    /// <summary>Reserves zeroed bytes aligned to 256.</summary>
    protected abstract nint AllocateBytes(long bytes);

    /// <summary>Gives back what <see cref="AllocateBytes"/> returned.</summary>
    protected abstract void FreeBytes(nint address);

    /// <summary>Copies host bytes to the device; both hold the same element type. A span holds less than 2 GiB: more goes in ranges of the slice.</summary>
    public abstract void Upload(ReadOnlySpan<byte> source, Slice destination);

    /// <summary>Waits for queued work, then copies device bytes to the host; more than a span holds comes in ranges, as in <see cref="Upload"/>.</summary>
    /// <exception cref="KernelException">Queued work failed.</exception>
    public abstract void Download(Slice source, Span<byte> destination);

    /// <summary>
    /// Queues a copy of at most 256 bytes to the host behind the work that is queued now, and returns at once: so a step's loss is read while the next step runs. The slice must live
    /// until <see cref="PendingRead.Wait"/>.
    /// </summary>
    public abstract PendingRead ReadLater(Slice source);

    /// <summary>Copies elements, converting between floating types (rounding to nearest even); F64 only on the host backend.</summary>
    public abstract void Copy(Slice source, Slice destination);

    /// <summary>Sets every element.</summary>
    public abstract void Fill(Slice destination, double value);

    /// <summary>Waits until all queued work is done.</summary>
    /// <exception cref="KernelException">It failed.</exception>
    public abstract void Synchronize();

    /// <summary>y += scale · x.</summary>
    public abstract void Add(Slice x, double scale, Slice y);

    /// <summary>
    /// Inverted dropout: y = x · mask / (1 - p), mask[i] = key.Uniform(i) ≥ p. The mask is drawn again from the key in the backward pass,
    /// which is the same operation applied to the gradient. With <paramref name="accumulate"/>, y += instead.
    /// </summary>
    public abstract void Dropout(Slice x, double p, RandomKey key, Slice y, bool accumulate);

    /// <summary>
    /// y[i] = x[rows[i]] for rows of <paramref name="width"/> elements; <paramref name="rows"/> is I32. An index outside x throws <see cref="ArgumentOutOfRangeException"/> on the host
    /// backend, and gives zeros where kernels run.
    /// </summary>
    public abstract void GatherRows(Slice x, Slice rows, int width, Slice y);

    /// <summary>
    /// y[rows[i]] = x[i], or with <paramref name="accumulate"/> y[rows[i]] += x[i], the backward pass of <see cref="GatherRows"/>: repeated rows then add up in the order of i.
    /// An index outside y throws on the host backend; where kernels run, its row is left out.
    /// </summary>
    public abstract void ScatterRows(Slice x, Slice rows, int width, Slice y, bool accumulate);

    /// <summary>
    /// y[i] = table[ids[i]]: y [N, D], ids I32 [N]. An id outside the table throws <see cref="ArgumentOutOfRangeException"/> on the host backend, and gives zeros where kernels run. The table
    /// is dense there.
    /// </summary>
    public abstract void EmbeddingForward(Slice ids, Weight table, Slice y);

    /// <summary>dTable[ids[i]] += dy[i], in the order of i. dTable is in <see cref="Parameter"/>'s type; ids outside it are as in <see cref="ScatterRows"/>.</summary>
    public abstract void EmbeddingBackward(Slice ids, Slice dy, Slice dTable);

    /// <summary>
    /// y = x · rstd · weight with rstd = 1/√(mean(x²) + eps), per row of <c>weight.Length</c> elements; keeps rstd [rows] for the backward pass
    /// (Zhang and Sennrich 2019, arXiv:1910.07467). <paramref name="rstd"/> may be left out. A <paramref name="residual"/> is first added to x, in place: x += residual, in one pass
    /// with the norm; then y is other memory than x. The gradient of both summands is dx of <see cref="RmsNormBackward"/>, added to what else x's gradient holds.
    /// </summary>
    public abstract void RmsNormForward(Slice x, Slice weight, double eps, Slice y, Slice rstd, Slice residual = default);

    /// <summary>Gradients of <see cref="RmsNormForward"/>: dx (added if <paramref name="accumulate"/>), dWeight added; either may be left out.</summary>
    public abstract void RmsNormBackward(Slice dy, Slice x, Slice weight, Slice rstd, Slice dx, bool accumulate, Slice dWeight);

    /// <summary>
    /// Rotates pairs (i, i + C/2) of every head of x [N, heads, C] in place by the angle of its position (Su et al. 2021, arXiv:2104.09864; the half-split
    /// layout of Hugging Face checkpoints). cos and sin are host-made tables [positions, C/2] of F32; positions is I32 [N].
    /// <paramref name="inverse"/> rotates back: the backward pass. A position outside the tables throws <see cref="ArgumentOutOfRangeException"/> on the host backend; where kernels run, its
    /// token stays as it is.
    /// </summary>
    public abstract void Rope(Slice x, Slice cos, Slice sin, Slice positions, int heads, int headWidth, bool inverse);

    /// <summary>
    /// Causal grouped-query attention with an online softmax: y[i, h] = Σ_j softmax_j(scale · q[i, h]·k[j, g]) v[j, g], g = h / (H/G).
    /// q, y [N, H, C]; k, v [M, G, C]; lse [N, H] keeps log Σ exp for the backward pass and may be left out. No N × M matrix is stored.
    /// </summary>
    /// <param name="shape">Heads, width, scale, window.</param>
    /// <param name="q">Queries.</param>
    /// <param name="k">Keys.</param>
    /// <param name="v">Values.</param>
    /// <param name="sequences">
    /// I32 [S, 4]: for each sequence the first query row, the number of queries, the first key row, the number of keys (≥ queries). The last query sees the last key, so query i of
    /// a sequence sees keys 0 ... keys - queries + i, the last <see cref="AttentionShape.Window"/> of them. Packed training has equal counts;
    /// decoding has one query and the keys of a cache; a learned prefix adds keys in front.
    /// </param>
    /// <param name="y">Output.</param>
    /// <param name="lse">Log of the softmax's denominator, or left out.</param>
    public abstract void AttentionForward(AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse);

    /// <summary>Gradients of <see cref="AttentionForward"/>, recomputing the probabilities from lse; dq, dk and dv are written, not added.</summary>
    public abstract void AttentionBackward(AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse, Slice dq, Slice dk, Slice dv);

    /// <summary>y = silu(gate) · up, element by element (Shazeer 2020, arXiv:2002.05202).</summary>
    public abstract void SwiGluForward(Slice gate, Slice up, Slice y);

    /// <summary>dGate and dUp, written; each may be the same memory as gate and up.</summary>
    public abstract void SwiGluBackward(Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp);

    /// <summary>
    /// y (+)= x·Wᵀ + bias + scale·(loraInput·Aᵀ)·Bᵀ. x, loraInput [N, K] (the same memory unless dropout is on), y [N, O];
    /// xa [N, R] receives loraInput·Aᵀ, which the backward pass needs (Hu et al. 2021, arXiv:2106.09685). With <paramref name="accumulate"/>, y is added to.
    /// </summary>
    public abstract void LinearForward(Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y, bool accumulate);

    /// <summary>
    /// Gradients of <see cref="LinearForward"/>; every gradient slice may be left out. dx = dy·W (+ the LoRA path, which goes to dLoraInput instead where that is given),
    /// added to dx and dLoraInput if <paramref name="accumulate"/>; dA [R, K], dB [O, R], dWeight [O, K] and dBias [O] are added to.
    /// </summary>
    public abstract void LinearBackward(Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx, Slice dLoraInput, bool accumulate,
        Slice dA, Slice dB, Slice dWeight, Slice dBias);

    /// <summary>
    /// Log-probabilities of target tokens under logits = hidden·headᵀ / temperature, in chunks of rows, so that the logits [N, V] are never whole
    /// (Wijmans et al. 2024, arXiv:2411.09009). Rows whose target is negative (-100) are skipped and get log-probability 0. A target of V or more throws
    /// <see cref="ArgumentOutOfRangeException"/> on the host backend; elsewhere its log-probability is NaN, and the row has no gradient.
    /// With <paramref name="coefficients"/>, the same pass writes the gradient of L, where coefficients[i] = ∂L/∂logprob[i] and <paramref name="entropyCoefficients"/>[i] = ∂L/∂entropy[i],
    /// as a policy's entropy bonus has it (Schulman et al. 2017, arXiv:1707.06347, equation 9).
    /// </summary>
    /// <param name="hidden">[N, D].</param>
    /// <param name="head">[V, D].</param>
    /// <param name="targets">I32 [N].</param>
    /// <param name="temperature">Divides the logits; 1 for training on text.</param>
    /// <param name="logprobs">[N], in <see cref="Parameter"/>'s type.</param>
    /// <param name="entropy">[N], the entropy -Σ p ln p of each row's distribution (of the temperature-scaled logits), or left out.</param>
    /// <param name="coefficients">[N], in <see cref="Parameter"/>'s type, or left out for no gradients. Supervised training passes -1 / (trained tokens).</param>
    /// <param name="dHidden">[N, D], written (zero for skipped rows), or left out.</param>
    /// <param name="dHead">[V, D], added to, or left out.</param>
    /// <param name="entropyCoefficients">
    /// [N], in <see cref="Parameter"/>'s type, or left out for a loss without entropy. It needs <paramref name="coefficients"/> beside it, of zeros if the loss has nothing but entropy; it does
    /// not need <paramref name="entropy"/>.
    /// </param>
    /// <exception cref="ArgumentException">A shape or type is not as said, or a gradient or <paramref name="entropyCoefficients"/> is given without <paramref name="coefficients"/>.</exception>
    public abstract void TokenLogProbs(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead,
        Slice entropyCoefficients = default);

    /// <summary>
    /// values[i] = hidden[i]·weight: the head of a reward or value model (Stiennon et al. 2020, arXiv:2009.01325). hidden [N, D]; weight [D] and values [N] in <see cref="Parameter"/>'s type.
    /// </summary>
    public abstract void ScalarHeadForward(Slice hidden, Slice weight, Slice values);

    /// <summary>
    /// Gradients of <see cref="ScalarHeadForward"/>; either may be left out. dHidden[i] = dValues[i]·weight, written, so rows whose dValues is 0 get zeros; it may be the same memory as hidden.
    /// dWeight += Σ_i dValues[i]·hidden[i], in a fixed order.
    /// </summary>
    public abstract void ScalarHeadBackward(Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight);

    /// <summary>result[0] = √Σ x², summed in double in a fixed order. x and result, one element, are in <see cref="Parameter"/>'s type.</summary>
    public abstract void Norm(Slice x, Slice result);

    /// <summary>
    /// result[0] = scale · Σ x, or with <paramref name="accumulate"/> result[0] += that, summed in double in a fixed order. x and result, one element, are in <see cref="Parameter"/>'s type.
    /// </summary>
    public abstract void Sum(Slice x, double scale, Slice result, bool accumulate);

    /// <summary>
    /// One AdamW step (Loshchilov and Hutter 2019, arXiv:1711.05101) over flat parameters p with gradients g and moments m, v. Gradients are first scaled by
    /// min(1, MaxNorm / (norm + 1e-6)) as PyTorch's clip_grad_norm_ does; <paramref name="norm"/> stays on the device.
    /// </summary>
    public abstract void AdamW(Slice p, Slice g, Slice m, Slice v, AdamWStep step, Slice norm);

    /// <summary>
    /// <see cref="AdamW"/> with moments in 8 bits (Dettmers et al. 2022, arXiv:2110.02861), as bitsandbytes computes it: decay follows the step, and the new moments are quantised after p
    /// was computed from them. Blocks of 256 elements run over p, whatever parameters it is made of.
    /// </summary>
    public abstract void AdamW8Bit(Slice p, Slice g, Moments8Bit moments, AdamWStep step, Slice norm);

    /// <summary>
    /// Draws one token per row of logits [B, V]: ids I32 [B], and its log-probability under the temperature-scaled, untruncated distribution (or left out).
    /// Row i draws <paramref name="key"/>.Uniform(i), or with <paramref name="draws"/> (I32 [B]) key.Uniform(draws[i]): where that is the number of a sequence, what the sequence draws does
    /// not depend on which others are in the batch with it. Temperature 0 takes the largest logit, the first of equals.
    /// A row with a NaN logit, or whose largest is not finite, throws <see cref="ArithmeticException"/> on the host backend; elsewhere it gets id -1 and log-probability NaN.
    /// </summary>
    public abstract void Sample(Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs, Slice draws = default);

    /// <inheritdoc />
    public void Dispose()
    {
        foreach (nint address in Memory.Clear())
        {
            FreeBytes(address);
        }

        DisposeDevice();
        GC.SuppressFinalize(this);
    }

    /// <summary>Gives back what the device itself holds, after all its memory is freed.</summary>
    protected virtual void DisposeDevice()
    {
    }
}

/// <summary>The constants of an attention call.</summary>
/// <param name="Heads">Query heads H.</param>
/// <param name="KeyValueHeads">Key/value heads G; divides H.</param>
/// <param name="HeadWidth">Elements per head C.</param>
/// <param name="Scale">Factor on q·k, normally 1/√C.</param>
/// <param name="Window">A query sees at most this many keys, itself included; 0 for all.</param>
public readonly record struct AttentionShape(int Heads, int KeyValueHeads, int HeadWidth, double Scale, int Window = 0);

/// <summary>The factors of one low-rank update ΔW = Scale · B·A.</summary>
/// <param name="A">[R, K], in <see cref="Backend.Parameter"/>'s type.</param>
/// <param name="B">[O, R], likewise.</param>
/// <param name="Rank">R.</param>
/// <param name="Scale">alpha / R, or alpha / √R with rank-stabilised LoRA.</param>
public readonly record struct LoraFactors(Slice A, Slice B, int Rank, double Scale);

/// <summary>The constants of one AdamW step.</summary>
/// <param name="Step">Counts from 1; corrects the moments' bias.</param>
/// <param name="LearningRate">Step size.</param>
/// <param name="Beta1">Decay of the first moment.</param>
/// <param name="Beta2">Decay of the second moment.</param>
/// <param name="Epsilon">Added to the denominator.</param>
/// <param name="WeightDecay">Decoupled decay, times the learning rate.</param>
/// <param name="MaxNorm">Gradients are scaled down to this global norm; 0 for no clipping.</param>
/// <param name="Decaying">How many elements, from the first, weight decay applies to.</param>
public readonly record struct AdamWStep(int Step, double LearningRate, double Beta1, double Beta2, double Epsilon, double WeightDecay, double MaxNorm, long Decaying = long.MaxValue);

/// <summary>How a token is drawn. The filters apply in this order: temperature, top-k, top-p.</summary>
/// <param name="Temperature">Divides the logits; 0 is greedy.</param>
/// <param name="TopK">Keeps the k most likely tokens; 0 keeps all.</param>
/// <param name="TopP">Keeps the smallest set of most likely tokens whose probability reaches p; 1 keeps all.</param>
public readonly record struct Sampling(double Temperature = 1, int TopK = 0, double TopP = 1);
