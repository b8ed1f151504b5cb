using System.Runtime.InteropServices;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>One operation at one shape: what it must move and compute at least, as the headers of its kernels count it, and how to run it.</summary>
/// <param name="Operation">The name of the backend's operation, and which form of it.</param>
/// <param name="Bytes">Fewest bytes of device memory.</param>
/// <param name="Flops">Floating-point operations of matrix products; 0 where memory binds.</param>
/// <param name="Prepare">Allocates inputs and outputs, and returns what runs once.</param>
sealed record KernelCase(string Operation, long Bytes, long Flops, Func<CaseMemory, Action> Prepare)
{
    /// <summary>Every operation of a training step and of decoding, at the shapes of one layer.</summary>
    public static IEnumerable<KernelCase> All(CaseShape shape, DType activation) =>
        [.. RowCases(shape, activation.Size()), .. AttentionCases(shape, activation.Size()), .. ProductCases(shape, activation.Size()), .. ParameterCases(shape), .. SamplerCases(shape, activation.Size())];

    /// <summary>Operations on rows of activations, which memory binds.</summary>
    static IEnumerable<KernelCase> RowCases(CaseShape s, long e)
    {
        int n = s.Tokens, d = s.Width, q = s.Heads * s.HeadWidth;
        long count = (long)n * d, x = e * count, inner = (long)n * s.Hidden;
        int[] backwards = [.. Enumerable.Range(0, n).Reverse()];

        yield return new("Copy from F32", (4 + e) * count, 0, m => { Slice a = m.Parameter(count), y = m.Output(count); return () => m.Backend.Copy(a, y); });
        yield return new("Copy", 2 * x, 0, m => { Slice a = m.Random(count), y = m.Output(count); return () => m.Backend.Copy(a, y); });
        yield return new("Fill", x, 0, m => { Slice y = m.Output(count); return () => m.Backend.Fill(y, 0.5); });
        yield return new("Add", 3 * x, 0, m => { Slice a = m.Random(count), y = m.Output(count); return () => m.Backend.Add(a, 1e-3, y); });
        yield return new("Dropout", 2 * x, 0, m => { Slice a = m.Random(count), y = m.Output(count); return () => m.Backend.Dropout(a, 0.1, new(1, 2, 3), y, false); });
        yield return new("Dropout, added", 3 * x, 0, m => { Slice a = m.Random(count), y = m.Output(count); return () => m.Backend.Dropout(a, 0.1, new(1, 2, 3), y, true); });
        yield return new("GatherRows", 2 * x + 4 * n, 0, m => { Slice a = m.Random(count), rows = m.Put(backwards), y = m.Output(count); return () => m.Backend.GatherRows(a, rows, d, y); });
        yield return new("ScatterRows", 2 * x + 4 * n, 0, m => { Slice a = m.Random(count), rows = m.Put(backwards), y = m.Output(count); return () => m.Backend.ScatterRows(a, rows, d, y, false); });
        yield return new("ScatterRows, added", 3 * x + 4 * n, 0, m => { Slice a = m.Random(count), rows = m.Put(backwards), y = m.Output(count); return () => m.Backend.ScatterRows(a, rows, d, y, true); });
        yield return new("EmbeddingForward", (2 + e) * count, 0, m =>
        {
            Slice ids = m.Integers(n, s.Vocabulary), y = m.Output(count);
            Weight table = m.Weight(s.Vocabulary, d, WeightStorage.AsStored);
            return () => m.Backend.EmbeddingForward(ids, table, y);
        });
        yield return new("EmbeddingBackward", (e + 8) * count, 0, m =>
        {
            Slice ids = m.Put(backwards), dy = m.Random(count), dTable = m.OutputParameter((long)s.Vocabulary * d);
            return () => m.Backend.EmbeddingBackward(ids, dy, dTable);
        });
        yield return new("RmsNormForward", 2 * x, 0, m =>
        {
            Slice a = m.Random(count), w = m.Parameter(d), y = m.Output(count), rstd = m.OutputParameter(n);
            return () => m.Backend.RmsNormForward(a, w, 1e-5, y, rstd);
        });
        yield return new("RmsNormForward + residual", 4 * x, 0, m =>
        {
            Slice a = m.Output(count), w = m.Parameter(d), residual = m.Random(count), y = m.Output(count), rstd = m.OutputParameter(n);
            return () => m.Backend.RmsNormForward(a, w, 1e-5, y, rstd, residual);
        });
        yield return new("RmsNormBackward", 3 * x, 0, m => RmsNormBackward(m, accumulate: false, dWeight: false));
        yield return new("RmsNormBackward, added", 4 * x, 0, m => RmsNormBackward(m, accumulate: true, dWeight: false));
        yield return new("RmsNormBackward + dWeight", 3 * x, 0, m => RmsNormBackward(m, accumulate: false, dWeight: true));
        yield return new("ScalarHeadForward", x, 0, m =>
        {
            Slice a = m.Random(count), w = m.Parameter(d), values = m.OutputParameter(n);
            return () => m.Backend.ScalarHeadForward(a, w, values);
        });
        yield return new("ScalarHeadBackward", x, 0, m => ScalarHeadBackward(m, dWeight: false));
        yield return new("ScalarHeadBackward + dWeight", 2 * x, 0, m => ScalarHeadBackward(m, dWeight: true));
        yield return new("Rope", 2 * e * n * q + 4L * n * s.HeadWidth, 0, m =>
        {
            Slice a = m.Output((long)n * q), cos = m.Parameter((long)n * s.HeadWidth / 2), sin = m.Parameter((long)n * s.HeadWidth / 2), positions = m.Put([.. Enumerable.Range(0, n)]);
            return () => m.Backend.Rope(a, cos, sin, positions, s.Heads, s.HeadWidth, false);
        });
        yield return new("SwiGluForward", 3 * e * inner, 0, m =>
        {
            Slice gate = m.Random(inner), up = m.Random(inner), y = m.Output(inner);
            return () => m.Backend.SwiGluForward(gate, up, y);
        });
        yield return new("SwiGluBackward", 5 * e * inner, 0, m =>
        {
            Slice gate = m.Random(inner), up = m.Random(inner), dy = m.Random(inner), dGate = m.Output(inner), dUp = m.Output(inner);
            return () => m.Backend.SwiGluBackward(dy, gate, up, dGate, dUp);
        });

        Action RmsNormBackward(CaseMemory m, bool accumulate, bool dWeight)
        {
            Slice a = m.Random(count), dy = m.Random(count), w = m.Parameter(d), rstd = m.Parameter(n), dx = m.Output(count), dw = dWeight ? m.OutputParameter(d) : default;
            return () => m.Backend.RmsNormBackward(dy, a, w, rstd, dx, accumulate, dw);
        }

        Action ScalarHeadBackward(CaseMemory m, bool dWeight)
        {
            Slice dValues = m.Parameter(n), a = m.Random(count), w = m.Parameter(d), dHidden = m.Output(count), dw = dWeight ? m.OutputParameter(d) : default;
            return () => m.Backend.ScalarHeadBackward(dValues, a, w, dHidden, dw);
        }
    }

    /// <summary>Attention over one packed sequence, and of 16 sequences that decode a token each.</summary>
    static IEnumerable<KernelCase> AttentionCases(CaseShape s, long e)
    {
        int n = s.Tokens, keys = Math.Min(2048, 8 * n);
        long q = s.Heads * s.HeadWidth, g = s.KeyValueHeads * s.HeadWidth, visible = (long)n * (n + 1) / 2;
        AttentionShape attention = new(s.Heads, s.KeyValueHeads, s.HeadWidth, 1 / Math.Sqrt(s.HeadWidth));

        yield return new("AttentionForward", e * n * (2 * q + 2 * g), 4 * visible * q, m =>
        {
            Slice query = m.Random(n * q), k = m.Random(n * g), v = m.Random(n * g), y = m.Output(n * q), lse = m.OutputParameter((long)n * s.Heads), sequences = m.Put([0, n, 0, n]);
            return () => m.Backend.AttentionForward(attention, query, k, v, sequences, y, lse);
        });
        yield return new("AttentionBackward", e * n * (4 * q + 4 * g), 10 * visible * q, m =>
        {
            Slice query = m.Random(n * q), k = m.Random(n * g), v = m.Random(n * g), y = m.Activation(n * q), lse = m.OutputParameter((long)n * s.Heads);
            Slice dy = m.Random(n * q), dq = m.Output(n * q), dk = m.Output(n * g), dv = m.Output(n * g), sequences = m.Put([0, n, 0, n]);
            m.Backend.AttentionForward(attention, query, k, v, sequences, y, lse);
            return () => m.Backend.AttentionBackward(attention, dy, query, k, v, sequences, y, lse, dq, dk, dv);
        });
        yield return new("AttentionForward, decode x16", e * 16 * (2 * keys * g + 2 * q), 0, m =>
        {
            Slice query = m.Random(16 * q), k = m.Random(16 * keys * g), v = m.Random(16 * keys * g), y = m.Output(16 * q);
            Slice sequences = m.Put([.. Enumerable.Range(0, 16).SelectMany(i => new[] { i, 1, i * keys, keys })]);
            return () => m.Backend.AttentionForward(attention, query, k, v, sequences, y, default);
        });
    }

    /// <summary>Products with weights [F, D] and with the head.</summary>
    static IEnumerable<KernelCase> ProductCases(CaseShape s, long e)
    {
        int n = s.Tokens, d = s.Width, f = s.Hidden, r = s.Rank, v = s.Vocabulary;
        long product = 2L * n * d * f, update = 2L * n * r * (d + f), moved = e * n * (2L * d + f);

        foreach (var (form, rows) in ((string, int)[])[("", n), (", decode x16", 16), (", decode x1", 1)])
        {
            foreach (var storage in Enum.GetValues<WeightStorage>())
            {
                yield return Forward($"LinearForward {Name(storage)}{form}", rows, storage, lora: false);
            }

            yield return Forward($"LinearForward NF4 double + LoRA{form}", rows, WeightStorage.Nf4Double, lora: true);
        }

        yield return new("LinearBackward NF4 double", WeightBytes(f, d, WeightStorage.Nf4Double) + e * n * ((long)d + f), product, m =>
        {
            Slice dy = m.Random((long)n * f), a = m.Random((long)n * d), dx = m.Output((long)n * d);
            Weight weight = m.Weight(f, d, WeightStorage.Nf4Double);
            return () => m.Backend.LinearBackward(dy, a, default, weight, null, default, dx, default, false, default, default, default, default);
        });
        yield return new("LinearBackward NF4 double + LoRA", WeightBytes(f, d, WeightStorage.Nf4Double) + moved, product + 2 * update, m =>
        {
            Slice dy = m.Random((long)n * f), a = m.Random((long)n * d), xa = m.Random((long)n * r), dx = m.Output((long)n * d);
            Slice dA = m.OutputParameter((long)r * d), dB = m.OutputParameter((long)f * r);
            Weight weight = m.Weight(f, d, WeightStorage.Nf4Double);
            LoraFactors lora = m.Lora(f, d, r);
            return () => m.Backend.LinearBackward(dy, a, a, weight, lora, xa, dx, default, false, dA, dB, default, default);
        });
        yield return new("LinearBackward BF16 + dWeight, dBias", WeightBytes(f, d, WeightStorage.AsStored) + moved + 8L * f * d, 2 * product, m =>
        {
            Slice dy = m.Random((long)n * f), a = m.Random((long)n * d), dx = m.Output((long)n * d), dWeight = m.OutputParameter((long)f * d), dBias = m.OutputParameter(f);
            Weight weight = m.Weight(f, d, WeightStorage.AsStored);
            return () => m.Backend.LinearBackward(dy, a, default, weight, null, default, dx, default, false, default, default, dWeight, dBias);
        });
        yield return LogProbs("TokenLogProbs, no gradients", 1, dHidden: false, dHead: false);
        yield return LogProbs("TokenLogProbs", 2, dHidden: true, dHead: false);
        yield return LogProbs("TokenLogProbs + dHead", 3, dHidden: true, dHead: true);
        yield return LogProbs("TokenLogProbs, entropy too", 2, dHidden: true, dHead: false, ofEntropy: true);

        KernelCase Forward(string name, int rows, WeightStorage storage, bool lora) => new(
            name, WeightBytes(f, d, storage) + e * rows * ((long)d + f), 2L * rows * f * d + (lora ? 2L * rows * r * (d + f) : 0), m =>
            {
                Slice a = m.Random((long)rows * d), y = m.Output((long)rows * f), xa = lora ? m.Activation((long)rows * r) : default;
                Weight weight = m.Weight(f, d, storage);
                LoraFactors? factors = lora ? m.Lora(f, d, r) : null;
                return () => m.Backend.LinearForward(a, weight, default, factors, a, xa, y, false);
            });

        KernelCase LogProbs(string name, int products, bool dHidden, bool dHead, bool ofEntropy = false) => new(
            name, 2L * v * d + e * n * d * (dHidden ? 2 : 1) + (dHead ? 8L * v * d : 0), products * 2L * n * d * v, m =>
            {
                Slice hidden = m.Random((long)n * d), targets = m.Integers(n, v), logprobs = m.OutputParameter(n), entropy = products == 1 || ofEntropy ? m.OutputParameter(n) : default;
                Slice coefficients = dHidden ? m.Parameter(n) : default, gradient = dHidden ? m.Output((long)n * d) : default, headGradient = dHead ? m.OutputParameter((long)v * d) : default;
                Slice entropyCoefficients = ofEntropy ? m.Parameter(n) : default;
                Weight head = m.Weight(v, d, WeightStorage.AsStored);
                return () => m.Backend.TokenLogProbs(hidden, head, targets, 1, logprobs, entropy, coefficients, gradient, headGradient, entropyCoefficients);
            });
    }

    /// <summary>Operations of the optimizer, on as many parameters as some layers' adapters have.</summary>
    static IEnumerable<KernelCase> ParameterCases(CaseShape s)
    {
        long count = 20L * s.Rank * (s.Width + s.Hidden), blocks = Moments8Bit.Blocks(count);
        AdamWStep step = new(10, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1);
        yield return new("Norm", 4 * count, 0, m => { Slice a = m.Parameter(count), y = m.OutputParameter(1); return () => m.Backend.Norm(a, y); });
        yield return new("Sum", 4 * count, 0, m => { Slice a = m.Parameter(count), y = m.OutputParameter(1); return () => m.Backend.Sum(a, 1, y, false); });
        yield return new("AdamW", 28 * count, 0, m =>
        {
            Slice p = m.OutputParameter(count), gradient = m.Parameter(count), first = m.OutputParameter(count), second = m.OutputParameter(count), norm = m.Parameter(1);
            return () => m.Backend.AdamW(p, gradient, first, second, step, norm);
        });
        yield return new("AdamW8Bit", 16 * count + 16 * blocks, 0, m =>
        {
            Slice p = m.OutputParameter(count), gradient = m.Parameter(count), norm = m.Parameter(1);
            Moments8Bit moments = new(m.Bytes(count), m.OutputParameter(blocks), m.Bytes(count), m.OutputParameter(blocks), m.OutputParameter(Moments8Bit.MapValues.Length));
            m.Backend.Upload(MemoryMarshal.AsBytes(Moments8Bit.MapValues), moments.Maps);
            return () => m.Backend.AdamW8Bit(p, gradient, moments, step, norm);
        });
    }

    static IEnumerable<KernelCase> SamplerCases(CaseShape s, long e)
    {
        foreach (var (form, sampling) in ((string, Sampling)[])[("", new(0.8, 50, 0.95)), (", unfiltered", new(0.8, 0, 1)), (", greedy", new(0, 0, 1))])
        {
            yield return new($"Sample{form}", e * 16 * s.Vocabulary, 0, m =>
            {
                Slice logits = m.Random(16L * s.Vocabulary), ids = m.OutputIntegers(16), logprobs = m.OutputParameter(16), draws = m.Put([.. Enumerable.Range(100, 16)]);
                return () => m.Backend.Sample(logits, 16, sampling, new(1, 2, 3), ids, logprobs, draws);
            });
        }
    }

    static string Name(WeightStorage storage) => storage switch { WeightStorage.Nf4 => "NF4", WeightStorage.Nf4Double => "NF4 double", _ => "BF16" };

    static long WeightBytes(long rows, long columns, WeightStorage storage) => storage switch
    {
        WeightStorage.Nf4 => rows * columns / 2 + rows * columns / 16,
        WeightStorage.Nf4Double => rows * columns / 2 + rows * columns / 64 + rows * columns / 4096,
        _ => 2 * rows * columns,
    };
}
