using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>Inputs and outputs of one case on a device. The same case draws the same numbers on every device.</summary>
sealed class CaseMemory(Backend backend) : IDisposable
{
    const int Block = 1 << 20;

    readonly Random random = new(1);
    readonly List<Slice> owned = [];

    public Backend Backend => backend;

    /// <summary>What the case computes, in the order of allocation.</summary>
    public List<Slice> Outputs { get; } = [];

    /// <summary>Activations, roughly normal.</summary>
    public Slice Random(long count) => Fill(count, backend.Activation, 1);

    /// <summary>Activations whose values the case computes before it is timed.</summary>
    public Slice Activation(long count) => Allocate(count, backend.Activation);

    /// <summary>Parameters, small.</summary>
    public Slice Parameter(long count) => Fill(count, backend.Parameter, 0.1f);

    public Slice Output(long count) => Noted(Fill(count, backend.Activation, 1));

    public Slice OutputParameter(long count) => Noted(Allocate(count, backend.Parameter));

    public Slice OutputIntegers(int count) => Noted(Put(new int[count]));

    public Slice Integers(int count, int below) => Put([.. Enumerable.Range(0, count).Select(_ => random.Next(below))]);

    public Slice Put(int[] values)
    {
        var slice = Allocate(values.Length, DType.I32);
        backend.Upload(MemoryMarshal.AsBytes<int>(values), slice);
        return slice;
    }

    /// <summary>A weight of random values: BF16, or NF4 (U8) with scales near 0.05.</summary>
    public Weight Weight(int rows, int columns, DType type)
    {
        long count = (long)rows * columns;
        if (type != DType.U8)
        {
            return new Weight(rows, columns, Fill(count, type, 0.05f));
        }

        byte[] codes = new byte[(count + 1) / 2];
        random.NextBytes(codes);
        var packed = Allocate(codes.Length, DType.U8);
        backend.Upload(codes, packed);
        var scales = Allocate((count + 63) / 64, DType.F32);
        backend.Write([.. Enumerable.Range(0, (int)scales.Length).Select(_ => 0.04f + 0.02f * random.NextSingle())], scales);
        return new Weight(rows, columns, packed, new Nf4Scales(scales));
    }

    public LoraFactors Lora(int outputs, int inputs, int rank) => new(Parameter((long)rank * inputs), Parameter((long)outputs * rank), rank, 2);

    public void Dispose() => owned.ForEach(backend.Free);

    Slice Noted(Slice slice)
    {
        Outputs.Add(slice);
        return slice;
    }

    Slice Allocate(long count, DType type)
    {
        var slice = backend.Allocate(type, count, "test");
        owned.Add(slice);
        return slice;
    }

    /// <summary>Sums of four uniform numbers: near enough to normal, and drawn fast. Large slices repeat a block of them.</summary>
    Slice Fill(long count, DType type, float deviation)
    {
        var slice = Allocate(count, type);
        var values = new float[Math.Min(count, Block)];
        foreach (ref float value in values.AsSpan())
        {
            value = deviation * 1.732f * (random.NextSingle() + random.NextSingle() + random.NextSingle() + random.NextSingle() - 2);
        }

        for (long first = 0; first < count; first += Block)
        {
            int length = (int)Math.Min(Block, count - first);
            backend.Write(values.AsSpan(0, length), slice.Range(first, length));
        }

        return slice;
    }
}
