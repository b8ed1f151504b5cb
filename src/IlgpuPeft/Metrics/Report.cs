using System.Net;
using System.Text;
using IlgpuPeft.Checkpoints;

namespace IlgpuPeft.Metrics;

/// <summary>One self-contained HTML page about a run: facts, plots and texts in the order they were added. It refers to nothing outside itself.</summary>
/// <param name="title">The page's heading.</param>
public sealed class Report(string title)
{
    const string Style = """
        body { font-family: system-ui, sans-serif; max-width: 780px; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark; background: Canvas; color: CanvasText }
        h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem } table { border-collapse: collapse }
        th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; font-weight: normal; overflow-wrap: anywhere } th { opacity: .7; white-space: nowrap }
        pre { overflow-x: auto; border: 1px solid GrayText; padding: .6rem } svg { width: 100%; margin-top: 1rem }
        """;

    readonly StringBuilder body = new();

    /// <summary>Adds a table of names and values.</summary>
    public void AddFacts(string heading, IEnumerable<(string Name, string Value)> facts)
    {
        body.Append($"<h2>{Encode(heading)}</h2>\n<table>\n");
        foreach (var (name, value) in facts)
        {
            body.Append($"<tr><th>{Encode(name)}</th><td>{Encode(value)}</td></tr>\n");
        }

        body.Append("</table>\n");
    }

    /// <summary>Adds SVG text, such as <see cref="Plot.Svg"/> draws.</summary>
    public void AddPlot(string svg) => body.Append(svg).Append('\n');

    /// <summary>Adds a text as it is, in lines.</summary>
    public void AddText(string heading, string text) => body.Append($"<h2>{Encode(heading)}</h2>\n<pre>{Encode(text)}</pre>\n");

    /// <summary>The page.</summary>
    public string ToHtml() =>
        $"<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>{Encode(title)}</title>\n" +
        $"<style>{Style}</style>\n</head>\n<body>\n<h1>{Encode(title)}</h1>\n{body}</body>\n</html>\n";

    /// <summary>Writes the page.</summary>
    /// <exception cref="IOException">As <see cref="AtomicFile.Write"/>.</exception>
    public void Write(string path) => AtomicFile.WriteText(path, ToHtml());

    static string Encode(string text) => WebUtility.HtmlEncode(text);
}
