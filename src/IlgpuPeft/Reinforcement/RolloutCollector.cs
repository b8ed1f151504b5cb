using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Losses;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;

namespace IlgpuPeft.Reinforcement;

/// <summary>Makes the experience of an update: lets the policy write, and everyone judge it.</summary>
sealed class RolloutCollector(PpoRoles roles, Tokenizer? tokenizer, RewardSum rewards, PpoOptions options) : IDisposable
{
    readonly Completions completions = new(roles.Model, tokenizer, options.MaxSequences);

    /// <summary>Draws a response to each prompt.</summary>
    /// <param name="prompts">The prompts of the update.</param>
    /// <param name="seed">Of the draws.</param>
    public IReadOnlyList<Sample> Draw(IReadOnlyList<Prompt> prompts, ulong seed)
    {
        roles.Policy.Enable();
        return completions.Draw(prompts, new GenerationOptions
        {
            MaxTokens = options.ResponseLength, Temperature = options.Temperature, TopK = 0, TopP = 1, Seed = seed, StopIds = options.StopIds,
        });
    }

    /// <summary>Asks the rewards, then the models, and turns their answers into advantages. Changes nothing.</summary>
    /// <param name="samples">What the policy wrote.</param>
    /// <param name="klCoefficient">Weight of the divergence.</param>
    /// <param name="orderSeed">Of the order in which <see cref="PpoUpdate"/> learns from them.</param>
    /// <exception cref="Training.RewardException">A reward failed.</exception>
    public Rollout Score(IReadOnlyList<Sample> samples, double klCoefficient, ulong orderSeed)
    {
        var (judgements, each) = rewards.Judge(samples);
        IReadOnlyList<Example> sequences = [.. samples.Select(sample => Example.Of(sample.Prompt.Ids, sample.Response, sample.Prompt.File, sample.Prompt.Line))];
        bool[] ended = [.. samples.Select(sample => sample.Ended)], extra = options.TrlCompatible ? [.. samples.Select(sample => sample.Response.Length < options.ResponseLength)] : [];
        var passes = PpoUpdate.FirstEpoch(sequences.Count, orderSeed, options); // kernels round by the shape of a pass: what the update takes first must find the very same numbers
        double[][] logProbs = roles.PolicyLogProbs(sequences, passes), reference = roles.ReferenceLogProbs(sequences, passes), values = roles.Values(sequences, passes, extra);

        double[][] kl = KlEstimate.PerToken(logProbs, reference, options.KlEstimator);
        double[] scores = TokenRewards.WithMissingEosPenalty([.. judgements.Select(judgement => judgement.Score)], ended, options.MissingEosPenalty);
        double[][] paid = TokenRewards.Compute(kl, scores, klCoefficient, extra);
        for (int s = 0; s < paid.Length; s++)
        {
            double[] perToken = judgements[s].PerToken ?? [];
            for (int t = 0; t < perToken.Length; t++)
            {
                paid[s][t] += perToken[t];
            }

            scores[s] += perToken.Sum();
        }

        var estimates = Advantages.Compute(options.WhitenRewards ? Whitened(paid, shiftMean: false) : paid, values, options.Gamma, options.Lambda);
        return new Rollout
        {
            Samples = samples,
            Sequences = sequences,
            LogProbs = logProbs,
            ReferenceLogProbs = reference,
            Values = values,
            Kl = kl,
            Scores = scores,
            ScoresByReward = [.. rewards.Parts.Zip(each, (part, said) => (part.Reward.Name, said.Select(judgement => judgement.Total).ToArray()))],
            KlCoefficient = klCoefficient,
            Rewards = paid,
            Advantages = Whitened(TokenRewards.WithoutExtraSlot(estimates.Values, logProbs), shiftMean: true),
            Returns = estimates.Returns,
            ExtraSlots = extra,
            OrderSeed = orderSeed,
        };
    }

    /// <inheritdoc />
    public void Dispose() => completions.Dispose();

    // A single token, which the last prompt of an epoch may be answered with, has no others to be compared with.
    static double[][] Whitened(double[][] numbers, bool shiftMean) => numbers.Sum(array => array.Length) > 1 ? Advantages.Whiten(numbers, shiftMean) : numbers;
}
