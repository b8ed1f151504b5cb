using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;

namespace IlgpuPeft.Examples;

/// <summary>
/// Proximal policy optimization with two rewards: a reward model, which likes friendly answers, and a C# function, which pays for right ones. Policy, reference, reward and value model are
/// adapters over one frozen base.
/// </summary>
static class PpoExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        string supervised = await work.AdapterAsync("supervised", SupervisedExample.RunAsync, cancel);
        string rewardModel = await work.AdapterAsync("reward", RewardModelExample.RunAsync, cancel);
        using var reference = PretrainedAdapter.Load(work.Model, supervised);
        using var judge = PretrainedAdapter.Load(work.Model, rewardModel, scalarHead: true);
        using var value = ValueModel.Create(work.Model, judge.Config, reward: judge);
        using var policy = PretrainedAdapter.Load(work.Model, supervised); // the last one that is loaded is enabled
        using var manner = new RewardModel(judge);
        var rewards = new RewardSum([
            (manner, 1),
            (Reward.Of("right", answer => Friendliness.Without(answer.Text) == answer.Prompt.Fields["answer"] ? 1 : 0), 1),
        ]);
        var prompts = Workspace.Train.Select(question => work.Rows.Prompt(question.Prompt, ("answer", question.Answer)));
        var before = work.Ask(cancel);

        // Steps and rates suit the built-in model of less than a million weights. For a large one, start from the defaults of PpoOptions.
        var options = new PpoOptions
        {
            MaxSteps = 8, MicroBatchSize = 16, PpoEpochs = 1, MiniBatches = 2, LearningRate = 8e-4, ValueLearningRate = 2e-3, Schedule = ScheduleKind.Constant,
            ResponseLength = 12, Temperature = 1, MissingEosPenalty = 1, TokensPerPass = 4096, SampleEvery = 3, OutputFolder = work.FolderOf("ppo"),
        };
        using var trainer = new PpoTrainer(policy, value, work.BaseFolder, work.Tokenizer, [.. prompts], rewards, options, reference)
        {
            Samples = new ImmediateProgress<IReadOnlyList<PolicySample>>(samples => work.Say($"  \"{samples[0].Prompt.Split('\n')[0]}\" is answered by \"{samples[0].Response}\", score {samples[0].Score:0.00}")),
        };
        await trainer.RunAsync(work.Steps("objective/scores"), cancel: cancel);

        work.Compare(before, work.Ask(cancel));
    }
}
