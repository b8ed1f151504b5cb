using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;

namespace IlgpuPeft.Examples;

/// <summary>Group relative policy optimization: the policy answers each question several times, a C# function judges the answers, and those that earn more than the others are reinforced.</summary>
static class GrpoExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        string supervised = await work.AdapterAsync("supervised", SupervisedExample.RunAsync, cancel);
        using var policy = PretrainedAdapter.Load(work.Model, supervised);
        var prompts = Workspace.Train.Select(question => work.Rows.Prompt(question.Prompt, ("answer", question.Answer)));
        var before = work.Ask(cancel);

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of GrpoOptions.
        var options = new GrpoOptions
        {
            MaxSteps = 10, MicroBatchSize = 5, NumGenerations = 6, LearningRate = 8e-4, Schedule = ScheduleKind.Constant, MaxCompletionLength = 12, TokensPerPass = 4096, SampleEvery = 5,
            OutputFolder = work.FolderOf("grpo"),
        };
        using var trainer = new GrpoTrainer(policy, work.BaseFolder, work.Tokenizer, [.. prompts], new RewardSum([(Reward.Of("right and friendly", Score), 1)]), options)
        {
            Samples = new ImmediateProgress<IReadOnlyList<GroupSample>>(group => work.Say($"  {string.Join(", ", group.Select(sample => $"\"{sample.Response}\" {sample.Advantage:+0.0;-0.0}"))}")),
        };
        await trainer.RunAsync(work.Steps("reward"), cancel: cancel);

        work.Compare(before, work.Ask(cancel));
    }

    // A wrong answer earns nothing, a right one 1, and a friendly one as much again. Whatever can be computed of prompt and answer can be a reward.
    static double Score(Sample answer) => Friendliness.Without(answer.Text) != answer.Prompt.Fields["answer"] ? 0 : Friendliness.IsIn(answer.Text) ? 2 : 1;
}
