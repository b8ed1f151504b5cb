using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>What a policy wrote at some point of its training, as <c>samples.jsonl</c> holds it.</summary>
/// <param name="Step">The update it was drawn for, from 1.</param>
/// <param name="Prompt">The prompt's text.</param>
/// <param name="Response">The response's text.</param>
/// <param name="Score">What it was paid, without the divergence.</param>
/// <param name="Kl">Its divergence from the reference, in nats.</param>
public sealed record PolicySample(
    [property: JsonPropertyName("step")] int Step, [property: JsonPropertyName("prompt")] string Prompt, [property: JsonPropertyName("response")] string Response,
    [property: JsonPropertyName("score")] double Score, [property: JsonPropertyName("kl")] double Kl);

/// <summary>The file of samples in a run's folder.</summary>
sealed class SampleFile(RunFolder folder)
{
    // Texts are readable as they are: nothing here ends up in HTML.
    static readonly JsonSerializerOptions Format = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Appends rows.</summary>
    public void Append<TRow>(IEnumerable<TRow> samples) =>
        File.AppendAllText(folder.SamplesPath, string.Concat(samples.Select(sample => JsonSerializer.Serialize(sample, Format) + "\n")));
}
