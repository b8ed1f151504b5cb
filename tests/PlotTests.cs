using System.Xml.Linq;
using CsCheck;
using IlgpuPeft.Metrics;
using Xunit;

namespace IlgpuPeft.Tests;

public class PlotTests
{
    static readonly double[] Extremes = [0, 1, double.MaxValue, double.MinValue, double.Epsilon, double.NaN, double.NegativeInfinity];
    static readonly Gen<double> Value = Gen.OneOf(Gen.Double, Gen.OneOf([.. Extremes.Select(Gen.Const)]));

    [Fact]
    public void Plot_is_well_formed_and_refers_to_nothing_outside()
    {
        string svg = Plot.Svg("a < b & \"c\"", "x", "y", [new("one", [(1, 2), (2, double.NaN), (3, -1)]), new("two", [(1, 1)])]);
        var root = XDocument.Parse(svg).Root!;
        XNamespace ns = root.Name.Namespace;
        Assert.Equal("a < b & \"c\"", root.Element(ns + "title")!.Value);
        Assert.Equal(2, Assert.Single(root.Elements(ns + "polyline")).Attribute("points")!.Value.Split(' ').Length); // NaN is left out, one point makes no line
        Assert.Equal(3, root.Elements(ns + "circle").Count());
        Assert.DoesNotContain("http", svg.Replace("http://www.w3.org/2000/svg", "", StringComparison.Ordinal), StringComparison.Ordinal);
    }

    [Fact]
    public void Plot_puts_larger_values_higher_and_later_steps_further_right()
    {
        var root = XDocument.Parse(Plot.Svg("t", "x", "y", [new("one", [(0, 0), (10, 5)])])).Root!;
        double[][] points = [.. root.Elements(root.Name.Namespace + "polyline").Single().Attribute("points")!.Value.Split(' ').Select(p => p.Split(',').Select(double.Parse).ToArray())];
        Assert.True(points[1][0] > points[0][0] && points[1][1] < points[0][1]);
    }

    [Fact]
    public void Plot_of_any_values_stays_inside_its_frame() => Gen.Select(Value, Value).Array[1, 12].Sample(points =>
    {
        var root = XDocument.Parse(Plot.Svg("t", "x", "y", [new("one", points)])).Root!;
        var ns = root.Name.Namespace;
        var drawn = root.Elements(ns + "circle").Select(x => ((double)x.Attribute("cx")!, (double)x.Attribute("cy")!))
            .Concat(root.Elements(ns + "line").Select(x => ((double)x.Attribute("x2")!, (double)x.Attribute("y2")!)));
        Assert.All(drawn, point => Assert.True(point.Item1 is >= 0 and <= 720 && point.Item2 is >= 0 and <= 280, $"{point} is outside 720 x 280"));
    });

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(100_000)]
    public void Plot_of_any_number_of_points_is_of_bounded_size(int count)
    {
        string svg = Plot.Svg("t", "x", "y", [new("one", [.. Enumerable.Range(0, count).Select(i => (i * 1.0, 3.0))])]);
        XDocument.Parse(svg);
        Assert.Equal(count == 0, svg.Contains("no data", StringComparison.Ordinal));
        Assert.InRange(svg.Length, 100, 60_000);
    }

    [Fact]
    public void Report_encodes_what_it_is_given()
    {
        var report = new Report("<script>");
        report.AddFacts("Facts", [("<b>", "a & b")]);
        report.AddText("Text", "</pre>");
        string html = report.ToHtml();
        Assert.DoesNotContain("<script>", html, StringComparison.Ordinal);
        Assert.DoesNotContain("<b>", html, StringComparison.Ordinal);
        Assert.Contains("a &amp; b", html, StringComparison.Ordinal);
        Assert.Contains("&lt;/pre&gt;", html, StringComparison.Ordinal);
    }

    [Fact]
    public void Metrics_file_skips_a_torn_last_line_and_refuses_any_other()
    {
        using var temp = new TempFolder();
        File.WriteAllText(temp.File("m.jsonl"), "{\"step\":1,\"loss\":2.5}\n{\"step\":2,\"loss\":2,\"eval_loss\":3}\n{\"step\":3,\"lo");
        var rows = MetricsFile.Read(temp.File("m.jsonl"));
        Assert.Equal([(1, 2.5), (2, 2)], MetricsFile.Series(rows, "loss", "").Points);
        Assert.Equal([(2, 3)], MetricsFile.Series(rows, "eval_loss", "").Points);
        File.WriteAllText(temp.File("m.jsonl"), "{\"st\n{\"step\":2}\n");
        Assert.Contains("m.jsonl:1", Assert.Throws<InvalidDataException>(() => MetricsFile.Read(temp.File("m.jsonl"))).Message, StringComparison.Ordinal);
    }
}
