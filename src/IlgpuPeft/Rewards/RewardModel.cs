using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;

namespace IlgpuPeft.Rewards;

/// <summary>
/// A trained reward model as a reward: the scalar head's number for the last token of prompt and response, which is the end-of-sequence token where the answer ended by itself. Its adapter may lie
/// over the same base as the policy's or over a base of its own: it is enabled for the length of a call, and then the slots hold again what they held before.
/// </summary>
public sealed class RewardModel : Reward, IDisposable
{
    // Tokens that a pass holds at most, unless a sample is longer.
    const int TokensPerPass = 2048;

    readonly AdapterSet adapter;
    readonly Parameter head;
    readonly LanguageModelPass pass;

    /// <param name="adapter">The reward model's adapter; the caller goes on owning it.</param>
    /// <param name="name">In metrics and messages.</param>
    /// <exception cref="ArgumentException">The adapter has no scalar head.</exception>
    public RewardModel(AdapterSet adapter, string name = "reward_model") : base(name)
    {
        this.adapter = adapter;
        head = adapter.Head ?? throw new ArgumentException("RewardModel: the adapter has no scalar head, so it cannot score texts. Train it with RewardTrainer, or load the folder of a reward model.", nameof(adapter));
        pass = new LanguageModelPass(adapter.Model);
    }

    /// <inheritdoc />
    internal override string Description => $"{Name} {AdapterRoles.Digest(adapter)}";

    /// <summary>The score of a sequence as a whole, read at its last token.</summary>
    /// <param name="sequences">Token ids, prompt and response in a row, each at least one.</param>
    /// <returns>One number for each, in their order.</returns>
    public double[] Score(IReadOnlyList<int[]> sequences)
    {
        using var enabled = adapter.EnableForNow();
        var scores = new double[sequences.Count];
        int capacity = Math.Max(TokensPerPass, sequences.Select(sequence => sequence.Length).DefaultIfEmpty(0).Max());
        foreach (int[] bin in Packer.Pack([.. sequences.Select(sequence => sequence.Length)], capacity))
        {
            var batch = PackedBatch.From([.. bin.Select(i => new Example(sequences[i], sequences[i], "", 0))]);
            foreach (var (i, score) in bin.Zip(batch.OfLast(pass.Scores(batch, head))))
            {
                scores[i] = score;
            }
        }

        return scores;
    }

    /// <inheritdoc />
    public override IReadOnlyList<Judgement> Judge(IReadOnlyList<Sample> samples) =>
        [.. Score([.. samples.Select(sample => (int[])[.. sample.Prompt.Ids, .. sample.Response])]).Select(score => new Judgement(score))];

    /// <inheritdoc />
    public void Dispose() => pass.Dispose();
}
