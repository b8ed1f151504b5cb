using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>A trained reward model as the reward of a policy method.</summary>
public class RewardModelTests
{
    public static TheoryData<string> Devices => ["cpu-f64", .. TestDevices.WithKernels.Where(device => device.EndsWith("f32", StringComparison.Ordinal))];

    [Theory, MemberData(nameof(Devices))]
    public void Judge_readsTheScoreAtEachLastToken_inTheOrderOfTheSamples(string device)
    {
        using var subject = new RewardSubject(device);
        using var reward = new RewardModel(subject.Adapter);
        var samples = Samples(5);

        var judgements = reward.Judge(samples);

        using var pass = new LanguageModelPass(subject.Model);
        double[] expected = [.. samples.Select(sample =>
        {
            int[] ids = [.. sample.Prompt.Ids, .. sample.Response];
            return pass.Scores(PackedBatch.From([new Example(ids, ids, "", 0)]), subject.Adapter.Head!)[^1];
        })];
        Compare.Close(expected, [.. judgements.Select(judgement => judgement.Score)], TestDevices.Tolerance(device), "scores");
        Assert.Equal(expected.Length, expected.Distinct().Count());
        Assert.All(judgements, judgement => Assert.Null(judgement.PerToken));
        Assert.Equal("reward_model", reward.Name);
        Assert.Empty(reward.Judge([]));
    }

    [Fact]
    public void Judge_leavesTheSlotsAsTheyWere()
    {
        using var subject = new RewardSubject();
        using var policy = new AdapterSet(subject.Model, new LoraConfig { Rank = 2, Targets = ["q_proj"] }, seed: 8);
        using var reward = new RewardModel(subject.Adapter);
        Spread(subject.Adapter);
        var samples = Samples(3);
        double[] own = [.. reward.Judge(samples).Select(judgement => judgement.Score)];

        foreach (var take in (Action[])[policy.Enable, subject.Adapter.Enable, () => AdapterSet.DisableAll(subject.Model)])
        {
            take();
            List<object?> before = Slots(subject);
            Assert.Equal(own, reward.Judge(samples).Select(judgement => judgement.Score));
            Assert.Equal(before, Slots(subject));
            Assert.Throws<ArgumentException>(() => reward.Score([[]]));
            Assert.Equal(before, Slots(subject));
        }

        static List<object?> Slots(RewardSubject subject) => [.. subject.Model.Linears.Select(layer => (object?)layer.Adapter)];
    }

    [Fact]
    public void Judge_overABaseOfItsOwn_givesTheSameScores()
    {
        using var subject = new RewardSubject();
        Spread(subject.Adapter);
        PretrainedAdapter.Save(subject.Adapter, subject.Temp.File("adapter"), subject.Folder);
        using var other = PretrainedModel.Load(subject.Folder, subject.Backend);
        using var loaded = PretrainedAdapter.Load(other, subject.Temp.File("adapter"), scalarHead: true);
        using RewardModel shared = new(subject.Adapter), apart = new(loaded, "second opinion");

        Assert.Equal(shared.Judge(Samples(4)), apart.Judge(Samples(4)));
        Assert.Equal("second opinion", apart.Name);
    }

    [Fact]
    public void Adapter_withoutAHead_isRefused()
    {
        using var subject = new RewardSubject();
        using var plain = new AdapterSet(subject.Model, RewardPairs.Lora);
        Assert.Contains("has no scalar head", Assert.Throws<ArgumentException>(() => new RewardModel(plain)).Message, StringComparison.Ordinal);
    }

    static List<Sample> Samples(int count) => [.. RewardPairs.Marked(count, seed: 9).Select(pair =>
        new Sample(new Prompt(pair.Prompt, "", new Dictionary<string, string>(), pair.File, pair.Line), pair.Chosen, "", Ended: true))];

    // B is not zero, as after training: an adapter that was not enabled would show.
    static void Spread(AdapterSet adapter)
    {
        foreach (var (_, update) in adapter.Updates)
        {
            var key = new RandomKey(5, (uint)update.B.Count, 0);
            adapter.Model.Backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(i => (float)(0.3 * key.Normal((ulong)i)))], update.B.Value);
        }
    }
}
