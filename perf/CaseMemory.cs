using System.Runtime.InteropServices;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>Inputs and outputs of one case on a device. The same case draws the same numbers on every device.</summary>
/// <param name="backend">The device.</param>
/// <param name="owner">Whom memory reports name.</param>
sealed class CaseMemory(Backend backend, string owner = "benchmark") : IDisposable
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

    /// <summary>Zeroed bytes, which a case reads and writes.</summary>
    public Slice Bytes(long count) => Allocate(count, DType.U8);

    public Slice Output(DType type, long count) => Noted(Allocate(count, type));

    public Slice OutputIntegers(int count) => Noted(Put(new int[count]));

    public Slice Integers(int count, int below) => Put([.. Enumerable.Range(0, count).Select(_ => random.Next(below))]);

    public Slice Put(int[] values)
    {
        var slice = Allocate(values.Length, DType.I32);
        backend.Upload(MemoryMarshal.AsBytes<int>(values), slice);
        return slice;
    }

    /// <summary>A weight of random values: BF16 (as stored), or NF4 with scales near 0.05.</summary>
    public Weight Weight(int rows, int columns, WeightStorage storage)
    {
        int count = checked(rows * columns);
        if (storage == WeightStorage.AsStored)
        {
            return new Weight(rows, columns, Fill(count, DType.BF16, 0.05f));
        }

        var packed = RandomBytes(Nf4.PackedLength(count));
        int blocks = Nf4.BlockCount(count, Nf4.DefaultBlockSize);
        if (storage == WeightStorage.Nf4)
        {
            return new Weight(rows, columns, packed, new Nf4Scales(Scales(blocks, 0.04f)));
        }

        var map = Allocate(Nf4.NestedMap.Length, DType.F32);
        backend.Write(Nf4.NestedMap, map);
        return new Weight(rows, columns, packed, new Nf4Scales(RandomBytes(blocks), Scales(Nf4.BlockCount(blocks, Nf4.NestedBlockSize), 0), map, 0.05f));
    }

    public LoraFactors Lora(int outputs, int inputs, int rank) => new(Parameter((long)rank * inputs), Parameter((long)outputs * rank), rank, 2);

    public void Dispose() => owned.ForEach(backend.Free);

    Slice RandomBytes(long count)
    {
        var bytes = new byte[count];
        random.NextBytes(bytes);
        var slice = Allocate(count, DType.U8);
        backend.Upload(bytes, slice);
        return slice;
    }

    /// <summary>F32, uniform within 0.02 above <paramref name="least"/>.</summary>
    Slice Scales(long count, float least)
    {
        var slice = Allocate(count, DType.F32);
        backend.Write([.. Enumerable.Range(0, (int)count).Select(_ => least + 0.02f * random.NextSingle())], slice);
        return slice;
    }

    Slice Noted(Slice slice)
    {
        Outputs.Add(slice);
        return slice;
    }

    Slice Allocate(long count, DType type)
    {
        var slice = backend.Allocate(type, count, owner);
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
