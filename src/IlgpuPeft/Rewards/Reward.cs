namespace IlgpuPeft.Rewards;

/// <summary>Judges the answers of a policy: a rule, a function of the caller's, or a reward model.</summary>
/// <param name="name">In metrics and messages.</param>
public abstract class Reward(string name)
{
    /// <summary>In metrics and messages.</summary>
    public string Name => name;

    /// <summary>Judges a batch; the result has the batch's order and length.</summary>
    public abstract IReadOnlyList<Judgement> Judge(IReadOnlyList<Sample> samples);

    /// <summary>A reward that scores each answer as a whole.</summary>
    public static Reward Of(string name, Func<Sample, double> score) => new FunctionReward(name, sample => new Judgement(score(sample)));

    /// <summary>A reward that pays every token of an answer: the function returns one number for each of <see cref="Sample.Response"/>.</summary>
    public static Reward PerToken(string name, Func<Sample, double[]> score) => new FunctionReward(name, sample => new Judgement(0, score(sample)));

    sealed class FunctionReward(string name, Func<Sample, Judgement> judge) : Reward(name)
    {
        public override IReadOnlyList<Judgement> Judge(IReadOnlyList<Sample> samples) => [.. samples.Select(judge)];
    }
}
