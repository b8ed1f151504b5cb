using ILGPU;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Why the emulator compiles with its own pipeline: what ILGPU 1.5.3 makes of a kernel at each level.</summary>
public sealed class PtxEmulatorPipelineTests
{
    [Fact]
    public void Context_that_optimises_at_O2_is_refused()
    {
        using var fast = Context.Create(builder => builder.Optimize(OptimizationLevel.O2));
        Assert.Contains("O2", Assert.Throws<ArgumentException>(() => fast.CreatePtxEmulator()).Message);
    }

    static void LoadThenStore(ArrayView<int> data)
    {
        int sum = 0;
        for (int i = 0; i < 4; i++)
        {
            int old = data[i];
            data[i] = 5;
            sum += old;
        }
        data[4] = sum;
    }

    [Fact]
    public void Stock_O2_moves_a_load_below_a_store_and_the_safe_pipeline_does_not()
    {
        int Run(OptimizationLevel level, bool stock)
        {
            using var local = Context.Create(builder => builder.Optimize(level));
            using var emulator = local.CreatePtxEmulator(new PtxEmulatorOptions { StockPipeline = stock });
            using var data = emulator.Allocate1D([1, 2, 3, 4, 0]);
            emulator.LoadStreamKernel<ArrayView<int>>(LoadThenStore)(new KernelConfig(1, 1), data.View);
            return data.GetAsArray1D()[4];
        }
        Assert.Equal(10, Run(OptimizationLevel.O1, stock: false));
        Assert.Equal(20, Run(OptimizationLevel.O2, stock: true));
    }
}
