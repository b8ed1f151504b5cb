using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What ILGPU makes of the kernels: properties of their PTX that speed depends on.</summary>
public class PtxTests
{
    [Theory]
    [InlineData("emulator-f32")]
    [InlineData("emulator-bf16")]
    public void SwiGlu_inPtx_keepsEverythingInRegisters(string device)
    {
        string ptx = Ptx(device, "SwiGluKernels.ForwardKernel", oracle => oracle.Backend.SwiGluForward(oracle.Put([1.0]), oracle.Put([1.0]), oracle.Output(1)));
        Assert.DoesNotContain(".local", ptx);
        Assert.Contains("ld.global", ptx);
    }

    /// <summary>The text of a kernel, after something that launches it.</summary>
    static string Ptx(string device, string kernel, Action<Oracle> run)
    {
        using Oracle oracle = new(device, 1);
        run(oracle);
        return ((EmulatedKernel)oracle.Device!.Compiled.Last(x => x.Name == kernel).Kernel).Ptx;
    }
}
