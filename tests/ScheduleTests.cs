using System.Text.Json;
using IlgpuPeft.Optim;
using Xunit;

namespace IlgpuPeft.Tests;

public class ScheduleTests
{
    // The file also has polynomial, inverse_sqrt and cosine with hard restarts, which this library does not have.
    [Theory]
    [InlineData("constant", ScheduleKind.Constant, 0)]
    [InlineData("constant_with_warmup(4)", ScheduleKind.Constant, 4)]
    [InlineData("linear_warmup(2,10)", ScheduleKind.Linear, 2)]
    [InlineData("cosine_warmup(2,10)", ScheduleKind.Cosine, 2)]
    public void At_ofTheGoldenCase_equalsTransformers(string name, ScheduleKind kind, int warmup)
    {
        using var golden = JsonDocument.Parse(File.ReadAllText(TestAssets.Path("assets/golden-hf-tests/schedules.json")));
        var root = golden.RootElement;
        double[] expected = [.. root.GetProperty(name).EnumerateArray().Select(x => x.GetDouble())];
        var schedule = new Schedule(kind, root.GetProperty("base_lr").GetDouble(), warmup, root.GetProperty("num_steps").GetInt32());

        Assert.Equal(10, expected.Length);
        Assert.All(expected.Index(), x => Assert.Equal(x.Item, schedule.At(x.Index), root.GetProperty("tol").GetDouble()));
    }

    [Fact]
    public void At_linear_isAStraightLineUpAndDown()
    {
        var schedule = new Schedule(ScheduleKind.Linear, 3e-4, 7, 40);

        for (int step = 0; step <= 45; step++)
        {
            double expected = step < 7 ? 3e-4 * step / 7 : Math.Max(0, 3e-4 * (40 - step) / 33);
            Assert.Equal(expected, schedule.At(step), 1e-18);
        }
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0.1)]
    public void At_cosine_fallsFromThePeakToItsMinimumAndStaysThere(double minimum)
    {
        var schedule = new Schedule(ScheduleKind.Cosine, 2, 10, 110, minimum);

        Assert.Equal(2, schedule.At(10));
        Assert.Equal(2 * (minimum + (1 - minimum) / 2), schedule.At(60), 1e-15);
        Assert.Equal(2 * (minimum + (1 - minimum) * (1 + Math.Cos(Math.PI * 0.3)) / 2), schedule.At(40), 1e-15);
        Assert.Equal(2 * minimum, schedule.At(110), 1e-15);
        Assert.Equal(2 * minimum, schedule.At(1000), 1e-15);
    }

    [Fact]
    public void At_runsOfNoOrOnlyWarmup_areFinite()
    {
        Assert.Equal(1, new Schedule(ScheduleKind.Linear, 1, 0, 1).At(0));
        Assert.Equal(0.5, new Schedule(ScheduleKind.Cosine, 1, 4, 4).At(2));
        Assert.Equal(1, new Schedule(ScheduleKind.Cosine, 1, 4, 4).At(4));
        Assert.Equal(1, new Schedule(ScheduleKind.Linear, 1, 0, 0).At(0));
    }
}
