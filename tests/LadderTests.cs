using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Every rung is right, and shows what the course says of it: counts that can be worked out by hand.</summary>
public class LadderTests
{
    const int Size = 64;
    const double Half = 6e-3; // bfloat16 operands of attention, NF4 values rounded to bfloat16

    static readonly IReadOnlyList<RungResult> MatMul = Ladder.ClimbMatMul("emulator", Size), Attention = Ladder.ClimbAttention("emulator", Size);

    [Fact]
    public void Rungs_allOfThem_areRight()
    {
        Assert.All(MatMul.SkipLast(1), rung => Assert.InRange(rung.RelativeError, 0, 1e-6));
        Assert.InRange(MatMul[^1].RelativeError, 1e-6, Half);
        Assert.All(Attention.SkipLast(1), rung => Assert.InRange(rung.RelativeError, 0, 1e-5));
        Assert.InRange(Attention[^1].RelativeError, 1e-6, Half);
    }

    [Fact]
    public void NaiveRung_readsSectorsForEachLane_andTheNextNeighbours()
    {
        Assert.Equal((32 + 1) / 2.0, MatMul[0].SectorsPerLoad); // a: one a lane, b: the same for all
        Assert.Equal((1 + 4) / 2.0, MatMul[1].SectorsPerLoad);
        Assert.True(MatMul[0].IsStrided);
        Assert.All(MatMul.Skip(1), rung => Assert.False(rung.IsStrided, rung.Name));
        Assert.Equal(MatMul[0].Instructions, MatMul[1].Instructions);
    }

    [Fact]
    public void SharedTiles_readEachElementOnceAGroup()
    {
        // Each of (n/16)² groups reads n/16 tiles of both operands, 32 sectors each; C is written in n²/8 sectors.
        long groups = Size / 16 * (Size / 16), expected = groups * (Size / 16) * 2 * 32 + Size * Size / 8;
        Assert.Equal(32 * expected, MatMul[2].GlobalBytes);
        Assert.Equal(2 * groups * (Size / 16), MatMul[2].Barriers);
    }

    [Fact]
    public void RegisterTiles_readSharedMemoryLessOften_andVectorsLessStill()
    {
        Assert.True(MatMul[3].SharedRequests * 3 < MatMul[2].SharedRequests * 1, $"{MatMul[3].SharedRequests} after {MatMul[2].SharedRequests}");
        Assert.True(MatMul[4].SharedRequests * 3 < MatMul[3].SharedRequests, $"{MatMul[4].SharedRequests} after {MatMul[3].SharedRequests}");
    }

    [Fact]
    public void TensorCores_multiplyInTheFewestInstructions_withoutConflictsOnceSwizzled()
    {
        Assert.All(MatMul.Skip(5), rung => Assert.Equal(Size / 16 * (Size / 8) * (Size / 16), rung.MatrixMultiplies));
        Assert.True(MatMul[5].WavefrontsPerRequest > 1.5 * MatMul[6].WavefrontsPerRequest, $"{MatMul[5].WavefrontsPerRequest} before, {MatMul[6].WavefrontsPerRequest} after");
        Assert.Equal(4, MatMul[6].WavefrontsPerRequest); // 32 x 16 bytes are four passes at least
        Assert.True(MatMul[7].Barriers < MatMul[6].Barriers);
        Assert.True(MatMul[8].GlobalBytes < MatMul[7].GlobalBytes);
    }

    [Fact]
    public void OnlineSoftmax_movesNoScores()
    {
        Assert.Equal(3, Attention[0].Launches.Count);
        Assert.Single(Attention[1].Launches);
        Assert.True(Attention[2].GlobalBytes < Attention[1].GlobalBytes);
        Assert.True(Attention[3].MatrixMultiplies > 0);
    }

    [Fact]
    public async Task Tables_ofTheCourse_areWhatTheToolPrints()
    {
        string readme = File.ReadAllText(Path.Combine(TestAssets.Checkout(), "kernels", "README.md"));
        string shown = readme.Split("<!-- ladder -->\n```\n")[1].Split("```\n<!-- /ladder -->")[0];

        var run = (await Tool.RunAsync("ladder")).Succeeds();

        Assert.Equal(shown.Split('\n'), run.Out.ReplaceLineEndings("\n").Split('\n'));
    }

    [Theory]
    [InlineData("emulator", 100, "expected a positive multiple of 64")]
    [InlineData("simulator", 64, "has no bfloat16 tensor cores")]
    public void Climb_whatCannotBe_isRefused(string device, int size, string message) =>
        Assert.Contains(message, Assert.Throws<ArgumentException>(() => Ladder.ClimbMatMul(device, size)).Message, StringComparison.Ordinal);
}
