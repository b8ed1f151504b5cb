using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What PPO refuses before its first update, and how a value model starts.</summary>
public sealed class PpoInputTests : IDisposable
{
    readonly PpoSetup setup = new();

    public void Dispose() => setup.Dispose();

    public static TheoryData<string, string> BadOptions => new()
    {
        { "mini batches", "MiniBatches is 4, expected a divisor of the 6 prompts" },
        { "temperature", "Temperature is 0, expected more than 0" },
        { "response", "ResponseLength is 0, expected at least 1" },
        { "penalty", "MissingEosPenalty is -1, expected 0 or more" },
        { "penalty without end", "MissingEosPenalty is 0.5, expected 0 with an empty StopIds" },
        { "clip", "ClipRange is 1, expected between 0 and 1" },
        { "target", "AdaptiveKlTarget is 0, expected more than 0" },
        { "horizon", "AdaptiveKlHorizon is 1.2, expected more than 0.2 times the 6 responses of an update (micro_batch_size 3 times gradient_accumulation_steps 2), or one update could take the weight below zero" },
    };

    [Theory, MemberData(nameof(BadOptions))]
    public void Options_outOfRange_areRefused(string what, string expected)
    {
        var options = what switch
        {
            "mini batches" => PpoSetup.Options with { MiniBatches = 4 },
            "temperature" => PpoSetup.Options with { Temperature = 0 },
            "response" => PpoSetup.Options with { ResponseLength = 0 },
            "penalty" => PpoSetup.Options with { MissingEosPenalty = -1 },
            "penalty without end" => PpoSetup.Options with { StopIds = [] },
            "clip" => PpoSetup.Options with { ClipRange = 1 },
            "target" => PpoSetup.Options with { AdaptiveKlTarget = 0 },
            _ => PpoSetup.Options with { AdaptiveKlTarget = 6, AdaptiveKlHorizon = 1.2 },
        };

        Assert.Contains(expected, Assert.Throws<ArgumentException>(() => setup.NewTrainer(options)).Message);
    }

    [Theory]
    [InlineData(0, "prompts:5: the prompt has 0 tokens, expected 1 to 122")]
    [InlineData(123, "prompts:5: the prompt has 123 tokens, expected 1 to 122: the model's 128 positions less response_length 6")]
    [InlineData(-1, "prompts:5: token id 41 is out of range")]
    public void Prompt_thatCannotBeAnswered_isRefused(int length, string expected)
    {
        var prompt = new Prompt(length < 0 ? [3, 41] : new int[length], "", new Dictionary<string, string>(), "prompts", 5);

        Assert.Contains(expected, Assert.Throws<ArgumentException>(() => setup.NewTrainer(PpoSetup.Options, prompts: [PpoSetup.Prompts[0], prompt])).Message);
    }

    [Theory]
    [InlineData(128)]
    [InlineData(int.MaxValue)]
    public void Response_asLongAsTheModel_isRefused(int length) => Assert.Contains($"response_length is {length}, expected less than the model's 128 positions",
        Assert.Throws<ArgumentException>(() => setup.NewTrainer(PpoSetup.Options with { ResponseLength = length })).Message);

    [Fact]
    public void Prompts_none_areRefused() => Assert.Contains("no prompts", Assert.Throws<ArgumentException>(() => setup.NewTrainer(PpoSetup.Options, prompts: [])).Message);

    [Fact]
    public void StopToken_thatTheModelLacks_isRefused() =>
        Assert.Contains("stop tokens: token id 99", Assert.Throws<ArgumentException>(() => setup.NewTrainer(PpoSetup.Options with { StopIds = [99] })).Message);

    [Fact]
    public void Model_withoutAnEnd_isRefused_unlessResponsesHaveFullLength()
    {
        using var temp = new TempFolder();
        RandomModel.Write(TinyModels.Config.Replace(", \"eos_token_id\": 2", "", StringComparison.Ordinal), temp.Path, DType.F32, seed: 5);
        using var model = PretrainedModel.Load(temp.Path, setup.Backend);
        using var policy = new AdapterSet(model, PpoSetup.Lora);
        using var value = new AdapterSet(model, PpoSetup.Lora, scalarHead: true);

        Assert.Contains("no end-of-sequence token", Assert.Throws<ArgumentException>(() => New(PpoSetup.Options with { StopIds = null })).Message);
        New(PpoSetup.Options with { StopIds = [], MissingEosPenalty = 0 }).Dispose();

        PpoTrainer New(PpoOptions options) => new(policy, value, "tiny", null, PpoSetup.Prompts, PpoSetup.LowIds, options);
    }

    [Theory]
    [InlineData("policy with head", "PpoTrainer: the policy has a scalar head")]
    [InlineData("value without head", "PpoTrainer: the value model has no scalar head")]
    [InlineData("reference with head", "PpoTrainer: the reference has a scalar head")]
    [InlineData("two roles", "PpoTrainer: the reference is the policy itself")]
    [InlineData("two bases", "PpoTrainer: the value model is over another base")]
    public void Adapters_thatDoNotFitTheirRoles_areRefused(string what, string expected)
    {
        using var other = new PpoSetup();
        var (policy, value, reference) = what switch
        {
            "policy with head" => (setup.Value, setup.Value, (AdapterSet?)null),
            "value without head" => (setup.Policy, setup.Policy, null),
            "reference with head" => (setup.Policy, setup.Value, setup.Value),
            "two roles" => (setup.Policy, setup.Value, setup.Policy),
            _ => (setup.Policy, other.Value, null),
        };

        var problem = Assert.Throws<ArgumentException>(() => new PpoTrainer(policy, value, "tiny", null, PpoSetup.Prompts, PpoSetup.LowIds, PpoSetup.Options, reference));

        Assert.Contains(expected, problem.Message);
    }

    [Fact]
    public void Rewards_ofOneName_areRefused()
    {
        RewardSum twins = new([(Reward.Of("same", _ => 0), 1), (Reward.Of("same", _ => 1), 1)]);

        Assert.Contains("two of the rewards same, same have one name", Assert.Throws<ArgumentException>(() => setup.NewTrainer(PpoSetup.Options, twins)).Message);
    }

    [Fact]
    public void ValueModel_startsAsTheRewardModel_whereTheLayersAreTheSame()
    {
        setup.Disturb(setup.Value, 4);

        using var copy = ValueModel.Create(setup.Model, PpoSetup.Lora, 7, reward: setup.Value);
        using var narrower = ValueModel.Create(setup.Model, PpoSetup.Lora with { Rank = 2 }, 7, reward: setup.Value);
        using var fresh = ValueModel.Create(setup.Model, PpoSetup.Lora, 7);

        Compare.Same(setup.Backend.ReadDoubles(setup.Value.Parameters.Values), setup.Backend.ReadDoubles(copy.Parameters.Values));
        Assert.All(narrower.Updates.Concat(fresh.Updates), x => Assert.All(setup.Backend.ReadDoubles(x.Update.B.Value), b => Assert.Equal(0, b)));
        Assert.NotNull(narrower.Head);
        using var other = new PpoSetup();
        Assert.Contains("lies over another model", Assert.Throws<ArgumentException>(() => ValueModel.Create(other.Model, PpoSetup.Lora, reward: setup.Value)).Message);
    }
}
