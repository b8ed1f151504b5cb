using System.Text.RegularExpressions;

namespace IlgpuPeft.Adapters;

/// <summary>What a LoRA adapter is made of. Names and defaults are those of PEFT's <c>LoraConfig</c>, but for <see cref="Targets"/>, which defaults to every linear layer.</summary>
public sealed record LoraConfig
{
    // A pattern can come from a file and could backtrack for ever.
    static readonly TimeSpan MatchLimit = TimeSpan.FromSeconds(1);

    /// <summary>Rank R of the update; PEFT's <c>r</c>. Default 8.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>The update is scaled by Alpha / Rank; more than 0; PEFT's <c>lora_alpha</c>. Default 8.</summary>
    public double Alpha { get; init; } = 8;

    /// <summary>Probability that an input of the update is dropped in training; from 0 to below 1; PEFT's <c>lora_dropout</c>. Default 0.</summary>
    public double Dropout { get; init; }

    /// <summary>
    /// Which linear layers are adapted: module names or path endings (<c>q_proj</c>, <c>mlp.down_proj</c>), or the one word <c>all-linear</c>;
    /// PEFT's <c>target_modules</c> as a list. Default all-linear, as the QLoRA paper (arXiv:2305.14314); PEFT's depends on the architecture.
    /// </summary>
    public IReadOnlyList<string> Targets { get; init; } = [AllLinear];

    /// <summary>A regular expression that must match a whole module path; PEFT's <c>target_modules</c> as a string. Takes the place of <see cref="Targets"/>. Default null.</summary>
    public string? TargetPattern { get; init; }

    /// <summary>Scale by Alpha / √Rank instead (Kalajdzievski 2023, arXiv:2312.03732); PEFT's <c>use_rslora</c>. Default false.</summary>
    public bool RankStabilised { get; init; }

    /// <summary>The word that stands for every linear layer but the output head.</summary>
    public const string AllLinear = "all-linear";

    /// <summary>The factor on B·A.</summary>
    public double Scale => RankStabilised ? Alpha / Math.Sqrt(Rank) : Alpha / Rank;

    /// <summary>Whether the layer of that module path gets an adapter. PEFT's rules: a listed name matches whole or as the end of the path after a dot.</summary>
    /// <exception cref="ArgumentException">The pattern is not a regular expression, or takes more than a second.</exception>
    public bool Matches(string module)
    {
        if (TargetPattern is not null)
        {
            try
            {
                return Regex.IsMatch(module, $@"\A(?:{TargetPattern})\z", RegexOptions.CultureInvariant, MatchLimit);
            }
            catch (RegexMatchTimeoutException e)
            {
                throw new ArgumentException($"LoraConfig: pattern {TargetPattern} takes more than {MatchLimit.TotalSeconds} s on {module}. Write it without nested repetition.", e);
            }
        }

        return Targets.Any(target => target.Equals(AllLinear, StringComparison.OrdinalIgnoreCase) || module == target || module.EndsWith("." + target, StringComparison.Ordinal));
    }

    /// <exception cref="ArgumentException">An option is out of range.</exception>
    internal void Validate()
    {
        if (Rank < 1)
        {
            throw new ArgumentException($"LoraConfig: Rank is {Rank}, expected at least 1.");
        }

        if (Alpha is not (> 0 and < double.PositiveInfinity))
        {
            throw new ArgumentException(FormattableString.Invariant($"LoraConfig: Alpha is {Alpha}, expected more than 0 and finite: with 0 nothing would be learned."));
        }

        if (Dropout is not (>= 0 and < 1))
        {
            throw new ArgumentException(FormattableString.Invariant($"LoraConfig: Dropout is {Dropout}, expected a probability from 0 to below 1."));
        }
    }
}
