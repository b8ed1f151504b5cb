using IlgpuPeft.Data;

namespace IlgpuPeft.Rewards;

/// <summary>Judges the answers of a policy: a rule, a function of the caller's, or a reward model.</summary>
/// <param name="name">In metrics and messages.</param>
public abstract class Reward(string name)
{
    /// <summary>In metrics and messages.</summary>
    public string Name => name;

    /// <summary>What decides the numbers that it gives, as far as that can be told; of a function its name alone. A checkpoint of a run with another is refused.</summary>
    internal virtual string Description => Name;

    /// <summary>Whether it is a rule about words, which <see cref="Sample.Text"/> has only where there is a tokenizer; without one it holds token ids.</summary>
    internal virtual bool ReadsText => false;

    /// <summary>Judges a batch; the result has the batch's order and length.</summary>
    public abstract IReadOnlyList<Judgement> Judge(IReadOnlyList<Sample> samples);

    /// <summary>Looks at a prompt before the run, so that a row that answers cannot be compared with is found at once and not when its turn comes.</summary>
    /// <exception cref="ArgumentException">The prompt's row lacks what the reward needs.</exception>
    public virtual void Check(Prompt prompt) { }

    /// <summary>A reward that scores each answer as a whole.</summary>
    public static Reward Of(string name, Func<Sample, double> score) => new FunctionReward(name, name, sample => new Judgement(score(sample)));

    /// <summary>A reward that pays every token of an answer: the function returns one number for each of <see cref="Sample.Response"/>.</summary>
    public static Reward PerToken(string name, Func<Sample, double[]> score) => new FunctionReward(name, name, sample => new Judgement(0, score(sample)));

    /// <summary>A rule that scores each answer as a whole by its tokens.</summary>
    internal static Reward Of(RuleOptions rule, Func<Sample, double> score) => new FunctionReward(rule.Label, rule.Description, sample => new Judgement(score(sample)));

    /// <summary>A rule that pays every token of an answer.</summary>
    internal static Reward PerToken(RuleOptions rule, Func<Sample, double[]> score) => new FunctionReward(rule.Label, rule.Description, sample => new Judgement(0, score(sample)));

    /// <summary>A rule of whole answers that reads their text, with a look at each prompt before the run.</summary>
    internal static Reward OfText(RuleOptions rule, Func<Sample, double> score, Action<Prompt>? check = null) =>
        new FunctionReward(rule.Label, rule.Description, sample => new Judgement(score(sample)), readsText: true, check);

    sealed class FunctionReward(string name, string description, Func<Sample, Judgement> judge, bool readsText = false, Action<Prompt>? check = null) : Reward(name)
    {
        internal override string Description => description;

        internal override bool ReadsText => readsText;

        public override IReadOnlyList<Judgement> Judge(IReadOnlyList<Sample> samples) => [.. samples.Select(judge)];

        public override void Check(Prompt prompt) => check?.Invoke(prompt);
    }
}
