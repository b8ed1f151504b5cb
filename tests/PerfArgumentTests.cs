using IlgpuPeft.Perf;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Command lines that the benchmarks cannot follow end with one line and exit code 1, before anything runs.</summary>
public class PerfArgumentTests
{
    [Theory]
    [InlineData("", "perf: expected a command, one of attention, decode, ")]
    [InlineData("bogus", "got 'bogus'")]
    [InlineData("gemm nonsense", "perf gemm: THREADS: expected a whole number from 1 on, got 'nonsense'.")]
    [InlineData("gemm 2 3", "perf gemm: expected [THREADS], got '3' too.")]
    [InlineData("matvec abc", "perf matvec: THREADS: expected a whole number from 1 on, got 'abc'.")]
    [InlineData("matvec 0", "got '0'")]
    [InlineData("attention x", "perf attention: expected nothing, got 'x' too.")]
    [InlineData("ppo smollm2-135m abc", "perf ppo: UPDATES: expected a whole number from 2 on, got 'abc'.")]
    [InlineData("ppo smollm2-135m 1", "got '1'")]
    [InlineData("grpo nosuch", "SHAPE: expected one of built-in, llama3.1-8b, ")]
    [InlineData("ppo tiny 2 nosuch", "device 'nosuch': expected auto, cpu, cuda:N, emulator or simulator.")]
    [InlineData("decode nosuch", "perf decode: SHAPE: expected one of llama3.1-8b, ")]
    [InlineData("decode tiny 3 Nf5", "STORAGE: expected one of AsStored, Nf4, Nf4Double, got 'Nf5'.")]
    [InlineData("step nosuch", "perf step: SHAPE: expected one of llama3.1-8b, ")]
    [InlineData("step tiny many", "TOKENS: expected a whole number from 1 on, got 'many'.")]
    [InlineData("make-model tiny", "perf make-model: expected SHAPE FOLDER, got only 'tiny'.")]
    [InlineData("make-model nosuch folder", "SHAPE: expected one of ")]
    [InlineData("learn", "expected MODEL PREFERENCES [SEEDS [METHOD]], got nothing.")]
    [InlineData("learn model rows 5 sft", "METHOD: expected one of reward, dpo, ppo, grpo, got 'sft'.")]
    [InlineData("learn nosuch rows", "nosuch: there is no tokenizer.json.")]
    [InlineData("outputs", "perf outputs: expected ACTION ")]
    [InlineData("outputs bogus", "ACTION: expected one of save, check, got 'bogus'.")]
    [InlineData("outputs check --file nosuch", "nosuch: no such file.")]
    [InlineData("device --device", "perf device: --device: expected a value behind it, got none.")]
    [InlineData("device --device --csv", "perf device: --device: expected a value behind it, got none.")]
    [InlineData("device --devise emulator", "got the option '--devise'.")]
    [InlineData("device --csv a --csv b", "--csv: expected it once, got it twice.")]
    [InlineData("device --device emulator --operation zzz", "--operation: expected the beginning of one of Copy from F32; Copy; ")]
    [InlineData("device --device emulator --shape nosuch", "--shape: expected one of tiny, even, smollm2-135m, llama3.1-8b, got 'nosuch'.")]
    [InlineData("device-step --device emulator --shape nosuch", "--shape: expected one of ")]
    [InlineData("device-step --device emulator --tokens 3", "--tokens: expected a whole number from 4 on, got '3'.")]
    [InlineData("kernels --device nosuch", "device 'nosuch': expected auto")]
    [InlineData("kernels --device cpu", "device 'cpu' runs no kernels, expected cuda:N or emulator.")]
    public void CommandLines_thatCannotBeFollowed_areRefused(string line, string message)
    {
        using StringWriter error = new();

        int code = Verbs.Run(line.Split(' ', StringSplitOptions.RemoveEmptyEntries), error);

        Assert.Contains(message, error.ToString(), StringComparison.Ordinal);
        Assert.Single(error.ToString().TrimEnd().Split('\n'));
        Assert.Equal(1, code);
    }

    [Fact]
    public void Words_andOptions_areRead()
    {
        Arguments args = new("A [B [C]] [--d N]", ["x", "--d", "7", "y"]);

        Assert.Equal(("x", "y", null, "7"), (args["A"], args["B"], args["C"], args["--d"]));
        Assert.Equal((7, 3), (args.Number("--d", 1), args.Number("C", 3)));
        Assert.Equal("y", args.OneOf("B", ["x", "y"], "x"));
    }

    [Fact]
    public void Numbers_thatAreNone_areADash() => Assert.Equal(("-", "1.25"), (GemmBenchmark.Cell(double.NaN, "F2"), GemmBenchmark.Cell(1.25, "F2")));
}
