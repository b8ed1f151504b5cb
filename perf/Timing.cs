using System.Diagnostics;

namespace IlgpuPeft.Perf;

/// <summary>Seconds of one run: the median over the rounds, and the best, which is what an undisturbed machine would give.</summary>
readonly record struct Sample(double Median, double Best);

/// <summary>Times competing actions so that a noisy machine disturbs all of them alike: in rounds, one run of each per round.</summary>
static class Timing
{
    /// <summary>Seconds of one run of each action.</summary>
    /// <param name="rounds">Rounds that count; one more warms up.</param>
    /// <param name="minimumSeconds">An action is repeated within its turn until it has taken about this long.</param>
    /// <param name="actions">The competitors; null for one that is absent, which gets NaN.</param>
    public static Sample[] Interleaved(int rounds, double minimumSeconds, params Action?[] actions)
    {
        var repeats = actions.Select(action => action is null ? 0 : Repeats(action, minimumSeconds)).ToArray();
        var seconds = actions.Select(_ => new double[rounds]).ToArray();
        for (int round = 0; round < rounds; round++)
        {
            for (int a = 0; a < actions.Length; a++)
            {
                if (actions[a] is { } action)
                {
                    Settle(action);
                    seconds[a][round] = Seconds(action, repeats[a]);
                }
                else
                {
                    seconds[a][round] = double.NaN;
                }
            }
        }

        foreach (var samples in seconds)
        {
            Array.Sort(samples);
        }

        return [.. seconds.Select(samples => new Sample(samples[rounds / 2], samples[0]))];
    }

    /// <summary>
    /// Runs an action untimed for a while: OpenBLAS' threads spin for some 30 ms after a product, on cores that the next competitor needs, and a thread that
    /// was parked takes some milliseconds to get a core of its own.
    /// </summary>
    static void Settle(Action action)
    {
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start).TotalMilliseconds < 40)
        {
            action();
        }
    }

    static int Repeats(Action action, double minimumSeconds)
    {
        // The runtime replaces a method with its optimised version some time after 30 calls: warm up by calls and by time.
        long start = Stopwatch.GetTimestamp();
        int calls = 0;
        while (calls < 3 || Stopwatch.GetElapsedTime(start).TotalSeconds < 0.3)
        {
            action();
            calls++;
        }

        return Math.Max(1, (int)(minimumSeconds / Seconds(action, 1)));
    }

    static double Seconds(Action action, int repeats)
    {
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < repeats; i++)
        {
            action();
        }

        return Stopwatch.GetElapsedTime(start).TotalSeconds / repeats;
    }
}
