using IlgpuPeft.Checkpoints;
using IlgpuPeft.Perf;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What measures on a borrowed GPU goes on behind the operation that ended its process.</summary>
public class ResumableRunTests
{
    static readonly string[] Items = ["a", "b", "c"];

    [Fact]
    public void Run_afterAFault_goesOnBehindIt()
    {
        using var temp = new TempFolder();
        string file = temp.File("progress");
        List<string> done = [];

        Assert.False(Go(new ResumableRun(file)));
        Assert.Equal(["a"], done);
        Assert.True(Go(new ResumableRun(file)));
        Assert.Equal(["a", "c"], done);
        Assert.Empty(new ResumableRun(file).Left(Items, item => item));

        bool Go(ResumableRun run) => run.Left(Items, item => item).All(item => run.Try(item, () =>
        {
            if (item == "b")
            {
                throw new InvalidOperationException("an illegal memory access was encountered");
            }

            done.Add(item);
        }));
    }

    [Fact]
    public void Run_withoutAFile_startsAtTheBeginning()
    {
        Assert.True(new ResumableRun(null).Try("a", () => { }));
        Assert.Equal(Items, new ResumableRun(null).Left(Items, item => item));
    }

    [Fact]
    public void Outputs_thatTheFileLacks_orThatDiffer_areWrong_andTheRestIsStillChecked()
    {
        using var temp = new TempFolder();
        string file = temp.File("outputs.safetensors"), progress = temp.File("progress");
        SafetensorsWriter.Write(file, [TensorSource.OfFloats(new TensorInfo("other", Kernels.DType.F32, 1), () => new float[] { 1 })]);
        string[] names = [.. OutputsCheck.Items(Kernels.DType.F32).Concat(OutputsCheck.Items(Kernels.DType.BF16)).Select(item => item.Name)];
        File.WriteAllLines(progress, names.Except(["F32 tiny Fill", "BF16 tiny Add"])); // two are left

        Assert.Equal(1, Verbs.Run(["outputs", "check", "--device", "emulator", "--file", file, "--progress", progress], TextWriter.Null));
        Assert.Equal(names.Order(StringComparer.Ordinal), File.ReadAllLines(progress).Order(StringComparer.Ordinal));
        Assert.Equal(names.Length, names.Distinct().Count());
    }

    [Fact]
    public void Errors_areRelative_andNaNIsOne()
    {
        Assert.Equal(0, OutputsCheck.RelativeError([0, 0], [0, 0]));
        Assert.Equal(0.1, OutputsCheck.RelativeError([3, 4], [3, 4.5f]), 1e-7);
        Assert.True(double.IsNaN(OutputsCheck.RelativeError([1], [float.NaN])));
    }
}
