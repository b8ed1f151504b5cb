// Sampler: draws the next token of every row of logits.
//
// Maths      p = softmax(z/temperature); top-k keeps the k largest; top-p keeps the fewest largest whose share of what top-k kept reaches p;
//            the token is the first whose running sum of what is kept exceeds u · its total, u = key.Uniform(draw), where a row's draw is its own number, or the one it is given
// Shapes     logits [B, V] · ids, draws [B] i32 · logprobs [B]
// Launch     a task is one row
// Floor      bytes of the logits, two exponentials of each; kept tokens are taken off a heap built in V steps, log V each: V is never sorted
// Numerics   sums in T within 1,024 weights, then in double; order is by logit, then by id, so ties are cut the same way everywhere. Without filters tokens are summed in order of id
// Source     top-k: Fan et al. 2018, arXiv:1805.04833; top-p: Holtzman et al. 2019, arXiv:1904.09751

using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>Token sampling on the host.</summary>
static unsafe class Sampler
{
    const string Operation = "Sample";

    const int Part = 1024; // weights summed in T before the sum goes on in double

    /// <inheritdoc cref="Backend.Sample" />
    public static void Draw<T>(Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs, Slice draws) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Check(logits, rows, sampling, ids, logprobs, draws, logits.Type, logits.Type);
        Expect.Element<T>(Operation, nameof(logits), logits);
        if (rows > 0)
        {
            Workers.Run(rows, new RowJob<T>(logits.Pointer<T>(), checked((int)(logits.Length / rows)), sampling, key, ids.Pointer<int>(), logprobs.Pointer<T>(),
                draws.Pointer<int>()));
        }
    }

    /// <summary>What every device asks of a draw.</summary>
    public static void Check(Slice logits, int rows, Sampling sampling, Slice ids, Slice logprobs, Slice draws, DType activation, DType parameter)
    {
        Expect.Type(Operation, nameof(logits), logits, activation);
        Expect.That(rows >= 0 && (rows == 0 ? logits.Length == 0 : logits.Length > 0 && logits.Length % rows == 0), Operation,
            $"logits has {logits.Length} elements, expected {rows} rows of one vocabulary.");
        Expect.Type(Operation, nameof(ids), ids, DType.I32);
        Expect.Length(Operation, nameof(ids), ids, rows);
        if (!logprobs.IsEmpty)
        {
            Expect.Elements(Operation, parameter, rows, (nameof(logprobs), logprobs));
        }

        Expect.Optional(Operation, nameof(draws), draws, DType.I32, rows);

        if (!(sampling.Temperature >= 0 && double.IsFinite(sampling.Temperature)) || sampling.TopK < 0 || !(sampling.TopP is > 0 and <= 1))
        {
            throw new ArgumentOutOfRangeException(nameof(sampling),
                $"{Operation}: temperature {sampling.Temperature}, top_k {sampling.TopK}, top_p {sampling.TopP}, expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1.");
        }
    }

    readonly struct RowJob<T>(T* logits, int vocabulary, Sampling sampling, RandomKey key, int* ids, T* logprobs, int* draws) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            T* row = logits + (long)index * vocabulary;
            int best = Largest(row, index);
            double inverse = sampling.Temperature == 0 ? 1 : 1 / sampling.Temperature, total = 0;
            T* weights = Scratch.Get<T>(ScratchSlot.Logits, vocabulary); // unnormalised probabilities
            var scale = T.CreateTruncating(inverse);
            for (int i = 0; i < vocabulary; i++)
            {
                weights[i] = (row[i] - row[best]) * scale;
            }

            for (int start = 0; start < vocabulary; start += Part)
            {
                total += double.CreateTruncating(Lanes<T>.ExpAndSum(weights + start, Math.Min(Part, vocabulary - start), T.Zero));
            }

            bool all = (sampling.TopK == 0 || sampling.TopK >= vocabulary) && sampling.TopP == 1;
            double u = key.Uniform(draws == null ? (uint)index : (uint)draws[index]);
            int token = sampling.Temperature == 0 ? best : all ? Pick(weights, null, vocabulary, u * total) : Truncated(row, weights, total, u);
            ids[index] = token;
            if (logprobs != null)
            {
                logprobs[index] = T.CreateTruncating(double.CreateTruncating(row[token] - row[best]) * inverse - Math.Log(total));
            }
        }

        int Largest(T* row, int index)
        {
            int best = 0;
            for (int i = 0; i < vocabulary; i++)
            {
                if (T.IsNaN(row[i]))
                {
                    throw new ArithmeticException($"{Operation}: row {index} has a NaN logit at token {i}. The model diverged, or its weights are damaged.");
                }

                if (row[i] > row[best])
                {
                    best = i;
                }
            }

            if (!T.IsFinite(row[best]))
            {
                throw new ArithmeticException($"{Operation}: the largest logit of row {index} is {row[best]}, expected a finite one.");
            }

            return best;
        }

        /// <summary>Takes tokens off a heap, most likely first, until the filters are met, and picks one of them.</summary>
        int Truncated(T* row, T* weights, double total, double u)
        {
            int* heap = Scratch.Get<int>(ScratchSlot.Candidates, vocabulary);
            for (int i = 0; i < vocabulary; i++)
            {
                heap[i] = i;
            }

            for (int i = vocabulary / 2 - 1; i >= 0; i--)
            {
                Sink(row, heap, i, vocabulary);
            }

            // What is taken off is kept at the end of the array, the most likely last.
            int limit = sampling.TopK == 0 ? vocabulary : Math.Min(sampling.TopK, vocabulary);
            double enough = sampling.TopK == 0 ? sampling.TopP * total : double.PositiveInfinity, kept = 0;
            int count = 0;
            while (count < limit && kept < enough)
            {
                count++;
                (heap[0], heap[vocabulary - count]) = (heap[vocabulary - count], heap[0]);
                Sink(row, heap, 0, vocabulary - count);
                kept += double.CreateTruncating(weights[heap[vocabulary - count]]);
            }

            // With both filters, top-p is a share of what top-k kept.
            if (sampling.TopK > 0 && sampling.TopP < 1)
            {
                (enough, kept, limit, count) = (sampling.TopP * kept, 0, count, 0);
                while (count < limit && kept < enough)
                {
                    count++;
                    kept += double.CreateTruncating(weights[heap[vocabulary - count]]);
                }
            }

            return Pick(weights, heap, count, u * kept);
        }

        /// <summary>The first of <paramref name="count"/> tokens, in order of id or from the end of the heap, whose running sum exceeds <paramref name="at"/>.</summary>
        int Pick(T* weights, int* heap, int count, double at)
        {
            int token = 0;
            double sum = 0;
            for (int i = 0; i < count && sum <= at; i++)
            {
                int candidate = heap == null ? i : heap[vocabulary - 1 - i];
                if (weights[candidate] > T.Zero)
                {
                    token = candidate;
                    sum += double.CreateTruncating(weights[candidate]);
                }
            }

            return token;
        }

        void Sink(T* row, int* heap, int at, int count)
        {
            int moved = heap[at];
            for (int child = 2 * at + 1; child < count; child = 2 * at + 1)
            {
                if (child + 1 < count && Before(row, heap[child + 1], heap[child]))
                {
                    child++;
                }

                if (!Before(row, heap[child], moved))
                {
                    break;
                }

                heap[at] = heap[child];
                at = child;
            }

            heap[at] = moved;
        }

        static bool Before(T* row, int a, int b) => row[a] > row[b] || (row[a] == row[b] && a < b);
    }
}
