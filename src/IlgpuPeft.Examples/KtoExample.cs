using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Preferences;

namespace IlgpuPeft.Examples;

/// <summary>Kahneman-Tversky optimization: the policy learns from single answers that somebody liked, here the friendly ones, or did not. No pairs are needed.</summary>
static class KtoExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        string supervised = await work.AdapterAsync("supervised", SupervisedExample.RunAsync, cancel);
        using var reference = PretrainedAdapter.Load(work.Model, supervised);
        using var policy = PretrainedAdapter.Load(work.Model, supervised); // the last one that is loaded is enabled
        var before = work.Ask(cancel);

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of KtoOptions.
        var options = new KtoOptions { MicroBatchSize = 16, MaxSteps = 12, LearningRate = 5e-4, Beta = 0.1, OutputFolder = work.FolderOf("kto") };
        using var trainer = new KtoTrainer(policy, work.BaseFolder, [.. Rated(work, Workspace.Train.Take(100))], options, [.. Rated(work, Workspace.HeldOut)], reference);
        var result = await trainer.RunAsync(work.Steps(), cancel: cancel);

        work.Compare("held-out loss", result.Initial!.Loss, result.Final!.Loss);
        work.Compare(before, work.Ask(cancel));
    }

    // One answer to each question: people liked the friendly half.
    static IEnumerable<LabelledResponse> Rated(Workspace work, IEnumerable<Question> questions) => questions.Select((question, i) =>
        i % 2 == 0 ? work.Rows.Labelled(question.Prompt, Friendliness.Of(question.Answer), isDesirable: true) : work.Rows.Labelled(question.Prompt, question.Answer, isDesirable: false));
}
