using System.Globalization;
using System.Net;
using System.Text;

namespace IlgpuPeft.Metrics;

/// <summary>One line of a plot.</summary>
/// <param name="Name">For the legend.</param>
/// <param name="Points">From left to right; points that are not finite, or beyond ±1e100, are left out.</param>
public sealed record Series(string Name, IReadOnlyList<(double X, double Y)> Points);

/// <summary>Line plots as SVG text without any reference outside it: readable on light and on dark ground.</summary>
public static class Plot
{
    const double Width = 720, Height = 280, Left = 72, Right = 16, Top = 36, Bottom = 48;
    const double Largest = 1e100; // differences and products of coordinates stay finite
    const int MostPoints = 1500; // about two to a pixel; more only makes the file larger

    // Of middle lightness, and told apart by people who do not tell red from green.
    static readonly string[] Colours = ["#2f7ed8", "#d9822b", "#8a63c9", "#2f9e77"];

    /// <summary>Draws the lines, with rounded ticks, axis labels, and a legend where there are several.</summary>
    public static string Svg(string title, string xLabel, string yLabel, IReadOnlyList<Series> series)
    {
        List<Series> drawn = [.. series.Select(line => line with { Points = Thin([.. line.Points.Where(IsDrawable)]) }).Where(line => line.Points.Count > 0)];
        var svg = new StringBuilder();
        svg.Append(Invariant($"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {Width} {Height}\" role=\"img\" class=\"plot\" "));
        svg.Append("font-family=\"sans-serif\" font-size=\"12\">");
        svg.Append("<style>.plot{color:#333}@media(prefers-color-scheme:dark){.plot{color:#ccc}}.plot text{fill:currentColor}</style>");
        svg.Append($"<title>{WebUtility.HtmlEncode(title)}</title>");
        Text(svg, Left, 18, title, "start", "font-size=\"14\" font-weight=\"bold\"");
        if (drawn.Count == 0)
        {
            Text(svg, Width / 2, Height / 2, "no data", "middle");
            return svg.Append("</svg>").ToString();
        }

        var all = drawn.SelectMany(line => line.Points).ToList();
        var x = new Axis(all.Min(point => point.X), all.Max(point => point.X), Left, Width - Right);
        var y = new Axis(all.Min(point => point.Y), all.Max(point => point.Y), Height - Bottom, Top);
        foreach (double tick in x.Ticks)
        {
            Line(svg, x.At(tick), Height - Bottom, x.At(tick), Height - Bottom + 5, 0.8);
            Text(svg, x.At(tick), Height - Bottom + 18, Number(tick), "middle");
        }

        foreach (double tick in y.Ticks)
        {
            Line(svg, Left, y.At(tick), Width - Right, y.At(tick), 0.15);
            Text(svg, Left - 6, y.At(tick) + 4, Number(tick), "end");
        }

        Line(svg, Left, Height - Bottom, Width - Right, Height - Bottom, 0.8);
        Line(svg, Left, Top, Left, Height - Bottom, 0.8);
        Text(svg, (Left + Width - Right) / 2, Height - 8, xLabel, "middle");
        Text(svg, 0, 0, yLabel, "middle", Invariant($"transform=\"translate(14 {(Top + Height - Bottom) / 2}) rotate(-90)\""));
        for (int i = 0; i < drawn.Count; i++)
        {
            Curve(svg, drawn[i].Points, x, y, Colours[i % Colours.Length]);
            if (drawn.Count > 1)
            {
                double at = Width - Right - (130 * (drawn.Count - i));
                svg.Append(Invariant($"<rect x=\"{at}\" y=\"8\" width=\"12\" height=\"12\" fill=\"{Colours[i % Colours.Length]}\"/>"));
                Text(svg, at + 18, 18, drawn[i].Name, "start");
            }
        }

        return svg.Append("</svg>").ToString();
    }

    static void Curve(StringBuilder svg, IReadOnlyList<(double X, double Y)> points, Axis x, Axis y, string colour)
    {
        if (points.Count > 1)
        {
            svg.Append(Invariant($"<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-linejoin=\"round\" points=\""));
            svg.AppendJoin(' ', points.Select(point => Invariant($"{x.At(point.X):0.##},{y.At(point.Y):0.##}"))).Append("\"/>");
        }

        if (points.Count <= 20) // few measurements are shown as such
        {
            foreach (var point in points)
            {
                svg.Append(Invariant($"<circle cx=\"{x.At(point.X):0.##}\" cy=\"{y.At(point.Y):0.##}\" r=\"3\" fill=\"{colour}\"/>"));
            }
        }
    }

    static bool IsDrawable((double X, double Y) point) => Math.Abs(point.X) < Largest && Math.Abs(point.Y) < Largest; // false for NaN

    static List<(double X, double Y)> Thin(List<(double X, double Y)> points)
    {
        int stride = (points.Count + MostPoints - 1) / MostPoints;
        return stride <= 1 ? points : [.. points.Where((_, i) => i % stride == 0 || i == points.Count - 1)];
    }

    static void Line(StringBuilder svg, double x1, double y1, double x2, double y2, double opacity) =>
        svg.Append(Invariant($"<line x1=\"{x1:0.##}\" y1=\"{y1:0.##}\" x2=\"{x2:0.##}\" y2=\"{y2:0.##}\" stroke=\"currentColor\" stroke-opacity=\"{opacity}\"/>"));

    static void Text(StringBuilder svg, double x, double y, string text, string anchor, string more = "") =>
        svg.Append(Invariant($"<text x=\"{x:0.##}\" y=\"{y:0.##}\" text-anchor=\"{anchor}\" {more}>")).Append(WebUtility.HtmlEncode(text)).Append("</text>");

    static string Number(double value) => Math.Abs(value) switch
    {
        0 => "0",
        < 1e-3 or >= 1e6 => value.ToString("0.##e+0", CultureInfo.InvariantCulture),
        _ => value.ToString("#,0.####", CultureInfo.InvariantCulture),
    };

    static string Invariant(FormattableString text) => FormattableString.Invariant(text);

    /// <summary>A linear map from values to pixels, with ticks at multiples of 1, 2 or 5 times a power of ten.</summary>
    sealed class Axis
    {
        readonly double low, high, from, to;

        public Axis(double least, double most, double from, double to)
        {
            double margin = most > least ? 0 : Math.Max(Math.Abs(least) * 0.1, 1e-9);
            (low, high, this.from, this.to) = (least - margin, most + margin, from, to);
            double rough = (high - low) / 5, power = Math.Pow(10, Math.Floor(Math.Log10(rough)));
            double step = power * ((rough / power) switch { <= 1 => 1, <= 2 => 2, <= 5 => 5, _ => 10 });
            double first = Math.Ceiling(low / step - 1e-9);
            Ticks = [.. Enumerable.Range(0, 12).Select(i => (first + i) * step).TakeWhile(tick => tick <= high + step * 1e-9)];
        }

        public IReadOnlyList<double> Ticks { get; }

        public double At(double value) => from + (value - low) / (high - low) * (to - from);
    }
}
