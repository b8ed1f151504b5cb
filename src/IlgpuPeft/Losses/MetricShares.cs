namespace IlgpuPeft.Losses;

/// <summary>
/// Metrics of a step that is computed in several calls. Every call divides by the counts of the whole step, so that its metrics are shares, as its loss is: the step's are their sums.
/// </summary>
public static class MetricShares
{
    /// <summary>The metrics of the step: by name, the sum over its calls.</summary>
    public static IReadOnlyDictionary<string, double> Sum(IEnumerable<IReadOnlyDictionary<string, double>> calls)
    {
        var sums = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach (var (name, share) in calls.SelectMany(call => call))
        {
            sums[name] = sums.GetValueOrDefault(name) + share;
        }

        return sums;
    }
}
