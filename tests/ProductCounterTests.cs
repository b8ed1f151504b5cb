using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What products of linear layers cost: bytes, bank conflicts and the PTX that decides them. All counts are exact.</summary>
public class ProductCounterTests
{
    [Theory]
    [InlineData(WeightFormat.Nf4, 1)]
    [InlineData(WeightFormat.Nf4Double, 1)]
    [InlineData(WeightFormat.Nf4Double, 4)]
    [InlineData(WeightFormat.BF16, 1)]
    internal void FewRows_readEveryWeightOnce(WeightFormat format, int rows)
    {
        const int outputs = 128, inputs = 1024;
        using Oracle oracle = new("emulator-bf16", 51);
        using StoredWeight stored = new(outputs, inputs, format, 3);
        var weight = stored.On(oracle.Backend);
        Slice x = oracle.Put(oracle.Values(rows * inputs));
        var (launch, counters) = Forward(oracle, x, weight, oracle.Output(rows * outputs));

        // Each group also reads all of x, and the map of double quantisation: from cache, on a GPU.
        long beside = launch.Shape.Grid.Size * (x.Bytes + (weight.Scales?.NestedMap.Bytes ?? 0));
        Assert.InRange(32 * counters.GlobalLoadSectors - beside, weight.Values.Bytes, 1.1 * weight.Bytes);
        string ptx = launch.Ptx();
        KernelRecords.CheckMemory(ptx, "MatVecKernels.Kernel");
        Assert.Contains(weight.Scales is null ? "ld.global.v2" : "ld.global.v4", ptx);
    }

    [Fact]
    public void FewRows_readSharedMemoryWithoutBankConflicts()
    {
        const int outputs = 64, inputs = 1024;
        using Oracle oracle = new("emulator-f32", 52);
        using StoredWeight stored = new(outputs, inputs, WeightFormat.Nf4, 3);
        var (launch, counters) = Forward(oracle, oracle.Put(oracle.Values(inputs)), stored.On(oracle.Backend), oracle.Output(outputs));

        // A group of 8 warps for 32 outputs: the panel of x in and out, 4 wavefronts for 32 quads; a code of each weight; the table of codes; sums in and out.
        int panel = inputs / 4 / 32 * 4, warp = panel + 4 * inputs / 32;
        Assert.Equal(2, launch.Shape.Grid.Size);
        Assert.Equal(2 * (panel + 8 * warp + 1 + 8 + 1), counters.SharedWavefronts);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void PortableProducts_ofNf4_decodeWithoutBankConflicts(bool backward)
    {
        using Oracle oracle = new("emulator-f32", 53);
        using StoredWeight stored = new(64, 64, WeightFormat.Nf4, 3);
        var weight = stored.On(oracle.Backend);
        Slice x = oracle.Put(oracle.Values(64 * 64)), y = oracle.Output(64 * 64);
        var counters = oracle.Device!.Counters(() =>
        {
            if (backward)
            {
                oracle.Backend.LinearBackward(x, default, default, weight, null, default, y, default, false, default, default, default, default);
            }
            else
            {
                oracle.Backend.LinearForward(x, weight, default, null, default, default, y, false);
            }
        });

        // Four 16-byte reads a term and thread, 16 wavefronts a warp; both tiles, 128 bytes a wavefront; a code of each weight; the table of codes.
        Assert.Equal(2 * 64 * 16 + 2 * 64 * 64 / 32 + 64 * 64 / 32 + 1, counters.SharedWavefronts);

        // x; packed weights, whose 16 bytes are half a sector where each lane reads a row of its own, the other half coming from cache a step later; 4 sectors of scales a warp and step.
        Assert.Equal(64 * 64 * 4 / 32 + (backward ? 64 : 128) + 4 * 4, counters.GlobalLoadSectors);
    }

    [Theory]
    [InlineData("emulator-f32")]
    [InlineData("emulator-bf16-portable")]
    public void PortableProducts_inPtx_keepSumsInRegisters(string device)
    {
        using Oracle oracle = new(device, 54);
        using StoredWeight stored = new(64, 64, WeightFormat.Nf4, 3);
        var (launch, _) = Forward(oracle, oracle.Put(oracle.Values(40 * 64)), stored.On(oracle.Backend), oracle.Output(40 * 64));
        string ptx = launch.Ptx();
        KernelRecords.CheckMemory(ptx, "PortableMatMul.Kernel");
        Assert.Contains("ld.global.v4.b32", ptx);
        Assert.Contains("ld.shared.v4.f32", ptx);
        Assert.True(ptx.Split("fma.rn.f32").Length > 64, "the 64 products of a term are not all written out");
    }

    static (KernelLaunch Launch, LaunchCounters Counters) Forward(Oracle oracle, Slice x, Weight weight, Slice y)
    {
        var launch = oracle.Device!.Launch(() => oracle.Backend.LinearForward(x, weight, default, null, default, default, y, accumulate: false));
        return (launch, launch.Counters!);
    }
}
