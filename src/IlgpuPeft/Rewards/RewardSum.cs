using IlgpuPeft.Data;
using IlgpuPeft.Training;

namespace IlgpuPeft.Rewards;

/// <summary>Several rewards with weights, as the one that a policy is trained on. Makes sure that each says something usable of each sample.</summary>
/// <param name="parts">The rewards and their weights; at least one.</param>
public sealed class RewardSum(IReadOnlyList<(Reward Reward, double Weight)> parts)
{
    /// <summary>The rewards and their weights.</summary>
    public IReadOnlyList<(Reward Reward, double Weight)> Parts { get; } =
        parts.Count > 0 ? parts : throw new ArgumentException("RewardSum: there is no reward, expected at least one.", nameof(parts));

    /// <summary>Whether the last batch could not be judged: what failed is to be mended, which makes it another reward.</summary>
    internal bool HasFailed { get; private set; }

    /// <summary>Looks at all prompts before the run.</summary>
    /// <exception cref="ArgumentException">A prompt's row lacks what a reward needs.</exception>
    public void Check(IEnumerable<Prompt> prompts)
    {
        foreach (var prompt in prompts)
        {
            foreach (var (reward, _) in Parts)
            {
                reward.Check(prompt);
            }
        }
    }

    /// <summary>Judges a batch.</summary>
    /// <returns>The weighted sums, and what each reward said [rewards][samples].</returns>
    /// <exception cref="RewardException">A reward threw, or its answer has another length than the batch or response, or is not finite.</exception>
    public (IReadOnlyList<Judgement> Sums, IReadOnlyList<IReadOnlyList<Judgement>> Each) Judge(IReadOnlyList<Sample> samples)
    {
        HasFailed = true; // until all have answered
        List<IReadOnlyList<Judgement>> each = [.. Parts.Select(part => Ask(part.Reward, samples))];
        HasFailed = false;
        return ([.. samples.Select((sample, i) => Sum([.. each.Select(judgements => judgements[i])], sample.Response.Length))], each);
    }

    Judgement Sum(IReadOnlyList<Judgement> judgements, int tokens)
    {
        double score = judgements.Zip(Parts).Sum(pair => pair.Second.Weight * pair.First.Score);
        if (judgements.All(judgement => judgement.PerToken is null))
        {
            return new Judgement(score);
        }

        var perToken = new double[tokens];
        foreach (var (judgement, part) in judgements.Zip(Parts))
        {
            for (int t = 0; t < (judgement.PerToken?.Length ?? 0); t++)
            {
                perToken[t] += part.Weight * judgement.PerToken![t];
            }
        }

        return new Judgement(score, perToken);
    }

    static IReadOnlyList<Judgement> Ask(Reward reward, IReadOnlyList<Sample> samples)
    {
        var judgements = Try(reward, samples);
        if (judgements.Count != samples.Count)
        {
            throw new RewardException($"reward {reward.Name}: it judged {judgements.Count} samples, expected {samples.Count}. It must return one judgement for each sample.");
        }

        foreach (var (sample, judgement) in samples.Zip(judgements))
        {
            if (judgement.PerToken is { } tokens && tokens.Length != sample.Response.Length)
            {
                throw new RewardException($"reward {reward.Name}: it gave {tokens.Length} numbers for {Describe(sample)}, expected {sample.Response.Length}, one for each token of the response.");
            }

            if (!double.IsFinite(judgement.Total))
            {
                throw new RewardException($"reward {reward.Name}: it gave {judgement.Total} for {Describe(sample)}, expected a finite number.");
            }
        }

        return judgements;
    }

    // A reward that throws on a batch is asked again sample by sample, to say which one it was.
    static IReadOnlyList<Judgement> Try(Reward reward, IReadOnlyList<Sample> samples)
    {
        try
        {
            return reward.Judge(samples);
        }
        catch (Exception cause) // a cancellation too: rewards know nothing of the run's, so it is one of their own, such as a time limit
        {
            foreach (var sample in samples)
            {
                try
                {
                    reward.Judge([sample]);
                }
                catch (Exception alone)
                {
                    throw new RewardException($"reward {reward.Name}: it threw {alone.GetType().Name} for {Describe(sample)}: {alone.Message}", alone);
                }
            }

            throw new RewardException($"reward {reward.Name}: it threw {cause.GetType().Name} for a batch of {samples.Count} samples, though for none of them alone: {cause.Message}", cause);
        }
    }

    static string Describe(Sample sample) => $"the answer \"{Short(sample.Text)}\" to {sample.Prompt.File}:{sample.Prompt.Line}, \"{Short(sample.Prompt.Text)}\"";

    static string Short(string text)
    {
        const int Shown = 60;
        string line = text.ReplaceLineEndings("\\n");
        return line.Length <= Shown ? line : line[..Shown] + "...";
    }
}
