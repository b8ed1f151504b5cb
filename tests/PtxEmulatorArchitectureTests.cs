using ILGPU.Runtime.Cuda;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The emulator as an older GPU: what came later is an error, what it has runs.</summary>
public class PtxEmulatorArchitectureTests
{
    const string Address = ".reg .b32 a; mov.u32 a, 0; ";

    [Theory]
    [InlineData("cvt.rn.bf16.f32 %rs0, %f0;", 80)]
    [InlineData("cvt.rn.bf16x2.f32 %r0, %f0, %f1;", 80)]
    [InlineData("cvt.rn.f16x2.f32 %r0, %f0, %f1;", 80)]
    [InlineData("cvt.rna.tf32.f32 %r0, %f0;", 80)]
    [InlineData("fma.rn.bf16x2 %r0, %r1, %r2, %r3;", 80)]
    [InlineData("fma.rn.relu.f16 %rs0, %rs1, %rs2, %rs3;", 80)]
    [InlineData("min.f16 %rs0, %rs1, %rs2;", 80)]
    [InlineData("max.NaN.f32 %f0, %f1, %f2;", 80)]
    [InlineData("redux.sync.add.s32 %r0, %r1, -1;", 80)]
    [InlineData(Address + "cp.async.ca.shared.global [a], [%rd0], 4;", 80)]
    [InlineData("cp.async.commit_group;", 80)]
    [InlineData("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};", 80)]
    [InlineData("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, {%r4,%r5}, {%f0,%f1,%f2,%f3};", 80)]
    [InlineData("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r4}, {%f0,%f1,%f2,%f3};", 75)]
    [InlineData("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r0,%r1}, {%r2}, {%r3}, {%r0,%r1};", 75)]
    [InlineData(Address + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [a];", 75)]
    [InlineData("movmatrix.sync.aligned.m8n8.trans.b16 %r0, %r1;", 75)]
    [InlineData("tanh.approx.f32 %f0, %f1;", 75)]
    [InlineData("ex2.approx.f16 %rs0, %rs1;", 75)]
    [InlineData("ex2.approx.ftz.f32 %f0, %f1;", 70)]
    [InlineData("cvt.rn.f16.f32 %rs0, %f0;", 70)]
    [InlineData("fma.rn.f16x2 %r0, %r1, %r2, %r3;", 70)]
    [InlineData("max.f32 %f0, %f1, %f2;", 70)]
    [InlineData("shfl.sync.bfly.b32 %r0, %r1, 1, 31, -1;", 70)]
    public void Instruction_isThereFromItsArchitectureOn(string instruction, int first)
    {
        foreach (int target in (int[])[70, 75, 80])
        {
            string text = PtxText.Kernel($"{instruction} ret;", shared: 16).Replace("sm_80", $"sm_{target}", StringComparison.Ordinal);
            if (target >= first)
            {
                PtxProgram.Parse(text);
            }
            else
            {
                var error = Assert.Throws<PtxSyntaxException>(() => PtxProgram.Parse(text));
                Assert.Contains($"needs sm_{first}, the module is for sm_{target}", error.Message, StringComparison.Ordinal);
            }
        }
    }

    [Fact]
    public void Options_sayWhatTheDevicePassesFor()
    {
        var device = new PtxEmulatorDevice(new PtxEmulatorOptions { Architecture = CudaArchitecture.SM_75 });
        Assert.Equal("PTX emulator (sm_75)", device.Name);
        Assert.Equal([96, 64, 163], new[] { CudaArchitecture.SM_70, CudaArchitecture.SM_75, CudaArchitecture.SM_80 }.Select(architecture => new PtxEmulatorOptions { Architecture = architecture }.MaxSharedBytes / 1024));
        Assert.Equal(1000, new PtxEmulatorOptions { MaxSharedBytes = 1000 }.MaxSharedBytes);
        var error = Assert.Throws<ArgumentException>(() => new PtxEmulatorDevice(new PtxEmulatorOptions { Architecture = CudaArchitecture.SM_90 }));
        Assert.Contains("sm_90, expected sm_70, sm_75 or sm_80", error.Message, StringComparison.Ordinal);
    }
}
