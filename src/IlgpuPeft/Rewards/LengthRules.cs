using System.Runtime.InteropServices;

namespace IlgpuPeft.Rewards;

/// <summary>Rules that count an answer's tokens. <see cref="RewardRules"/> says what each computes.</summary>
static class LengthRules
{
    public static Reward Ended(RuleOptions options) => Reward.Of(options, sample => sample.Ended ? 1 : 0);

    public static Reward Length(RuleOptions options)
    {
        int? target = options.Count("target"), min = options.Count("min") ?? target, max = options.Count("max") ?? target;
        bool tokens = options.Choice("unit", "tokens", "characters") == "tokens", perToken = options.Flag("per_token");
        options.Require(min is not null || max is not null, "no length is given, expected target, or min or max or both");
        options.Require(target is null || (options.Text("min") ?? options.Text("max")) is null, "target is given with min or max, expected one or the other");
        options.Require((min ?? 0) <= (max ?? int.MaxValue), $"min is {min} and max {max}, expected min to be the smaller");
        options.Require(!perToken || (tokens && min is null && max is not null), "per_token needs max, tokens as the unit, and no min: only a token too many can be made to pay");
        return perToken
            ? Reward.PerToken(options, sample => [.. sample.Response.Select((_, t) => t < max ? 0 : -1.0 / max!.Value)])
            : tokens ? Reward.Of(options, sample => -Outside(sample.Response.Length, min ?? 0, max ?? int.MaxValue))
            : Reward.OfText(options, sample => -Outside(sample.Text.EnumerateRunes().Count(), min ?? 0, max ?? int.MaxValue));
    }

    public static Reward Repetition(RuleOptions options)
    {
        int size = options.Count("size") ?? 3;
        return options.Flag("per_token")
            ? Reward.PerToken(options, sample => Repeats(sample.Response, size))
            : Reward.Of(options, sample => Repeats(sample.Response, size).Sum());
    }

    static double Outside(int length, int min, int max) => length < min ? (double)(min - length) / min : length > max ? (double)(length - max) / max : 0;

    // What each token pays for completing a run that was there before.
    static double[] Repeats(int[] response, int size)
    {
        var paid = new double[response.Length];
        int runs = response.Length - size + 1;
        var seen = new HashSet<string>(StringComparer.Ordinal);
        for (int first = 0; first < runs; first++)
        {
            string run = new(MemoryMarshal.Cast<int, char>(response.AsSpan(first, size))); // two characters a token: hashed and compared as they are
            paid[first + size - 1] = seen.Add(run) ? 0 : -1.0 / runs;
        }

        return paid;
    }
}
