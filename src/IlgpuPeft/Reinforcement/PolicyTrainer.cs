using System.Diagnostics;
using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>What trainers of policies share: prompts and rewards, looked at before the first update, and the seeds of what a policy draws.</summary>
public abstract class PolicyTrainer : Trainer
{
    const string JudgedBy = "rewards: "; // begins the name of a state whose name is all that it says

    readonly ulong seed;
    string? task, judges;

    /// <param name="model">The base model.</param>
    /// <param name="options">How.</param>
    /// <param name="prompts">What the policy is asked.</param>
    /// <param name="rewards">What it is paid for.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    private protected PolicyTrainer(CausalLm model, TrainingOptions options, IReadOnlyList<Prompt> prompts, RewardSum rewards) : base(model, options) =>
        (seed, Prompts, Rewards) = (options.Seed, prompts, rewards);

    /// <summary>What the policy is asked.</summary>
    private protected IReadOnlyList<Prompt> Prompts { get; }

    /// <summary>What it is paid for.</summary>
    private protected RewardSum Rewards { get; }

    /// <summary>Prompts, with what answers are compared with, and the rewards' names and weights in words, for <see cref="Trainer.Settings"/>.</summary>
    private protected string Task => task ??= Describe();

    /// <summary>
    /// What the rewards are. It is no setting, since a run whose reward failed goes on with another, which is mended: then its checkpoint says nothing of them.
    /// </summary>
    /// <exception cref="CheckpointException">The checkpoint was made with other rewards.</exception>
    private protected override Dictionary<string, double> State
    {
        get => Rewards.HasFailed ? [] : new() { [Judges] = 1 };
        set
        {
            if (value.Keys.FirstOrDefault(name => name.StartsWith(JudgedBy, StringComparison.Ordinal)) is { } others && others != Judges)
            {
                throw new CheckpointException(ResumeState.FileName, null, $"belongs to a run with other settings or data (it was made with [{others}], this run has [{Judges}]). Restore them, or start anew without resuming.");
            }
        }
    }

    string Judges => judges ??= JudgedBy + string.Join(", ", Rewards.Parts.Select(part => part.Reward.Description)); // no step changes them: what is long to read is read once

    /// <summary>Refuses what would fail in the middle of a run.</summary>
    /// <param name="validation">Prompts to evaluate on.</param>
    /// <param name="stopIds">Tokens that end a response; null for the model's own.</param>
    /// <param name="responseLength">The most tokens of a response.</param>
    /// <param name="lengthKey">What the configuration calls that.</param>
    /// <exception cref="ArgumentException">There are no prompts; one is empty, too long, of another model or lacks what a reward needs; no token ends a response; or two rewards have one name.</exception>
    private protected void CheckTask(IEnumerable<Prompt> validation, IReadOnlyList<int>? stopIds, int responseLength, string lengthKey)
    {
        Require(Rewards.Parts.Select(part => part.Reward.Name).Distinct(StringComparer.Ordinal).Count() == Rewards.Parts.Count,
            $"two of the rewards {string.Join(", ", Rewards.Parts.Select(part => part.Reward.Name))} have one name, which metrics cannot tell apart. Give one of them another with the option label.");
        Require(Prompts.Count > 0, "there are no prompts to train on.");
        Require(stopIds is not null || Model.Config.EosIds.Count > 0,
            "the model names no end-of-sequence token, so no response could end. Set stop_token_id, or an empty StopIds for responses of full length.");
        RequireInVocabulary($"{GetType().Name}: stop tokens", stopIds ?? Model.Config.EosIds);
        int longest = Model.Config.MaxPositions - responseLength;
        Require(longest >= 1, $"{lengthKey} is {responseLength}, expected less than the model's {Model.Config.MaxPositions} positions, so that a prompt has room. Lower {lengthKey}.");
        foreach (var prompt in Prompts.Concat(validation))
        {
            string where = $"{prompt.File}:{prompt.Line}";
            if (prompt.Ids.Length == 0 || prompt.Ids.Length > longest)
            {
                throw new ArgumentException($"{where}: the prompt has {prompt.Ids.Length} tokens, expected 1 to {longest}: the model's {Model.Config.MaxPositions} positions less {lengthKey} " +
                    $"{responseLength}. Shorten or drop the row, or lower {lengthKey}.");
            }

            RequireInVocabulary(where, prompt.Ids);
        }

        Rewards.Check(Prompts.Concat(validation));
    }

    /// <exception cref="ArgumentException">The condition does not hold.</exception>
    private protected void Require(bool holds, string problem)
    {
        if (!holds)
        {
            throw new ArgumentException($"{GetType().Name}: {problem}");
        }
    }

    /// <summary>A seed for one purpose in one step, the same in a run that resumes there.</summary>
    private protected ulong SeedOf(int step, uint operation)
    {
        var (low, high, _, _) = new RandomKey(seed, (uint)step, operation).Philox(0);
        return (ulong)high << 32 | low;
    }

    /// <summary>Seconds since <paramref name="mark"/>, which becomes now.</summary>
    private protected static double Lap(ref long mark)
    {
        double seconds = Stopwatch.GetElapsedTime(mark).TotalSeconds;
        mark = Stopwatch.GetTimestamp();
        return seconds;
    }

    /// <summary>Adds what a phase of a step took: <c>time/PHASE</c> in seconds, and <c>tokens_per_second/PHASE</c>.</summary>
    /// <param name="measures">Gets them.</param>
    /// <param name="phase">Its name.</param>
    /// <param name="seconds">From <see cref="Lap"/>.</param>
    /// <param name="tokens">Drawn or gone through, each as often as it was.</param>
    private protected static void Time(Dictionary<string, double> measures, string phase, double seconds, long tokens)
    {
        measures["time/" + phase] = seconds;
        measures["tokens_per_second/" + phase] = tokens / Math.Max(seconds, 1e-9); // a phase with nothing to do can be over within a tick of the clock
    }

    string Describe()
    {
        var digest = new DataDigest();
        foreach (var prompt in Prompts)
        {
            digest.Add(prompt.Ids);
            foreach (var (name, value) in prompt.Fields.OrderBy(field => field.Key, StringComparer.Ordinal))
            {
                digest.Add(name);
                digest.Add(value);
            }
        }

        var rewards = Rewards.Parts.Select(part => string.Create(CultureInfo.InvariantCulture, $"{part.Weight} {part.Reward.Name}"));
        return $"rewards {string.Join(", ", rewards)}, prompts {digest}";
    }
}
