using IlgpuPeft.Adapters;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Training;

namespace IlgpuPeft.Examples;

/// <summary>Supervised fine-tuning (QLoRA): a LoRA adapter over the 4-bit base learns to answer requests. The other examples start from the adapter that it leaves.</summary>
static class SupervisedExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        using var adapter = new AdapterSet(work.Model, new LoraConfig { Rank = 8, Alpha = 32 });
        var train = Workspace.Train.Zip(Friendliness.Mixed(Workspace.Train), (question, answer) => work.Rows.Example(question.Prompt, answer));
        var heldOut = Workspace.HeldOut.Select(question => work.Rows.Example(question.Prompt, question.Answer));
        var before = work.Ask(cancel);

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of SftOptions.
        var options = new SftOptions { MicroBatchSize = 16, MaxSteps = 40, LearningRate = 5e-3, WarmupSteps = 5, OutputFolder = work.FolderOf("supervised") };
        using var trainer = new SftTrainer(adapter, work.BaseFolder, [.. train], options, [.. heldOut]);
        var result = await trainer.RunAsync(work.Steps(), cancel: cancel);

        work.Compare("held-out loss", result.Initial!.Loss, result.Final!.Loss);
        work.Compare("right answers", Quiz.Accuracy(before), Quiz.Accuracy(work.Ask(cancel)));
        work.Say($"trained {adapter.Parameters.Count:N0} of {work.Model.ParameterCount:N0} weights; the adapter is in {options.OutputFolder}");
    }
}
