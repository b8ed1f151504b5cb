using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Extents of a decoder layer and of the head.</summary>
/// <param name="Name">Of the model whose extents they are.</param>
/// <param name="Tokens">Tokens of a training pass.</param>
/// <param name="Width">Model width D.</param>
/// <param name="Hidden">MLP width F.</param>
/// <param name="Heads">Query heads H.</param>
/// <param name="KeyValueHeads">Key/value heads G.</param>
/// <param name="HeadWidth">Elements of a head C.</param>
/// <param name="Vocabulary">Tokens V.</param>
/// <param name="Rank">LoRA rank R.</param>
sealed record CaseShape(string Name, int Tokens, int Width, int Hidden, int Heads, int KeyValueHeads, int HeadWidth, int Vocabulary, int Rank)
{
    /// <summary>Small enough for the emulator, odd enough to reach every edge.</summary>
    public static readonly CaseShape Tiny = new("tiny", 70, 96, 136, 4, 2, 24, 515, 5);

    /// <summary>What the suite times.</summary>
    public static readonly IReadOnlyList<CaseShape> Models =
    [
        new("smollm2-135m", 2048, 576, 1536, 9, 3, 64, 49152, 16),
        new("llama3.1-8b", 2048, 4096, 14336, 32, 8, 128, 128256, 16),
    ];
}

/// <summary>One operation at one shape: what it must move and compute at least, as the headers of its kernels count it, and how to run it.</summary>
/// <param name="Operation">The name of the backend's operation, and which form of it.</param>
/// <param name="Bytes">Fewest bytes of device memory.</param>
/// <param name="Flops">Floating-point operations of matrix products; 0 where memory binds.</param>
/// <param name="Prepare">Allocates inputs and outputs, and returns what runs once.</param>
sealed record KernelCase(string Operation, long Bytes, long Flops, Func<CaseMemory, Action> Prepare)
{
    const int CacheTokens = 2048; // keys that a decoding query sees

    /// <summary>Every operation of a training step and of decoding, at the shapes of one layer.</summary>
    public static IEnumerable<KernelCase> All(CaseShape s, DType activation)
    {
        int n = s.Tokens, d = s.Width, f = s.Hidden, q = s.Heads * s.HeadWidth, g = s.KeyValueHeads * s.HeadWidth;
        long e = activation.Size(), x = e * n * d, wide = e * n * f;
        AttentionShape attention = new(s.Heads, s.KeyValueHeads, s.HeadWidth, 1 / Math.Sqrt(s.HeadWidth));

        yield return new("Add", 3 * x, 0, m => { Slice a = m.Random(n * d), y = m.Output(n * d); return () => m.Backend.Add(a, 1e-3, y); });
        yield return new("Dropout", 2 * x, 0, m => { Slice a = m.Random(n * d), y = m.Output(n * d); return () => m.Backend.Dropout(a, 0.1, new(1, 2, 3), y, false); });
        yield return new("EmbeddingForward", 2 * x, 0, m =>
        {
            Slice ids = m.Integers(n, s.Vocabulary), y = m.Output(n * d);
            Weight table = m.Weight(s.Vocabulary, d, DType.BF16);
            return () => m.Backend.EmbeddingForward(ids, table, y);
        });
        yield return new("RmsNormForward", 2 * x, 0, m =>
        {
            Slice a = m.Random(n * d), w = m.Parameter(d), y = m.Output(n * d), rstd = m.OutputParameter(n);
            return () => m.Backend.RmsNormForward(a, w, 1e-5, y, rstd);
        });
        yield return new("RmsNormBackward", 3 * x, 0, m =>
        {
            Slice a = m.Random(n * d), dy = m.Random(n * d), w = m.Parameter(d), rstd = m.Parameter(n), dx = m.Output(n * d);
            return () => m.Backend.RmsNormBackward(dy, a, w, rstd, dx, false, default);
        });
        yield return new("Rope", 2 * e * n * q, 0, m =>
        {
            Slice a = m.Output((long)n * q), cos = m.Parameter((long)n * s.HeadWidth / 2), sin = m.Parameter((long)n * s.HeadWidth / 2), positions = m.Integers(n, n);
            return () => m.Backend.Rope(a, cos, sin, positions, s.Heads, s.HeadWidth, false);
        });
        yield return new("SwiGluForward", 3 * wide, 0, m =>
        {
            Slice gate = m.Random((long)n * f), up = m.Random((long)n * f), y = m.Output((long)n * f);
            return () => m.Backend.SwiGluForward(gate, up, y);
        });
        yield return new("SwiGluBackward", 5 * wide, 0, m =>
        {
            Slice gate = m.Random((long)n * f), up = m.Random((long)n * f), dy = m.Random((long)n * f), dGate = m.Output((long)n * f), dUp = m.Output((long)n * f);
            return () => m.Backend.SwiGluBackward(dy, gate, up, dGate, dUp);
        });
        yield return new("AttentionForward", e * n * (2 * q + 2 * g), 2L * n * n * q, m =>
        {
            Slice query = m.Random((long)n * q), k = m.Random((long)n * g), v = m.Random((long)n * g), y = m.Output((long)n * q), lse = m.OutputParameter((long)n * s.Heads);
            Slice sequences = m.Put([0, n, 0, n]);
            return () => m.Backend.AttentionForward(attention, query, k, v, sequences, y, lse);
        });
        yield return new("AttentionBackward", e * n * (4 * q + 4 * g), 5L * n * n * q, m =>
        {
            Slice query = m.Random((long)n * q), k = m.Random((long)n * g), v = m.Random((long)n * g), y = m.Activation((long)n * q), lse = m.OutputParameter((long)n * s.Heads);
            Slice dy = m.Random((long)n * q), dq = m.Output((long)n * q), dk = m.Output((long)n * g), dv = m.Output((long)n * g), sequences = m.Put([0, n, 0, n]);
            m.Backend.AttentionForward(attention, query, k, v, sequences, y, lse);
            return () => m.Backend.AttentionBackward(attention, dy, query, k, v, sequences, y, lse, dq, dk, dv);
        });
        int keys = Math.Min(CacheTokens, 8 * n);
        yield return new("AttentionForward, decode x16", e * 16 * (2L * keys * g + 2 * q), 0, m =>
        {
            Slice query = m.Random(16L * q), k = m.Random(16L * keys * g), v = m.Random(16L * keys * g), y = m.Output(16L * q);
            Slice sequences = m.Put([.. Enumerable.Range(0, 16).SelectMany(i => new[] { i, 1, i * keys, keys })]);
            return () => m.Backend.AttentionForward(attention, query, k, v, sequences, y, default);
        });
        foreach (var (name, rows) in ((string, int)[])[("", n), (", decode x1", 1), (", decode x16", 16)])
        {
            yield return Linear($"LinearForward NF4{name}", rows, DType.U8, lora: false);
            yield return Linear($"LinearForward BF16{name}", rows, DType.BF16, lora: false);
        }

        yield return Linear("LinearForward NF4 + LoRA", n, DType.U8, lora: true);
        yield return new("LinearBackward NF4 + LoRA", Nf4Bytes(f, d) + e * n * (2L * d + f), 2L * n * d * f + 6L * n * s.Rank * (d + f), m =>
        {
            Slice dy = m.Random((long)n * f), a = m.Random((long)n * d), xa = m.Random((long)n * s.Rank), dx = m.Output((long)n * d);
            Slice dA = m.OutputParameter((long)s.Rank * d), dB = m.OutputParameter((long)f * s.Rank);
            Weight weight = m.Weight(f, d, DType.U8);
            LoraFactors lora = m.Lora(f, d, s.Rank);
            return () => m.Backend.LinearBackward(dy, a, default, weight, lora, xa, dx, default, false, dA, dB, default, default);
        });
        yield return new("TokenLogProbs", 2 * 2L * s.Vocabulary * d + 2 * x, 4L * n * d * s.Vocabulary, m =>
        {
            Slice hidden = m.Random(n * d), targets = m.Integers(n, s.Vocabulary), logprobs = m.OutputParameter(n), coefficients = m.Parameter(n), dHidden = m.Output(n * d);
            Weight head = m.Weight(s.Vocabulary, d, DType.BF16);
            return () => m.Backend.TokenLogProbs(hidden, head, targets, 1, logprobs, default, coefficients, dHidden, default);
        });
        long count = 20L * s.Rank * (d + f);
        yield return new("Norm", 4 * count, 0, m => { Slice a = m.Parameter(count), y = m.OutputParameter(1); return () => m.Backend.Norm(a, y); });
        yield return new("AdamW", 28 * count, 0, m =>
        {
            Slice p = m.OutputParameter(count), gradient = m.Parameter(count), first = m.OutputParameter(count), second = m.OutputParameter(count), norm = m.Parameter(1);
            return () => m.Backend.AdamW(p, gradient, first, second, new AdamWStep(10, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1), norm);
        });
        yield return new("Sample", e * 16 * s.Vocabulary, 0, m =>
        {
            Slice logits = m.Random(16L * s.Vocabulary), ids = m.OutputIntegers(16), logprobs = m.OutputParameter(16);
            return () => m.Backend.Sample(logits, 16, new Sampling(0.8, 50, 0.95), new(1, 2, 3), ids, logprobs);
        });

        KernelCase Linear(string name, int rows, DType type, bool lora) => new(
            name, (type == DType.U8 ? Nf4Bytes(f, d) : 2L * f * d) + e * rows * (d + f), 2L * rows * f * d + (lora ? 2L * rows * s.Rank * (d + f) : 0), m =>
            {
                Slice a = m.Random((long)rows * d), y = m.Output((long)rows * f), xa = lora ? m.Activation((long)rows * s.Rank) : default;
                Weight weight = m.Weight(f, d, type);
                LoraFactors? factors = lora ? m.Lora(f, d, s.Rank) : null;
                return () => m.Backend.LinearForward(a, weight, default, factors, a, xa, y, false);
            });

        static long Nf4Bytes(long rows, long columns) => rows * columns / 2 + rows * columns / 64;
    }
}
