using System.Globalization;
using CsCheck;
using IlgpuPeft.Config;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The keys of reward models, preference and policy methods: read, written, and read again.</summary>
public sealed class MethodConfigTests : IDisposable
{
    const string Base = "base_model: ./model\nadapter: qlora\nlora_target_linear: true\nlearning_rate: 0.0001\ndatasets:\n  - path: data.jsonl\n    type: prompt_completion\n";

    readonly TempFolder temp = new();

    public void Dispose() => temp.Dispose();

    [Theory]
    [InlineData("reward_model: true\ncenter_rewards_coefficient: 0.01")]
    [InlineData("rl: dpo\nreference_model_dir: {here}\nrl_beta: 0.2\ndpo_loss_type: sigmoid\ndpo_label_smoothing: 0.1")]
    [InlineData("rl: dpo\nrl_beta: 0.2\ndpo_loss_type: hinge")]
    [InlineData("rl: dpo\nrl_beta: 0.2\ndpo_loss_type: ipo\ndpo_reference_free: true")]
    [InlineData("rl: ipo\nreference_model_dir: {here}\nrl_beta: 0.3")]
    [InlineData("rl: orpo\nrl_beta: 0.25")]
    [InlineData("rl: kto\nreference_model_dir: {here}\nrl_beta: 0.5\nkto_desirable_weight: 0.2\nkto_undesirable_weight: 2")]
    [InlineData("rl: grpo\nval_set_size: 4\neval_steps: 2\nrewards:\n  - rule: ended\n    weight: 2")]
    [InlineData("rl: ppo\nreference_model_dir: {here}\nrewards:\n  - model: {here}\n    weight: 0.5")]
    public void Keys_of_a_method_are_written_and_read_again_without_notes(string lines)
    {
        lines = lines.Replace("{here}", temp.File("there"), StringComparison.Ordinal);
        var (config, notes) = Read(Base + lines);
        Assert.Empty(notes);
        string yaml = ConfigWriter.ToYaml(config);
        Assert.All(lines.Split('\n'), line => Assert.Contains("\n" + line + "\n", yaml, StringComparison.Ordinal));
        Assert.Equal(config.Rl is not "ppo", yaml.Contains("val_set_size", StringComparison.Ordinal));
        Assert.Equal(config.Rl is "ppo", yaml.Contains("\nppo:\n", StringComparison.Ordinal));
        Assert.Equal(config.Rl is "grpo", yaml.Contains("\ntrl:\n", StringComparison.Ordinal));
        var (again, silent) = Read(yaml);
        Assert.Empty(silent);
        Assert.Equal(yaml, ConfigWriter.ToYaml(again));
    }

    [Fact]
    public void Every_key_of_ppo_is_read_and_written() => Survives("ppo", "ppo", MethodKeys.Ppo);

    [Fact]
    public void Every_key_of_grpo_is_read_and_written() => Survives("grpo", "trl", MethodKeys.Grpo);

    [Fact]
    public void Options_of_rewards_survive_writing()
    {
        var config = Read(Base + """
            rl: ppo
            rewards:
              - rule: contains
                text: "a: \"b\" # {c}\n\t| é\\"
                ignore_case: true
                weight: -0.5
              - rule: length
                max: 20
                per_token: true
                label: "yes"
              - rule: regex
                pattern: '^\d+(\.\d+)?$'
              - model: there
                label: null and void
              - rule: starts-with
                text: "null"
                label: on
            """).Config;
        Assert.Equal("a: \"b\" # {c}\n\t| é\\", config.Rewards[0].Options["text"]);
        Assert.Equal(("20", "true", "yes"), (config.Rewards[1].Options["max"], config.Rewards[1].Options["per_token"], config.Rewards[1].Options["label"]));
        Assert.Equal(@"^\d+(\.\d+)?$", config.Rewards[2].Options["pattern"]);
        Assert.Equal(Flat(config), Flat(Read(ConfigWriter.ToYaml(config)).Config));
    }

    [Fact]
    public void Text_of_a_reward_survives_any_characters() => Gen.String.Where(text => !text.Any(char.IsSurrogate)).Sample(text =>
    {
        var config = Read(Base + "rl: grpo\nrewards: [{rule: contains, text: x}]").Config;
        config = config with { Rewards = [config.Rewards[0].With("text", text + "."), new RewardConfig { Model = temp.File("there") }.With("label", "l" + text)] };
        Assert.Equal(Flat(config), Flat(Read(ConfigWriter.ToYaml(config)).Config));
    }, iter: 100, threads: 1);

    // The key sets of Axolotl's examples for each method; types are those that local files have here.
    [Theory]
    [InlineData("rl: dpo\nchat_template: llama3\ndatasets:\n  - path: owner/set\n    type: chat_template\n    field_messages: conversation\n    field_chosen: chosen\n    field_rejected: rejected\n" +
        "    message_property_mappings: {role: role, content: content}\n", "")]
    [InlineData("rl: orpo\norpo_alpha: 0.1\nremove_unused_columns: false\nchat_template: chatml\n", "remove_unused_columns")]
    [InlineData("rl: kto\nrl_beta: 0.5\nkto_desirable_weight: 0.2\nremove_unused_columns: false\n", "remove_unused_columns")]
    [InlineData("rl: grpo\nrewards: [{rule: ended}]\nvllm: {host: 0.0.0.0, port: 8000}\ntrl:\n  beta: 0.001\n  use_vllm: true\n  vllm_server_port: 8000\n  num_generations: 4\n  max_completion_length: 256\n" +
        "  log_completions: true\n", "vllm trl.use_vllm trl.vllm_server_port trl.log_completions")]
    [InlineData("model_type: AutoModelForSequenceClassification\nnum_labels: 1\nreward_model: true\ncenter_rewards_coefficient: 0.01\nremove_unused_columns: false\n", "model_type remove_unused_columns")]
    [InlineData("rl: dpo\nrl_adapter_ref_model: true\nprecompute_ref_log_probs: true\n", "rl_adapter_ref_model precompute_ref_log_probs")]
    public void Axolotl_examples_of_methods_are_read_with_notes_only(string lines, string ignored)
    {
        string rest = lines.Contains("datasets:", StringComparison.Ordinal) ? Base[..Base.IndexOf("datasets:", StringComparison.Ordinal)] : Base;
        Assert.Equal(ignored, string.Join(' ', Read(rest + lines).Notes.Select(note => note.Split(" is ignored")[0])));
    }

    [Theory]
    [InlineData("rl: grpo\nrewards: [{rule: ended}]\ntrl:\n  reward_funcs: [rewards.accuracy]", "list rules and reward models under `rewards`")]
    [InlineData("rl: simpo\nsimpo_gamma: 0.5", "expected dpo, ipo, orpo, kto, grpo or ppo, got \"simpo\"")]
    [InlineData("rl: dpo\ndpo_use_weighting: true", "the keys of rl: dpo are rl_beta")]
    [InlineData("rl: dpo\nmax_prompt_len: 128", "set sequence_len")]
    [InlineData("process_reward_model: true", "reward models judge whole answers")]
    [InlineData("reward_model: true\nnum_labels: 2", "A reward model gives one number")]
    public void Axolotl_key_that_would_change_the_run_gets_advice(string lines, string advice)
    {
        var failure = Assert.Throws<ConfigException>(() => Read(Base + lines));
        Assert.Contains(advice, failure.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("no such key", failure.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("rl: ipo\ndpo_label_smoothing: 0.3", 9, "dpo_label_smoothing: expected 0 with rl: ipo, got 0.3")]
    [InlineData("rl: dpo\ndpo_loss_type: ipo\ndpo_label_smoothing: 0.3", 10, "dpo_label_smoothing: expected 0 with dpo_loss_type: ipo, got 0.3")]
    [InlineData("rl: dpo\ndpo_loss_type: hinge\ndpo_label_smoothing: 0.3", 10, "dpo_label_smoothing: expected 0 with dpo_loss_type: hinge, got 0.3")]
    [InlineData("rl: orpo\nrl_beta: 0.5\norpo_alpha: 0.2", 10, "orpo_alpha: contradicts rl_beta")]
    [InlineData("rl: orpo\norpo_alpha: 0.2\nrl_beta: 0.5", 9, "orpo_alpha: contradicts rl_beta")]
    [InlineData("rl: ppo\nrewards: [{rule: ended}]\nmicro_batch_size: 4\nppo:\n  num_mini_batches: 3", 12, "ppo.num_mini_batches: expected a divisor of the 4 prompts of an update")]
    [InlineData("rl: grpo\nrewards: [{rule: ended}]\ntrl:\n  delta: 1.2", 11, "trl.delta: expected more than 1.2, 1 and epsilon, where clipping does not reach, got 1.2")]
    [InlineData("rl: grpo\nrewards: [{rule: ended}]\ntrl:\n  delta: 1.25\n  epsilon_high: 0.28", 11, "trl.delta: expected more than 1.28, 1 and epsilon_high")]
    public void What_a_method_cannot_do_is_one_problem_with_line_and_key(string lines, int line, string message)
    {
        var problem = Assert.Single(Assert.Throws<ConfigException>(() => Read(Base + lines)).Problems);
        Assert.Equal(line, problem.Line);
        Assert.StartsWith(message, $"{problem.Key}: {problem.Message}", StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("rl: orpo", 0.2)]
    [InlineData("rl: dpo", 0.1)]
    public void Orpo_alpha_is_the_beta_of_orpo_alone(string method, double beta) => Assert.Equal(beta, Read($"{Base}{method}\norpo_alpha: 0.2").Config.RlBeta);

    [Theory]
    [InlineData("grpo", "", 1024)]
    [InlineData("grpo", "trl: {max_completion_length: 256}\n", 768)]
    [InlineData("grpo", "trl: {max_completion_length: 256}\nsequence_len: 300\n", 300)]
    [InlineData("grpo", "trl: {max_completion_length: 2147483647}\n", int.MaxValue)]
    [InlineData("ppo", "", 512)]
    public void Sequence_len_of_grpo_has_room_for_a_prompt_and_a_completion(string method, string lines, int expected)
    {
        var config = Read($"{Base}rl: {method}\nrewards: [{{rule: ended}}]\n{lines}").Config;
        Assert.Equal(expected, config.SequenceLen);
        Assert.Equal(expected, Read(ConfigWriter.ToYaml(config)).Config.SequenceLen);
    }

    [Theory]
    [InlineData("  kl_target: 6\n  kl_horizon: 6.4", "14: ppo.kl_horizon: expected ppo.kl_horizon to be more than 0.2 times the 32 responses of an update (micro_batch_size times gradient_accumulation_steps), got 6.4: ")]
    [InlineData("  kl_target: 6\n  kl_horizon: 6.5", null)]
    [InlineData("  kl_horizon: 6.4", null)]
    public void Horizon_that_could_turn_the_weight_negative_is_a_problem(string ppo, string? expected)
    {
        string yaml = Base + "micro_batch_size: 8\ngradient_accumulation_steps: 4\nrl: ppo\nrewards: [{rule: ended}]\nppo:\n" + ppo;
        string problem = Record.Exception(() => Read(yaml))?.Message ?? "";
        Assert.Equal(expected is not null, problem.Length > 0);
        Assert.Contains(expected ?? "", problem, StringComparison.Ordinal);
    }

    // Gives every key of a group a value that is not its default, and finds each in what is written.
    void Survives<T>(string method, string group, KeyTable<T> table) where T : new()
    {
        var values = table.Honoured.Select(key => (key.Name, Value: Other(key, key.Get(new T())))).ToList();
        string yaml = ConfigWriter.ToYaml(Read($"{Base}rl: {method}\nmicro_batch_size: 2\nrewards: [{{rule: ended}}]\n{group}:\n{string.Concat(values.Select(pair => $"  {pair.Name}: {pair.Value}\n"))}").Config);
        Assert.All(values, pair => Assert.Contains($"\n  {pair.Name}: {pair.Value}\n", yaml, StringComparison.Ordinal));
        Assert.Equal(yaml, ConfigWriter.ToYaml(Read(yaml).Config));
    }

    static string Other<T>(ConfigKey<T> key, object? value) => (key.Kind, value) switch
    {
        (ConfigKind.Flag, bool flag) => flag ? "false" : "true",
        (ConfigKind.Integer, int count) => (count + 1).ToString(CultureInfo.InvariantCulture),
        (ConfigKind.Number, double number) => (number / 2 + 0.0625).ToString("R", CultureInfo.InvariantCulture),
        (ConfigKind.Number, null) => key.Name == "delta" ? "1.75" : "0.375",
        (ConfigKind.Choice, string word) => key.Expected.Replace(" or ", ", ", StringComparison.Ordinal).Split(", ").First(other => other != word),
        _ => throw new InvalidOperationException($"no value for {key.Name}, {value}"),
    };

    static string Flat(RunConfig config) => string.Join('\n', config.Rewards.Select(reward => $"{reward.Rule} {reward.Model} {reward.Weight} {string.Join(' ', reward.Options)}"));

    LoadedConfig Read(string yaml)
    {
        File.WriteAllText(temp.File("run.yaml"), yaml);
        return ConfigReader.Read(temp.File("run.yaml"), []);
    }
}
