using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What is allocated is given back once: by every owner, on every path.</summary>
public class MemoryTests
{
    static readonly ParameterSpec[] Specs = [new("a", 3, 5), new("b", 1, 7, Decays: false)];

    /// <summary>Owners of device memory, and how many allocations each makes.</summary>
    public static TheoryData<string, int> Owners => new() { { "store", 2 }, { "optimizer", 3 }, { "8-bit optimizer", 6 }, { "cache", 4 }, { "tables", 2 } };

    [Theory, MemberData(nameof(Owners))]
    public void Dispose_twice_freesOnce(string owner, int allocations)
    {
        using var backend = new HostBackend<float>();
        using var store = new ParameterStore(backend, Specs, "adapters");
        long before = backend.Memory.Live, made = backend.Memory.Allocations;
        var owned = Make(owner, backend, store);
        Assert.Equal(allocations, backend.Memory.Allocations - made);
        Assert.True(backend.Memory.Live > before);

        owned.Dispose();
        owned.Dispose();

        Assert.Equal(before, backend.Memory.Live);
    }

    [Theory, MemberData(nameof(Owners))]
    public void Constructor_anyAllocationFails_freesThoseBefore(string owner, int allocations)
    {
        const int Store = 2;
        for (int room = 0; room < allocations; room++)
        {
            using var backend = new LimitedBackend(Store + room);
            using var store = new ParameterStore(backend, Specs, "adapters");
            long before = backend.Memory.Live;

            Assert.Throws<DeviceMemoryException>(() => Make(owner, backend, store));

            Assert.Equal(before, backend.Memory.Live);
        }
    }

    [Fact]
    public void ParameterStore_twoParametersOfOneName_freesItsMemory()
    {
        using var backend = new HostBackend<float>();

        Assert.Throws<ArgumentException>(() => new ParameterStore(backend, [Specs[0], Specs[0]], "adapters"));

        Assert.Equal(0, backend.Memory.Live);
    }

    [Fact]
    public void Free_nothing_doesNothing()
    {
        using var backend = new HostBackend<float>();
        var held = backend.Allocate(DType.F32, 3, "test");

        backend.Free(default);

        Assert.Equal(held.Bytes, backend.Memory.Live);
    }

    [Fact]
    public void Free_sliceThatIsNotTheAllocationAtItsAddress_throwsAndFreesNothing()
    {
        using var backend = new HostBackend<float>();
        var held = backend.Allocate(DType.F32, 8, "test");

        // What a stale slice looks like once its address belongs to another allocation.
        foreach (var stale in (Slice[])[held with { Length = 7 }, held with { Type = DType.F64 }, held.Range(1, 7), held.Range(0, 4)])
        {
            Assert.Contains("are not held", Assert.Throws<InvalidOperationException>(() => backend.Free(stale)).Message, StringComparison.Ordinal);
        }

        Assert.Equal(held.Bytes, backend.Memory.Live);
        backend.Free(held);
        Assert.Throws<InvalidOperationException>(() => backend.Free(held));
    }

    [Fact]
    public void ScratchBytes_afterAProduct_holdsAtLeastItsPackedPanels()
    {
        using var oracle = new Oracle("cpu", 1);
        const int Size = 256;
        Slice x = oracle.Put(oracle.Values(Size * Size)), y = oracle.Output(Size * Size);
        oracle.Backend.LinearForward(x, new Weight(Size, Size, x), default, null, default, default, y, false);

        Assert.True(oracle.Backend.ScratchBytes >= Size * sizeof(float), $"{oracle.Backend.ScratchBytes} bytes");
        Assert.True(oracle.Backend.ScratchBytes < 1L << 40, $"{oracle.Backend.ScratchBytes} bytes");
    }

    static IDisposable Make(string owner, Backend backend, ParameterStore store)
    {
        switch (owner)
        {
            case "store":
                return new ParameterStore(backend, Specs, "adapters");
            case "optimizer":
                return new AdamWOptimizer(backend, store, new AdamWOptions());
            case "8-bit optimizer":
                return new AdamWOptimizer(backend, store, new AdamWOptions { EightBit = true });
            case "cache":
                var config = new ModelConfig { ModelType = "llama", Hidden = 8, Intermediate = 8, Layers = 2, Heads = 2, KeyValueHeads = 1, HeadWidth = 4, Vocabulary = 8 };
                return new KvCache(backend, config, sequences: 2, capacity: 3);
            default:
                var tables = new RopeTables(backend, [1, 0.5]);
                try
                {
                    tables.Reserve(5);
                    return tables;
                }
                catch
                {
                    tables.Dispose();
                    throw;
                }
        }
    }
}
