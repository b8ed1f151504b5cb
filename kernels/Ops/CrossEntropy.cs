// CrossEntropy: log-probabilities of target tokens under a large vocabulary, and in the same pass their gradient.
//
// Maths      z = hidden·headᵀ/temperature · logprob = z[target] − L, L = max z + ln Σ exp(z − max z) · entropy = L − Σ softmax(z)·z
// Grad       with p = softmax(z): dz = coefficient·(onehot(target) − p)/temperature − entropyCoefficient·p·(ln p + entropy)/temperature, ln p + entropy = z − Σ p·z
//            dHidden = dz·head · dHead += dzᵀ·hidden
// Shapes     hidden, dHidden [N, D] · head [V, D] of any format · targets [N] i32 · logprobs, entropy, coefficients, entropyCoefficients [N] · dHead [V, D]
// Layout     rows that are trained (target ≥ 0) are gathered, then taken in chunks [rows, V] of at most 32 MB; the others cost nothing.
//            dz overwrites the chunk of logits
// Launch     the products are Gemm's; between them a task is one row of the chunk
// Floor      2·n·V·D flops for n trained rows, 4·n·V·D more for both gradients; the head is read once per chunk and product
// Numerics   sums over V in T within 1,024 logits, then in double; finite for logits of any size; chunks are added to dHead in order: the same bits on any number of threads
// Source     Wijmans et al. 2024, arXiv:2411.09009: the loss and its gradient without the matrix of logits

using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>Target log-probabilities and their gradient on the host.</summary>
static unsafe class CrossEntropy
{
    // Small enough for the third-level cache or near it, large enough that reading the head again per chunk costs less than multiplying with it.
    const int ChunkBytes = 32 << 20, MinRows = 32;

    // Logits summed in T before the sum goes on in double: rounding does not grow with the vocabulary.
    const int Part = 1024;

    const string Operation = "TokenLogProbs";

    /// <inheritdoc cref="Backend.TokenLogProbs" />
    public static void Run<T>(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead,
        Slice entropyCoefficients) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Expect.Element<T>(Operation, nameof(hidden), hidden);
        Check(hidden, head, targets, temperature, logprobs, entropy, coefficients, dHidden, dHead, entropyCoefficients, hidden.Type, hidden.Type);
        Clear(logprobs);
        Clear(entropy);
        Clear(dHidden);
        int* trained = Scratch.Get<int>(ScratchSlot.TrainedRows, targets.Length);
        int count = Trained(targets, head.Rows, trained);

        int width = head.Columns, vocabulary = head.Rows;
        int chunk = (int)Math.Min(count, Math.Max(MinRows, ChunkBytes / ((long)vocabulary * sizeof(T))));
        T* logits = Scratch.Get<T>(ScratchSlot.Logits, (long)chunk * vocabulary);
        T* gathered = Scratch.Get<T>(ScratchSlot.Hidden, (long)chunk * width);
        for (int start = 0; start < count; start += chunk)
        {
            int rows = Math.Min(chunk, count - start);
            var job = new RowJob<T>(trained + start, width, vocabulary, T.CreateTruncating(1 / temperature), hidden.Pointer<T>(), targets.Pointer<int>(),
                logprobs.Pointer<T>(), entropy.Pointer<T>(), coefficients.Pointer<T>(), entropyCoefficients.Pointer<T>(), logits);
            job.Gather(rows, gathered);
            Gemm.Multiply(rows, T.One, gathered, width, head, true, T.Zero, logits, vocabulary);
            Workers.Run(rows, job);
            if (coefficients.IsEmpty)
            {
                continue;
            }

            if (!dHead.IsEmpty)
            {
                Gemm.Multiply(vocabulary, width, rows, T.One, logits, vocabulary, true, gathered, width, false, T.One, dHead.Pointer<T>(), width);
            }

            if (!dHidden.IsEmpty)
            {
                Gemm.Multiply(rows, T.One, logits, vocabulary, head, false, T.Zero, gathered, width);
                job.Scatter(rows, gathered, dHidden.Pointer<T>());
            }
        }
    }

    /// <summary>What every device asks of a call.</summary>
    public static void Check(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead,
        Slice entropyCoefficients, DType activation, DType parameter)
    {
        Expect.Type(Operation, nameof(targets), targets, DType.I32);
        Expect.Weight(Operation, nameof(head), head);
        Expect.Elements(Operation, activation, targets.Length * head.Columns, (nameof(hidden), hidden));
        if (!(temperature > 0 && double.IsFinite(temperature)))
        {
            throw new ArgumentOutOfRangeException(nameof(temperature), $"{Operation}: temperature is {temperature}, expected a positive number.");
        }

        Expect.Elements(Operation, parameter, targets.Length, (nameof(logprobs), logprobs));
        Expect.Optional(Operation, nameof(entropy), entropy, parameter, targets.Length);
        Expect.Optional(Operation, nameof(coefficients), coefficients, parameter, targets.Length);
        Expect.Optional(Operation, nameof(dHidden), dHidden, activation, hidden.Length);
        Expect.Optional(Operation, nameof(dHead), dHead, parameter, (long)head.Rows * head.Columns);
        Expect.That(!coefficients.IsEmpty || (dHidden.IsEmpty && dHead.IsEmpty), Operation, "a gradient is asked for without coefficients, expected ∂L/∂logprob of every row.");
        Expect.Optional(Operation, nameof(entropyCoefficients), entropyCoefficients, parameter, targets.Length);
        Expect.That(entropyCoefficients.IsEmpty || !coefficients.IsEmpty, Operation,
            "entropyCoefficients are given without coefficients, expected ∂L/∂logprob of every row beside ∂L/∂entropy. Pass zeros for a loss of the entropy alone.");
    }

    static void Clear(Slice slice)
    {
        if (!slice.IsEmpty)
        {
            Elementwise.Fill(slice, 0);
        }
    }

    static int Trained(Slice targets, int vocabulary, int* trained)
    {
        int count = 0;
        for (int i = 0; i < targets.Length; i++)
        {
            int target = targets.Pointer<int>()[i];
            if (target >= vocabulary)
            {
                throw new ArgumentOutOfRangeException(nameof(targets),
                    $"{Operation}: row {i} has target {target}, expected less than the vocabulary of {vocabulary}. Check that the tokenizer belongs to the model.");
            }

            if (target >= 0)
            {
                trained[count++] = i;
            }
        }

        return count;
    }

    /// <summary>Row i of the chunk is row trained[i] of the call. Turns its logits into a log-probability, and where there are coefficients into dz.</summary>
    readonly struct RowJob<T>(int* trained, int width, int vocabulary, T scale, T* hidden, int* targets, T* logprobs, T* entropy, T* coefficients,
        T* entropyCoefficients, T* logits) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            int row = trained[index], target = targets[row];
            T* z = logits + (long)index * vocabulary;
            var maximum = Lanes<T>.ScaleAndMax(z, vocabulary, scale);
            var shifted = z[target] - maximum; // first, so that a large maximum cancels no digits of the logarithm
            double total = 0, weighted = 0;
            T* scaled = null; // z as it is now, before it turns into its exponentials
            if (entropy != null || entropyCoefficients != null)
            {
                scaled = Scratch.Get<T>(ScratchSlot.ScaledLogits, vocabulary);
                new ReadOnlySpan<T>(z, vocabulary).CopyTo(new Span<T>(scaled, vocabulary));
            }

            for (int start = 0; start < vocabulary; start += Part)
            {
                int count = Math.Min(Part, vocabulary - start);
                total += double.CreateTruncating(Lanes<T>.ExpAndSum(z + start, count, maximum));
                weighted += scaled != null ? double.CreateTruncating(Lanes<T>.SumOfShifted(z + start, scaled + start, count, maximum)) : 0;
            }

            double log = Math.Log(total);
            logprobs[row] = T.CreateTruncating(double.CreateTruncating(shifted) - log);
            if (entropy != null)
            {
                entropy[row] = T.CreateTruncating(log - weighted / total);
            }

            if (coefficients != null)
            {
                T factor = coefficients[row] * scale, sum = T.CreateTruncating(total);
                if (entropyCoefficients == null)
                {
                    Lanes<T>.Scale(z, vocabulary, -factor / sum, z);
                }
                else
                {
                    var slope = entropyCoefficients[row] * scale;
                    Lanes<T>.TimesLinear(z, scaled, vocabulary, maximum, (slope * T.CreateTruncating(weighted / total) - factor) / sum, -slope / sum);
                }

                z[target] += factor;
            }
        }

        public void Gather(int rows, T* gathered)
        {
            for (int i = 0; i < rows; i++)
            {
                new ReadOnlySpan<T>(hidden + (long)trained[i] * width, width).CopyTo(new Span<T>(gathered + (long)i * width, width));
            }
        }

        public void Scatter(int rows, T* gathered, T* target)
        {
            for (int i = 0; i < rows; i++)
            {
                new ReadOnlySpan<T>(gathered + (long)i * width, width).CopyTo(new Span<T>(target + (long)trained[i] * width, width));
            }
        }
    }
}
