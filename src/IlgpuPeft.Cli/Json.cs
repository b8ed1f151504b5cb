using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace IlgpuPeft.Cli;

/// <summary>What <c>--json</c> prints: one object on one line, names in snake_case.</summary>
static class Json
{
    static readonly JsonSerializerOptions Options = new()
    {
        PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping, // it goes to a terminal or a parser, not into a page
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals, // the perplexity of a broken model is "Infinity"
    };

    public static string Line<T>(T value) => JsonSerializer.Serialize(value, Options);
}
