using IlgpuPeft.Rewards;

namespace IlgpuPeft.Config;

/// <summary>One entry of <c>rewards</c>: a built-in rule with its options, or a reward model.</summary>
public sealed record RewardConfig
{
    /// <summary>Name of a rule (<see cref="RewardRules"/>), or null for a model.</summary>
    public string? Rule { get; init; }

    /// <summary>Folder of a reward model's adapter over the same base model, or null for a rule.</summary>
    public string? Model { get; init; }

    /// <summary>Times what it says. Default 1.</summary>
    public double Weight { get; init; } = 1;

    /// <summary>The rule's options, by name; of a model <c>label</c>, its name in metrics.</summary>
    public IReadOnlyDictionary<string, string> Options { get; init; } = new SortedDictionary<string, string>(StringComparer.Ordinal);

    /// <summary>The same with one option more.</summary>
    internal RewardConfig With(string option, string value) => this with { Options = new SortedDictionary<string, string>(Options.ToDictionary(), StringComparer.Ordinal) { [option] = value } };
}
