using IlgpuPeft.Kernels;
using IlgpuPeft.Perf;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Every kernel's text is what NVIDIA's assembler takes, as far as <see cref="PtxLint"/> can tell.</summary>
public class PtxLintTests
{
    static readonly CaseShape Small = new("small", 9, 64, 72, 2, 1, 64, 66, 8), Odd = new("odd", 5, 20, 22, 2, 1, 10, 35, 3);

    [Fact]
    public void Kernels_inF32_assemble() => Assemble(KernelDevices.Open("emulator"), device => new KernelBackend<F32>(device), Small, Odd);

    [Fact]
    public void Kernels_onTensorCores_assemble() => Assemble(KernelDevices.Open("emulator"), device => new KernelBackend<BF16>(device), Small, Odd);

    [Fact]
    public void Kernels_inBf16OnAnOlderGpu_assemble() => Assemble(KernelDevices.Open("emulator:sm_75"), device => new KernelBackend<BF16>(device), Small);

    [Fact]
    public void Rungs_ofTheLadders_assemble()
    {
        var device = KernelDevices.Open("emulator");
        _ = Ladder.ClimbMatMul(device, 64);
        _ = Ladder.ClimbAttention(device, 64);
        Check(device);
        device.Return();
    }

    [Theory]
    [InlineData("add.f32 %f0, %f1, %r0;", null)]
    [InlineData("add.s32 %r0, %r1, %f0;", "%f0 is .f32, expected .s32")]
    [InlineData("add.s32 %r0, %r1, %rd0;", "%rd0 is .b64, expected .s32")]
    [InlineData("add.s32 %r0, %r1, %r4;", "%r4 is no operand")]
    [InlineData("mul.f32 %f0, %f1, 2;", "2 is no literal of .f32")]
    [InlineData("cvt.rn.bf16.f32 %r0, %f0;", "%r0 is .b32, expected .b16")]
    [InlineData("cvt.rn.bf16x2.f32 %r0, %f0, 0f00000000;", "0f00000000 is no register")]
    [InlineData("cp.async.cg.shared.global [%rd0], [%rd1], 16, %r0;", "the address [%rd0] is .b64, expected .b32")]
    [InlineData("cp.async.cg.shared.global [%r0], [%rd1], 4, %r0;", "a copy of no such size")]
    [InlineData("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %f0}, [%r3];", "%f0 is .f32, expected .b32")]
    [InlineData("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [64];", "the address [64] is no register")]
    [InlineData("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, 0}, {%r0, %r1}, {%f0, %f1, %f2, %f3};", "0 is no register")]
    [InlineData("wgmma.fence.sync.aligned;", "the table does not have")]
    [InlineData("targets: .branchtargets here; brx.idx %r0, targets; here: ret;", "the table does not have")]
    [InlineData("here: here: ret;", "a label twice")]
    [InlineData("bra nowhere;", "jumps to nowhere")]
    [InlineData("@%p0 bra.uni here; here: ret;", "says it does not")]
    [InlineData(".reg .b32 %r<2>;", "a register twice")]
    [InlineData(".shared .align 4 .b8 much[49156];", "49156 bytes")]
    [InlineData("{\n.reg .b32 %r<2>;\nadd.s32 %r0, %r1, 1;\n}\n", null)]
    public void Faults_thatArePlanted_areFound(string statement, string? problem)
    {
        string ptx = $".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry kernel(\n.param .b64 a\n)\n.maxntid 32, 1, 1\n{{\n.reg .pred %p<1>;\n.reg .b32 %r<4>;\n"
            + $".reg .b64 %rd<2>;\n.reg .f32 %f<4>;\n{statement}\nret;\n}}\n";
        if (problem is null)
        {
            Assert.Empty(PtxLint.Problems(ptx)); // registers without a type take floats too
        }
        else
        {
            Assert.Contains(PtxLint.Problems(ptx), found => found.Contains(problem, StringComparison.Ordinal));
        }
    }

    [Fact]
    public void Instructions_ofANewerTarget_areFound() =>
        Assert.Single(PtxLint.Problems(".target sm_75\n.visible .entry kernel(\n)\n.maxntid 32, 1, 1\n{\n.reg .b32 %r;\n.reg .f32 %f;\ncvt.rn.bf16x2.f32 %r, %f, %f;\nret;\n}\n"));

    [Fact]
    public void Results_ofFewBits_areFound() => Assert.Single(PtxLint.Problems(".visible .func (.param .b16 result) Narrow(\n.param .f32 value\n)\n;\n"));

    /// <summary>Runs every operation, so that its kernels are compiled, and checks them all.</summary>
    static void Assemble(KernelDevice device, Func<KernelDevice, Backend> open, params ReadOnlySpan<CaseShape> shapes)
    {
        using var backend = open(device);
        foreach (var shape in shapes)
        {
            foreach (var item in KernelCase.All(shape, backend.Activation))
            {
                using CaseMemory memory = new(backend);
                item.Prepare(memory)();
            }
        }

        Check(device);
    }

    static void Check(KernelDevice device)
    {
        Assert.NotEmpty(device.Compiled);
        Assert.All(device.Compiled, kernel => Assert.Empty(PtxLint.Problems(((EmulatedKernel)kernel.Kernel).Ptx)));
    }
}
