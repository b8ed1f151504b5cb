using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Operations that reach the forms of kernels which no layer of <see cref="CaseShape"/> does: attention at every width of a head, NF4 weights made and restored on the device.</summary>
static class KernelForms
{
    const int Tokens = 70; // more than the tile of 64 keys, and rows enough for tensor cores

    static readonly int[] Widths = [16, 32, 48, 64, 96, 128, 192, 256];

    /// <summary>All of them, each of whole packets and of odd extents.</summary>
    public static IEnumerable<KernelCase> All() => [.. Widths.SelectMany(width => Attention(width).Concat(Attention(width - 1))), .. Nf4Weights(64 * 300), .. Nf4Weights(65 * 301)];

    static IEnumerable<KernelCase> Attention(int width)
    {
        AttentionShape shape = new(2, 1, width, 1 / Math.Sqrt(width));
        int q = 2 * width, g = width;
        yield return Forward("", Tokens, Tokens);
        yield return Forward(", few rows", 3, 3);
        yield return Forward(", decode", 3, 300); // in parts
        yield return new($"AttentionBackward, width {width}", 0, 0, m =>
        {
            Slice query = m.Random(Tokens * q), k = m.Random(Tokens * g), v = m.Random(Tokens * g), y = m.Activation(Tokens * q), lse = m.OutputParameter(2 * Tokens);
            Slice dy = m.Random(Tokens * q), dq = m.Output(Tokens * q), dk = m.Output(Tokens * g), dv = m.Output(Tokens * g), sequences = m.Put([0, Tokens, 0, Tokens]);
            return () =>
            {
                m.Backend.AttentionForward(shape, query, k, v, sequences, y, lse);
                m.Backend.AttentionBackward(shape, dy, query, k, v, sequences, y, lse, dq, dk, dv);
            };
        });

        KernelCase Forward(string form, int queries, int keys) => new($"AttentionForward, width {width}{form}", 0, 0, m =>
        {
            Slice query = m.Random(queries * q), k = m.Random(keys * g), v = m.Random(keys * g), y = m.Output(queries * q), lse = m.OutputParameter(2 * queries);
            Slice sequences = m.Put([0, queries, 0, keys]);
            return () => m.Backend.AttentionForward(shape, query, k, v, sequences, y, lse);
        });
    }

    static IEnumerable<KernelCase> Nf4Weights(int count)
    {
        int blocks = Nf4.BlockCount(count, Nf4.DefaultBlockSize);
        foreach (var type in (DType[])[DType.F32, DType.BF16])
        {
            yield return new($"Nf4.Quantize {type}, {count}", 0, 0, m =>
            {
                Slice weights = type == DType.F32 ? m.Parameter(count) : m.Weight(1, count, WeightStorage.AsStored).Values;
                Slice packed = m.Output(DType.U8, Nf4.PackedLength(count)), scales = m.Output(DType.F32, blocks);
                return () => Nf4Kernels.Quantize(DeviceArguments.KernelsOf(m.Backend), weights, packed, scales, Nf4.DefaultBlockSize);
            });
            foreach (var storage in (WeightStorage[])[WeightStorage.Nf4, WeightStorage.Nf4Double])
            {
                yield return new($"Nf4.Dequantize {storage} to {type}, {count}", 0, 0, m =>
                {
                    var weight = m.Weight(1, count, storage);
                    var values = m.Output(type, count);
                    return () => Nf4Kernels.Dequantize(DeviceArguments.KernelsOf(m.Backend), weight, values);
                });
            }
        }

        yield return new($"Nf4.DoubleQuantize, {count}", 0, 0, m =>
        {
            Slice scales = m.Parameter(count), codes = m.Output(DType.U8, count), nested = m.Output(DType.F32, Nf4.BlockCount(count, Nf4.NestedBlockSize));
            return () =>
            {
                var device = DeviceArguments.KernelsOf(m.Backend);
                using ScratchBuffers scratch = new(device);
                Nf4Kernels.DoubleQuantize(device, scratch, scales, codes, nested);
            };
        });
    }
}
