using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Preferences;

namespace IlgpuPeft.Examples;

/// <summary>Direct preference optimization: the policy learns from pairs of answers which of two people prefer, here the friendly one, without a reward model.</summary>
static class DpoExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        string supervised = await work.AdapterAsync("supervised", SupervisedExample.RunAsync, cancel);
        using var reference = PretrainedAdapter.Load(work.Model, supervised);
        using var policy = PretrainedAdapter.Load(work.Model, supervised); // the last one that is loaded is enabled
        PreferencePair[] train = [.. Workspace.Train.Take(100).Select(work.Preference)], heldOut = [.. Workspace.HeldOut.Select(work.Preference)];
        var before = work.Ask(cancel);

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of DpoOptions.
        var options = new DpoOptions { MicroBatchSize = 8, MaxSteps = 12, LearningRate = 5e-4, Beta = 0.1, OutputFolder = work.FolderOf("dpo") };
        using var trainer = new DpoTrainer(policy, work.BaseFolder, train, options, heldOut, reference);
        var result = await trainer.RunAsync(work.Steps("rewards/margins"), cancel: cancel);

        work.Compare("held-out margin", result.Initial!.Measures!["rewards/margins"], result.Final!.Measures!["rewards/margins"]);
        work.Compare(before, work.Ask(cancel));
    }
}
