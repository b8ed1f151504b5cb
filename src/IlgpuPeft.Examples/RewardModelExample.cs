using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Preferences;
using IlgpuPeft.Rewards;

namespace IlgpuPeft.Examples;

/// <summary>A reward model: an adapter with a scalar head learns from pairs which of two answers people prefer, here the friendly one, and then scores any answer.</summary>
static class RewardModelExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        using var adapter = new AdapterSet(work.Model, new LoraConfig { Rank = 4, Alpha = 8 }, scalarHead: true);
        PreferencePair[] train = [.. Workspace.Train.Select(work.Preference)], heldOut = [.. Workspace.HeldOut.Select(work.Preference)];

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of RewardOptions.
        var options = new RewardOptions { MicroBatchSize = 6, MaxSteps = 12, LearningRate = 1e-3, CenterRewardsCoefficient = 0.01, OutputFolder = work.FolderOf("reward") };
        using var trainer = new RewardTrainer(adapter, work.BaseFolder, train, options, heldOut);
        var result = await trainer.RunAsync(work.Steps("accuracy"), cancel: cancel);

        work.Compare("held-out pairs ranked as people did", result.Initial!.Measures!["accuracy"], result.Final!.Measures!["accuracy"]);
        using var judge = new RewardModel(adapter);
        var pair = work.Rows.Pair("User: Give the plural of cat.\nAssistant: ", "cats :)", "cats");
        double[] scores = judge.Score([pair.ChosenExample.InputIds, pair.RejectedExample.InputIds]);
        work.Say($"score of \"cats :)\" {scores[0]:0.00}, of \"cats\" {scores[1]:0.00}; the reward model is in {options.OutputFolder}");
    }
}
