using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;

namespace IlgpuPeft.Config;

/// <summary>What runs of policies share: their prompts in numbers, what ends an answer, and what it is worth.</summary>
static class PolicyData
{
    /// <summary>The prompts in numbers.</summary>
    public static RunRows Rows(RunData<Prompt> data, int responseLength) => data.Summary(prompt => prompt.Ids.Length, _ => 0, prompt => prompt.Ids.Length + responseLength);

    /// <summary>Tokens that end an answer: the model's own, the end-of-sequence token of the configuration, and the end of turn of the chat template.</summary>
    public static int[] StopIds(RunModel opened, RunData<Prompt> data)
    {
        List<int> ids = [.. opened.Model.Config.EosIds];
        if (data.Tokenizer is { } tokenizer)
        {
            bool converses = opened.Config.Datasets.Any(source => source.Type == DatasetType.ChatTemplate);
            string? endOfTurn = converses ? (data.Options.ChatTemplate ?? ChatTemplate.Detect(tokenizer.ChatTemplateSource)).EndOfTurn : null;
            ids.AddRange(new[] { data.Options.EosId ?? tokenizer.Eos?.Id, endOfTurn is null ? null : tokenizer.TokenId(endOfTurn) }.OfType<int>());
        }

        return [.. ids.Distinct().Order()];
    }

    /// <summary>The weighted rewards, and the adapter of the first reward model among them, if there is one: a value model starts from it.</summary>
    /// <exception cref="ArgumentException">A rule's options are wrong.</exception>
    /// <exception cref="Checkpoints.CheckpointException">A reward model's adapter has no scalar head, or is for another base model.</exception>
    public static (RewardSum Sum, AdapterSet? Model) Rewards(RunModel opened, Action<string>? notice)
    {
        AdapterSet? first = null;
        return (new RewardSum([.. opened.Config.Rewards.Select(reward => (Make(reward), reward.Weight))]), first);

        Reward Make(RewardConfig reward)
        {
            if (reward.Model is null)
            {
                return RewardRules.Create(reward.Rule!, reward.Options);
            }

            var adapter = opened.LoadAdapter(reward.Model, notice, scalarHead: true);
            first ??= adapter;
            return opened.Own(reward.Options.TryGetValue(RuleOptions.LabelName, out string? label) ? new RewardModel(adapter, label) : new RewardModel(adapter));
        }
    }
}
