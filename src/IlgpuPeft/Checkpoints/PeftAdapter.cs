using System.Text.RegularExpressions;

namespace IlgpuPeft.Checkpoints;

/// <summary>Modules chosen by name, or by one string: a regular expression for the whole module path, or <c>all-linear</c>.</summary>
/// <param name="Names">Last parts of module paths, or null.</param>
/// <param name="Pattern">The string, or null. Exactly one of the two is present.</param>
public sealed record ModuleSelection(IReadOnlyList<string>? Names, string? Pattern = null);

/// <summary>The keys of an <c>adapter_config.json</c> of peft_type LORA, under PEFT's names and with its defaults.</summary>
public sealed record PeftConfig
{
    // A pattern comes from a file and could backtrack for ever.
    static readonly TimeSpan MatchLimit = TimeSpan.FromSeconds(1);

    /// <summary>Rank where <see cref="RankPattern"/> says nothing.</summary>
    public int R { get; init; } = 8;

    /// <summary>Numerator of the scaling where <see cref="AlphaPattern"/> says nothing.</summary>
    public double LoraAlpha { get; init; } = 8;

    /// <summary>Modules with an adapter; null stands for PEFT's choice by architecture, which is read but never written.</summary>
    public ModuleSelection? TargetModules { get; init; }

    /// <summary>Modules left out of <see cref="TargetModules"/>.</summary>
    public ModuleSelection? ExcludeModules { get; init; }

    /// <summary>Layer numbers that <see cref="TargetModules"/> is limited to, or null.</summary>
    public IReadOnlyList<int>? LayersToTransform { get; init; }

    /// <summary>Name of the layer list in the module path, with <see cref="LayersToTransform"/>.</summary>
    public ModuleSelection? LayersPattern { get; init; }

    /// <summary>Probability with which an input element is dropped during training.</summary>
    public double LoraDropout { get; init; }

    /// <summary>Whether the scaling is alpha / √r instead of alpha / r.</summary>
    public bool UseRsLora { get; init; }

    /// <summary>Whether the base stores weights as [in, out] (GPT-2's Conv1D). A and B have the same shapes either way.</summary>
    public bool FanInFanOut { get; init; }

    /// <summary>How the adapter was initialised: <c>true</c>, <c>false</c>, or a method's name such as <c>gaussian</c>.</summary>
    public string InitLoraWeights { get; init; } = "true";

    /// <summary>Other ranks by module: the key is a regular expression for the end of the path, whole parts only.</summary>
    public IReadOnlyDictionary<string, double> RankPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Other alphas by module; keys as in <see cref="RankPattern"/>.</summary>
    public IReadOnlyDictionary<string, double> AlphaPattern { get; init; } = new Dictionary<string, double>();

    /// <summary>Name or path of the base model.</summary>
    public string? BaseModelNameOrPath { get; init; }

    /// <summary>Revision of the base model.</summary>
    public string? Revision { get; init; }

    /// <summary>PEFT's task name; it decides which model class PEFT wraps.</summary>
    public string? TaskType { get; init; } = "CAUSAL_LM";

    /// <summary>The <see cref="TaskType"/> of adapters that judge texts: their head is trained and saved whole, beside the low-rank updates.</summary>
    public const string SequenceClassification = "SEQ_CLS";

    /// <summary>Whether there is a head in place of a language model's.</summary>
    public bool HasHead => TaskType == SequenceClassification;

    /// <summary>Rank of the adapter of <paramref name="module"/>.</summary>
    /// <exception cref="ArgumentException">A pattern is not a regular expression, or takes more than a second.</exception>
    public int RankOf(string module) => (int)(Match(RankPattern, module) ?? R);

    /// <summary>What the product B·A·x of <paramref name="module"/> is multiplied by: alpha / r, or alpha / √r.</summary>
    /// <exception cref="ArgumentException">A pattern is not a regular expression, or takes more than a second.</exception>
    public double ScalingOf(string module)
    {
        int rank = RankOf(module);
        return (Match(AlphaPattern, module) ?? LoraAlpha) / (UseRsLora ? Math.Sqrt(rank) : rank);
    }

    static double? Match(IReadOnlyDictionary<string, double> patterns, string module)
    {
        // In the order of the file, which is sorted.
        foreach (var (key, value) in patterns.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            try
            {
                if (Regex.IsMatch(module, $@"\A(.*\.)?({key})\z", RegexOptions.CultureInvariant, MatchLimit))
                {
                    return value;
                }
            }
            catch (RegexMatchTimeoutException e)
            {
                throw new ArgumentException($"PeftConfig: pattern {key} takes more than {MatchLimit.TotalSeconds} s on {module}. Write it without nested repetition.", e);
            }
        }

        return null;
    }
}

/// <summary>The two trained matrices of one adapted linear layer: y = W·x + scaling · B·(A·x).</summary>
/// <param name="Module">Path in the base model, for example <c>model.layers.0.self_attn.q_proj</c>.</param>
/// <param name="Rank">r.</param>
/// <param name="Inputs">Input features.</param>
/// <param name="Outputs">Output features.</param>
/// <param name="A">[r, in], row-major.</param>
/// <param name="B">[out, r], row-major.</param>
public sealed record LoraPair(string Module, int Rank, int Inputs, int Outputs, float[] A, float[] B);

/// <summary>A LoRA adapter as its folder stores it; which modules a model really has is not its business.</summary>
/// <param name="Config">The configuration.</param>
/// <param name="Pairs">One per adapted module, in ordinal order of the paths.</param>
/// <param name="Head">[1, D], the module <c>score</c> of a reward or value model; null in an adapter of a language model.</param>
public sealed record PeftAdapter(PeftConfig Config, IReadOnlyList<LoraPair> Pairs, float[]? Head = null);
