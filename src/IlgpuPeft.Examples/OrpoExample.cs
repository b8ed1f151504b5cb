using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Preferences;

namespace IlgpuPeft.Examples;

/// <summary>Odds ratio preference optimization: from the base on, one run learns the answers and which of two people prefer. There is no supervised stage before it, and no reference.</summary>
static class OrpoExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        using var policy = new AdapterSet(work.Model, new LoraConfig { Rank = 8, Alpha = 32 });
        PreferencePair[] train = [.. Workspace.Train.Select(work.Preference)], heldOut = [.. Workspace.HeldOut.Select(work.Preference)];
        var before = work.Ask(cancel);

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of OrpoOptions.
        var options = new OrpoOptions { MicroBatchSize = 8, MaxSteps = 36, LearningRate = 5e-3, WarmupSteps = 5, Beta = 0.25, OutputFolder = work.FolderOf("orpo") };
        using var trainer = new OrpoTrainer(policy, work.BaseFolder, train, options, heldOut);
        var result = await trainer.RunAsync(work.Steps("log_odds_chosen"), cancel: cancel);

        work.Compare("held-out log-odds of the chosen answer", result.Initial!.Measures!["log_odds_chosen"], result.Final!.Measures!["log_odds_chosen"]);
        work.Compare(before, work.Ask(cancel));
    }
}
