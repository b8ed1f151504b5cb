using System.Runtime.InteropServices;
using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Losses, gradients, rewards and advantages against numbers of other people's code in single precision: PyTorch's autograd, TRL 0.11.4 and torchtune. Their rectangles of padded
/// responses become arrays without padding here.
/// </summary>
public class GoldenLossTests
{
    [Fact]
    public void RewardLoss_ofTheGoldenScores_equalsPyTorchs()
    {
        using var arrays = Open("expected.safetensors");
        double[] chosen = Compare.Read(arrays, "reward.chosen"), rejected = Compare.Read(arrays, "reward.rejected"), margins = Compare.Read(arrays, "reward.margin");
        using var expected = Json("golden/cases/rl_losses/expected.json");

        LossArrays.Close(Number(expected, "reward_loss"), RewardLoss.Compute(chosen, rejected, [], 0, chosen.Length).Loss, "loss");
        LossArrays.Close(Number(expected, "reward_loss_margin"), RewardLoss.Compute(chosen, rejected, margins, 0, chosen.Length).Loss, "with margins");
        LossArrays.Close(Number(expected, "reward_loss_centred_0.01"), RewardLoss.Compute(chosen, rejected, [], 0.01, chosen.Length).Loss, "centred");
    }

    [Fact]
    public void DpoLoss_ofTheGoldenPairs_equalsPyTorchs()
    {
        using var arrays = Open("expected.safetensors");
        double[][] x = [.. new[] { "policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected" }.Select(name => Compare.Read(arrays, $"dpo.{name}"))];
        using var expected = Json("golden/cases/rl_losses/expected.json");
        var result = DpoLoss.Compute([.. x[0].Select((_, i) => new DpoPair(x[0][i], x[1][i], x[2][i], x[3][i], 1, 1))], new DpoLossOptions(0.1), x[0].Length);

        LossArrays.Close(Number(expected, "dpo_loss_beta_0.1"), result.Loss, "loss");
        LossArrays.Close(Compare.Read(arrays, "dpo.grad_policy_chosen"), result.ChosenGradient, "gradient", 1e-7);
    }

    // The file's clip_fraction counts all ratios beyond the clip; TRL's, and so ours, only those that the clip has an effect on. It is not compared.
    [Fact]
    public void Ppo_ofTheGoldenRollout_equalsPyTorchs()
    {
        using var arrays = Open("expected.safetensors");
        using var expected = Json("golden/cases/rl_losses/expected.json");
        var constants = expected.RootElement.GetProperty("ppo");
        double Constant(string name) => constants.GetProperty(name).GetDouble();
        long[] lengths = MemoryMarshal.Cast<byte, long>(arrays.Bytes("ppo.lengths")).ToArray();
        double[][] Array(string name) => [.. Compare.Read(arrays, $"ppo.{name}").Chunk(10).Select((row, s) => row[..(int)lengths[s]])];

        double[][] old = Array("logprobs"), own = Array("new_logprobs"), values = Array("values");
        double[][] rewards = TokenRewards.Compute(KlEstimate.PerToken(old, Array("ref_logprobs"), KlEstimator.K1), Compare.Read(arrays, "ppo.scores"), Constant("kl_coef"));
        var advantages = Advantages.Compute(rewards, values, Constant("gamma"), Constant("lam"));
        double[][] whitened = Advantages.Whiten(advantages.Values);
        PpoLossOptions options = new(Constant("cliprange"), Constant("cliprange_value"), Constant("vf_coef"));
        PpoMiniBatch counts = new(lengths.Sum(), lengths.Sum());
        var policy = PpoLoss.Policy(own, old, whitened, [], options, counts);
        var value = PpoLoss.Value(Array("new_values"), values, advantages.Returns, options, counts);

        LossArrays.Close(Array("rewards"), rewards, "rewards");
        LossArrays.Close(Array("advantages"), advantages.Values, "advantages");
        LossArrays.Close(Array("returns"), advantages.Returns, "returns");
        LossArrays.Close(Array("advantages_whitened"), whitened, "whitened");
        LossArrays.Close(Constant("policy_loss"), policy.Loss, "policy loss");
        LossArrays.Close(Constant("value_loss"), value.Statistics.ValueLoss, "value loss");
        LossArrays.Close(Constant("loss"), policy.Loss + value.Loss, "loss");
        LossArrays.Close(Constant("approx_kl"), policy.Statistics.ApproximateKl, "approximate divergence");
        LossArrays.Close(Array("grad_new_logprobs"), policy.LogProbGradient, "policy gradient", 1e-6);
        LossArrays.Close(Array("grad_new_values"), value.ValueGradient, "value gradient", 1e-6);
    }

    [Theory]
    [InlineData("kl", KlEstimator.K1)]
    [InlineData("abs", KlEstimator.Abs)]
    [InlineData("mse", KlEstimator.Mse)]
    public void TokenRewards_ofTheGoldenRollout_equalTrls(string penalty, KlEstimator estimator)
    {
        var golden = new Trl();
        double coefficient = golden.Number("kl_coef");
        double[][] kl = KlEstimate.PerToken(golden.Real("old_logprobs"), golden.Real("ref_logprobs"), estimator);

        LossArrays.Close(golden.Real($"rewards_{penalty}", "kls"), kl, "divergence");
        LossArrays.Close(golden.Real($"rewards_{penalty}", "non_score"), TokenRewards.Compute(kl, [0, 0, 0], coefficient), "penalty");
        LossArrays.Close(golden.Real($"rewards_{penalty}", "rewards"), TokenRewards.Compute(kl, golden.Row("scores"), coefficient), "rewards");
    }

    [Fact]
    public void Advantages_ofTheGoldenRollout_equalTrls()
    {
        var golden = new Trl();
        double gamma = golden.Number("config", "gamma"), lambda = golden.Number("config", "lam");
        double[][] values = golden.Real("values");
        var result = Advantages.Compute(golden.Real("rewards_kl", "rewards"), values, gamma, lambda);

        LossArrays.Close(golden.Real("gae", "values_masked"), values, "values");
        LossArrays.Close(golden.Real("gae", "returns"), result.Returns, "returns");
        LossArrays.Close(golden.Real("gae", "advantages_whitened"), Advantages.Whiten(result.Values), "whitened");

        // torchtune's runs over the whole rectangle, whitens over the real tokens, and adds the mean back, which TRL does to rewards only.
        var tune = Advantages.Compute(golden.Rows("torchtune_gae", "rewards"), golden.Rows("torchtune_gae", "values"), golden.Number("torchtune_gae", "gamma"), golden.Number("torchtune_gae", "lmbda"));
        LossArrays.Close(golden.Real("torchtune_gae", "advantages"), Advantages.Whiten(LossArrays.Real(tune.Values, golden.Rows("mask")), shiftMean: false), "torchtune's advantages");
        LossArrays.Close(golden.Rows("torchtune_gae", "returns"), tune.Returns, "torchtune's returns");
    }

    [Fact]
    public void Whiten_ofTheGoldenNumbers_equalsTrls()
    {
        var golden = new Trl();
        double[][] mask = golden.Rows("masked_whiten", "mask"), x = Real("x");
        double[][] Real(string name, string section = "masked_whiten") => LossArrays.Real(golden.Rows(section, name), mask);

        LossArrays.Close(Real("shift_mean_true"), Advantages.Whiten(x), "shifted");
        LossArrays.Close(Real("shift_mean_true", "masked_whiten_HEAD"), Advantages.Whiten(x), "shifted, by the newer TRL");
        LossArrays.Close(Real("shift_mean_false"), Advantages.Whiten(x, shiftMean: false), "kept");
        LossArrays.Close(golden.Number("masked_whiten", "mean"), Advantages.Moments(x).Mean, "mean");
        LossArrays.Close(golden.Number("masked_whiten", "var"), Advantages.Moments(x).Variance, "variance");
    }

    [Fact]
    public void AdaptiveKl_ofTheGoldenTrace_equalsTrls()
    {
        var golden = new Trl();
        var coefficient = new AdaptiveKl(golden.Number("adaptive_kl", "init"), golden.Number("adaptive_kl", "target"), golden.Number("adaptive_kl", "horizon"));

        Assert.All(golden.Rows("adaptive_kl", "trace"), row =>
        {
            coefficient.Update(row[0], (int)row[1]);
            Assert.Equal(row[2], coefficient.Value, 1e-15);
        });
    }

    [Fact]
    public void PpoLoss_ofTheGoldenRollout_equalsTrls()
    {
        var golden = new Trl();
        PpoLossOptions options = new(golden.Number("config", "cliprange"), golden.Number("config", "cliprange_value"), golden.Number("config", "vf_coef"));
        double[][] own = golden.Real("logprobs"), old = golden.Real("old_logprobs"), values = golden.Real("values"), predicted = golden.Real("vpreds");
        double[][] advantages = golden.Real("gae", "advantages_whitened"), returns = golden.Real("gae", "returns"), entropies = golden.Real("entropy");
        PpoMiniBatch counts = new(LossArrays.Flat(own).Length, LossArrays.Flat(own).Length);
        var policy = PpoLoss.Policy(own, old, advantages, entropies, options, counts);
        var value = PpoLoss.Value(predicted, values, returns, options, counts);

        LossArrays.Close(golden.Number("loss", "pg_loss"), policy.Loss, "policy loss");
        LossArrays.Close(golden.Number("loss", "vf_loss_times_coef"), value.Loss, "value loss");
        LossArrays.Close(golden.Real("loss", "grad_vpreds"), value.ValueGradient, "value gradient", 1e-6);
        LossArrays.Close(golden.GradLogits(), golden.LogitGradient(policy.LogProbGradient), "gradient by logits", 1e-6);

        double Statistic(string name) => golden.Number("loss", "stats", name);
        LossArrays.Close(Statistic("loss/policy"), policy.Statistics.PolicyLoss, "policy loss");
        LossArrays.Close(Statistic("loss/value"), value.Statistics.ValueLoss, "value loss");
        LossArrays.Close(Statistic("loss/total"), policy.Loss + value.Loss, "total");
        LossArrays.Close(Statistic("policy/entropy"), policy.Statistics.Entropy, "entropy");
        LossArrays.Close(Statistic("policy/approxkl"), policy.Statistics.ApproximateKl, "approxkl");
        LossArrays.Close(Statistic("policy/policykl"), Advantages.Moments(KlEstimate.PerToken(old, own, KlEstimator.K1)).Mean, "policykl");
        LossArrays.Close(Statistic("policy/clipfrac"), policy.Statistics.ClipFraction, "clipped ratios");
        LossArrays.Close(Statistic("policy/advantages_mean"), Advantages.Moments(advantages).Mean, "advantages");
        LossArrays.Close(Statistic("returns/mean"), Advantages.Moments(returns).Mean, "mean return");
        LossArrays.Close(Statistic("returns/var"), Advantages.Moments(returns).Variance, "variance of returns");
        LossArrays.Close(Statistic("val/vpred"), Advantages.Moments(predicted).Mean, "mean of new values");
        LossArrays.Close(Statistic("val/error"), 2 * PpoLoss.Value(predicted, values, returns, options with { ClipRangeValue = double.PositiveInfinity }, counts).Statistics.ValueLoss, "error");
        LossArrays.Close(Statistic("val/clipfrac"), value.Statistics.ValueClipFraction, "clipped values");
        LossArrays.Close(Statistic("val/mean"), Advantages.Moments(values).Mean, "mean value");
        LossArrays.Close(Statistic("val/var"), Advantages.Moments(values).Variance, "variance of values");
    }

    // The file's two losses of policies are left out: upstream compares them with a tolerance of 10⁶, which any number passes.
    [Fact]
    public void RewardsReturnsAndDpo_ofTorchtunesTests_areEqual()
    {
        using var file = Json("assets/golden-torchtune/rlhf.json");
        double[][] Rows(params string[] path) => Trl.ReadRows(Trl.At(file.RootElement, path));
        double[] Row(params string[] path) => Trl.ReadRow(Trl.At(file.RootElement, path));
        double Number(params string[] path) => Trl.At(file.RootElement, path).GetDouble();

        double[][] kl = KlEstimate.PerToken(Rows("rewards_ppo", "logprobs"), Rows("rewards_ppo", "ref_logprobs"), KlEstimator.K1);
        LossArrays.Close(Rows("rewards_ppo", "kl"), kl, "divergence");
        LossArrays.Close(Rows("rewards_ppo", "kl_rewards"), TokenRewards.Compute(kl, [0, 0, 0], Number("rewards_ppo", "kl_coeff")), "penalty");
        LossArrays.Close(Rows("rewards_ppo", "rewards"), TokenRewards.Compute(kl, Row("rewards_ppo", "scores"), Number("rewards_ppo", "kl_coeff")), "rewards");

        var advantages = Advantages.Compute(Rows("returns", "rewards"), Rows("returns", "values"), Number("returns", "gamma"), Number("returns", "lmbda"));
        LossArrays.Close(Rows("returns", "returns"), advantages.Returns, "returns");

        var moments = Advantages.Moments(LossArrays.Real([Row("masked", "x")], [Row("masked", "mask")]));
        Assert.Equal((Number("masked", "mean"), Number("masked", "var")), moments);

        double[][] dpo = [.. new[] { "pc", "pr", "rc", "rr" }.Select(name => Row("dpo", name))];
        double[] losses = [.. dpo[0].Select((_, i) => DpoLoss.Compute([new(dpo[0][i], dpo[1][i], dpo[2][i], dpo[3][i], 1, 1)], new DpoLossOptions(Number("dpo", "beta")), 1).Loss)];
        LossArrays.Close(Row("dpo", "losses"), losses, "dpo");
    }

    static Safetensors Open(string file) => Safetensors.Open(TestAssets.Path($"golden/cases/rl_losses/{file}"));

    static JsonDocument Json(string file) => JsonDocument.Parse(File.ReadAllText(TestAssets.Path(file)));

    static double Number(JsonDocument file, string name) => file.RootElement.GetProperty(name).GetDouble();

    // TRL's file: rectangles [3, 6], of which a mask keeps the real tokens, the third row's from its second slot on.
    sealed class Trl
    {
        readonly JsonElement root;

        public Trl()
        {
            using var file = Json("assets/golden-ppo/golden.json");
            root = file.RootElement.Clone();
        }

        public double Number(params string[] path) => At(root, path).GetDouble();

        public double[] Row(params string[] path) => ReadRow(At(root, path));

        public double[][] Rows(params string[] path) => ReadRows(At(root, path));

        public double[][] Real(params string[] path) => LossArrays.Real(Rows(path), Rows("mask"));

        /// <summary>Gradients by the logits of all slots, padding too.</summary>
        public double[][] GradLogits() => [.. At(root, ["loss", "grad_logits"]).EnumerateArray().SelectMany(ReadRows)];

        /// <summary>The same from gradients by log-probabilities: dz = g·(onehot − softmax(z)), and zero in padding.</summary>
        public double[][] LogitGradient(double[][] gradient)
        {
            double[][] logits = [.. At(root, ["logits"]).EnumerateArray().SelectMany(ReadRows)];
            double[] labels = LossArrays.Flat(Rows("labels")), mask = LossArrays.Flat(Rows("mask"));
            var real = new Queue<double>(LossArrays.Flat(gradient));
            return [.. logits.Select((z, slot) =>
            {
                double g = mask[slot] != 0 ? real.Dequeue() : 0, sum = z.Sum(Math.Exp);
                return z.Select((x, v) => g * ((v == (int)labels[slot] ? 1 : 0) - Math.Exp(x) / sum)).ToArray();
            })];
        }

        public static JsonElement At(JsonElement element, string[] path) => path.Aggregate(element, (parent, name) => parent.GetProperty(name));

        public static double[] ReadRow(JsonElement row) => [.. row.EnumerateArray().Select(x => x.ValueKind switch { JsonValueKind.True => 1, JsonValueKind.False => 0, _ => x.GetDouble() })];

        public static double[][] ReadRows(JsonElement rows) => [.. rows.EnumerateArray().Select(ReadRow)];
    }
}
