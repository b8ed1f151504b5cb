using System.Text.Json;

namespace IlgpuPeft.Metrics;

/// <summary>Reads a <c>metrics.jsonl</c>.</summary>
public static class MetricsFile
{
    /// <summary>The numbers of every row, by name. A last line that a killed run left half written is skipped.</summary>
    /// <exception cref="InvalidDataException">A line before the last is not a JSON object.</exception>
    public static IReadOnlyList<IReadOnlyDictionary<string, double>> Read(string path)
    {
        List<IReadOnlyDictionary<string, double>> rows = [];
        string[] lines = File.ReadAllLines(path);
        for (int i = 0; i < lines.Length; i++)
        {
            try
            {
                using var row = JsonDocument.Parse(lines[i]);
                rows.Add(row.RootElement.EnumerateObject().Where(field => field.Value.ValueKind == JsonValueKind.Number)
                    .ToDictionary(field => field.Name, field => field.Value.GetDouble(), StringComparer.Ordinal));
            }
            catch (Exception cause) when (cause is JsonException or InvalidOperationException)
            {
                if (i < lines.Length - 1)
                {
                    throw new InvalidDataException($"{path}:{i + 1}: the line is not a JSON object. Repair or remove it.", cause);
                }
            }
        }

        return rows;
    }

    /// <summary>One field over the rows that have it, against their <c>step</c>.</summary>
    /// <param name="rows">From <see cref="Read"/>.</param>
    /// <param name="field">Name in the file.</param>
    /// <param name="name">Name in the legend.</param>
    public static Series Series(IReadOnlyList<IReadOnlyDictionary<string, double>> rows, string field, string name) =>
        new(name, [.. rows.Where(row => row.ContainsKey(field) && row.ContainsKey("step")).Select(row => (row["step"], row[field]))]);
}
