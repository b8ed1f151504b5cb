using IlgpuPeft.Adapters;
using IlgpuPeft.Models;

namespace IlgpuPeft.Reinforcement;

/// <summary>How a value model starts.</summary>
public static class ValueModel
{
    /// <summary>Makes an adapter with a scalar head and enables it. It starts as a copy of a reward model's adapter, as TRL's examples do, where that has the same layers, ranks and scales, else fresh.</summary>
    /// <param name="model">The base of policy and reward model.</param>
    /// <param name="config">Rank, scale, and which layers.</param>
    /// <param name="seed">Of the initial values where they are fresh.</param>
    /// <param name="reward">The reward model's adapter, or null.</param>
    /// <exception cref="ArgumentException">The reward model has another base, or as <see cref="AdapterSet(CausalLm, LoraConfig, ulong, bool)"/>.</exception>
    public static AdapterSet Create(CausalLm model, LoraConfig config, ulong seed = 0, AdapterSet? reward = null)
    {
        if (reward is not null && reward.Model != model)
        {
            throw new ArgumentException("ValueModel: the reward model's adapter lies over another model, expected one base under all roles. Load the base once.", nameof(reward));
        }

        var value = new AdapterSet(model, config, seed, scalarHead: true);
        if (reward?.Head is not null && Shape(reward).SequenceEqual(Shape(value)))
        {
            model.Backend.Copy(reward.Parameters.Values, value.Parameters.Values);
        }

        return value;
    }

    static IEnumerable<(string Module, int Rank, double Scale)> Shape(AdapterSet set) => set.Updates.Select(x => (x.Module, x.Update.A.Rows, x.Update.Scale));
}
