using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Metrics;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Reward models, preference and policy methods from YAML file to adapter, through the command line.</summary>
public sealed class CliMethodTests : IDisposable
{
    readonly MethodRun run = new();

    public void Dispose() => run.Dispose();

    [Theory]
    [InlineData("reward", "Reward model", "accuracy margin mean_reward min_reward max_reward")]
    [InlineData("dpo", "Direct preference optimization", "rewards/accuracies rewards/margins rewards/chosen rewards/rejected logps/chosen")]
    [InlineData("ipo", "Identity preference optimization", "rewards/accuracies rewards/margins rewards/chosen rewards/rejected")]
    [InlineData("orpo", "Odds ratio preference optimization", "rewards/accuracies nll_loss log_odds_ratio log_odds_chosen")]
    [InlineData("kto", "Kahneman-Tversky optimization", "kl rewards/margins logps/chosen")]
    [InlineData("grpo", "Group relative policy optimization", "reward reward_std kl completions/mean_length frac_reward_zero_std")]
    [InlineData("ppo", "Proximal policy optimization", "objective/kl objective/scores policy/clipfrac_avg loss/value_avg rewards/four completions/mean_length")]
    public async Task Train_leaves_adapter_measures_report_configuration_and_checkpoint(string method, string title, string measures)
    {
        string[] names = measures.Split(' ');
        string output = run.PathOf(method), config = run.Config(method, MethodRun.Lines(method));
        var planned = (await Tool.RunAsync("train", config, "--dry-run", "--json")).Succeeds();
        Assert.Equal((2, 6), (planned.Json.GetProperty("steps").GetInt32(), planned.Json.GetProperty("train").GetInt32()));
        Assert.Contains($"method: {title}\n", planned.Error.ReplaceLineEndings("\n"), StringComparison.Ordinal);
        Assert.Contains($"an epoch has 6 {(method is "grpo" or "ppo" ? "prompts" : method is "kto" ? "responses" : "pairs")}", planned.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(output));

        var trained = (await Tool.RunAsync("train", config, "--json")).Succeeds();

        var rows = MetricsFile.Read(Path.Combine(output, "metrics.jsonl"));
        Assert.Equal([1.0, 2.0], rows.Select(row => row["step"]));
        Assert.All(names, name => Assert.All(rows, row => Assert.True(double.IsFinite(row[name]), name)));
        Assert.All(names, name => Assert.Equal(rows[^1][name], trained.Json.GetProperty("measures").GetProperty(name).GetDouble(), 1e-6));
        Assert.NotEqual(0, rows[^1]["grad_norm"]);
        string report = File.ReadAllText(Path.Combine(output, "report.html"));
        Assert.Contains(title, report, StringComparison.Ordinal);
        Assert.Contains(names[0], report, StringComparison.Ordinal);
        Assert.Equal(method is "grpo" or "ppo", report.Contains("Time of a step", StringComparison.Ordinal) && report.Contains("time/score", StringComparison.Ordinal));
        Assert.Equal(method is "grpo" or "ppo", File.Exists(Path.Combine(output, "samples.jsonl")));
        Assert.True(File.Exists(Path.Combine(output, "checkpoint-2", PeftFiles.WeightsName)));

        var adapter = (await Tool.RunAsync("inspect", output, "--json")).Succeeds().Json;
        Assert.Equal((method == "reward" ? "SEQ_CLS" : "CAUSAL_LM", 8), (adapter.GetProperty("task_type").GetString(), adapter.GetProperty("modules").GetInt32()));
        Assert.Equal(0, adapter.GetProperty("zero_b").GetArrayLength());
        Assert.DoesNotContain("note:", (await Tool.RunAsync("train", Path.Combine(output, "config.yaml"), "--dry-run")).Succeeds().Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Reward_model_scores_texts_and_pays_a_policy_that_generates()
    {
        string reward = run.PathOf("reward"), policy = run.PathOf("ppo");
        string[] over = ["--model", run.Model, "--base", "nf4-double"];
        (await Tool.RunAsync("train", run.Config("reward", MethodRun.Lines("reward")), "--set", "max_steps=12")).Succeeds();
        double friendly = await Score("1 + 4 = ", "5 :)"), curt = await Score("1 + 4 = ", "no");
        Assert.True(friendly > curt, $"the preferred answer scores {friendly}, the other {curt}");

        string config = run.Config("ppo", MethodRun.Lines("ppo"));
        var trained = (await Tool.RunAsync("train", config, "--json", "--set", "rewards.1.model=reward", "--set", "rewards.1.label=people")).Succeeds().Json;
        Assert.Contains("rewards/people", trained.GetProperty("measures").EnumerateObject().Select(measure => measure.Name));
        var inspected = (await Tool.RunAsync("inspect", Path.Combine(policy, "value"), "--json")).Succeeds().Json;
        Assert.Equal(128, inspected.GetProperty("head").GetInt32());
        var written = (await Tool.RunAsync(["generate", .. over, "--adapter", policy, "--prompt", "1 + 4 = ", "--max-tokens", "8"])).Succeeds();
        Assert.NotEqual("", written.Out.Trim());

        async Task<double> Score(string prompt, string completion)
        {
            run.Write("row.jsonl", [new { prompt, completion }]);
            return (await Tool.RunAsync(["score", .. over, "--adapter", reward, "--reward", "--data", run.PathOf("row.jsonl"), "--json"])).Succeeds().Json.GetProperty("reward").GetDouble();
        }
    }

    [Fact]
    public async Task Resumed_ppo_ends_as_the_uninterrupted_run_bit_for_bit()
    {
        string straight = run.PathOf("ppo"), resumed = run.PathOf("resumed"), config = run.Config("ppo", MethodRun.Lines("ppo"));
        string[] options = ["--set", "max_steps=3", "--set", "save_steps=1", "--set", "ppo.kl_target=0.1"];
        (await Tool.RunAsync(["train", config, .. options])).Succeeds();
        CopyFolder(Path.Combine(straight, "checkpoint-2"), Path.Combine(resumed, "checkpoint-2"));
        File.Copy(Path.Combine(straight, "metrics.jsonl"), Path.Combine(resumed, "metrics.jsonl"));

        var again = (await Tool.RunAsync(["train", config, .. options, "--set", $"output_dir={resumed}", "--resume"])).Succeeds();

        Assert.DoesNotContain("step 2/3", again.Error, StringComparison.Ordinal);
        foreach (string part in new[] { "", "value" })
        {
            Assert.Equal(File.ReadAllBytes(Path.Combine(straight, part, PeftFiles.WeightsName)), File.ReadAllBytes(Path.Combine(resumed, part, PeftFiles.WeightsName)));
        }

        Assert.Equal(Numbers(straight), Numbers(resumed));

        static List<(double, double, double)> Numbers(string folder) =>
            [.. MetricsFile.Read(Path.Combine(folder, "metrics.jsonl")).Select(row => (row["loss"], row["objective/kl"], row["objective/kl_coef"]))];
    }

    [Fact]
    public async Task Reward_that_fails_says_where_and_the_mended_run_goes_on()
    {
        string config = run.Config("ppo", MethodRun.Lines("ppo"));
        string[] slow = ["train", config, "--set", "sequence_len=120", "--set", "ppo.response_length=100", "--set", "micro_batch_size=1"];
        const string backtracks = @"rewards.0={rule: regex, pattern: '^(\w\w|\w|\W\W|\W)*(?=#)\1', label: slow}";

        var failed = (await Tool.RunAsync([.. slow, "--set", backtracks])).Fails(2, "reward slow: it threw InvalidOperationException for the answer");

        Assert.Contains("prompts.jsonl:", failed.Error, StringComparison.Ordinal);
        Assert.Contains("checkpoint-0 holds the steps before, and train --resume goes on from it", failed.Error, StringComparison.Ordinal);
        (await Tool.RunAsync([.. slow, "--resume", "--set", "rewards.0={rule: regex, pattern: '1', label: slow}"])).Succeeds();
    }

    [Fact]
    public async Task Policy_that_goes_on_from_an_adapter_is_held_to_it_and_has_a_value_model_of_its_shape()
    {
        (await Tool.RunAsync("train", run.Config("policy", MethodRun.Lines("dpo")), "--set", "lora_r=3")).Succeeds();
        string config = run.Config("ppo", MethodRun.Lines("ppo"));
        File.WriteAllLines(config, File.ReadAllLines(config).Where(line => !line.StartsWith("lora_", StringComparison.Ordinal))); // the adapter has rank and layers itself
        string[] one = ["train", config, "--json", "--set", "max_steps=1", "--set", "lora_model_dir=policy"];

        var held = (await Tool.RunAsync(one)).Succeeds().Json.GetProperty("measures");
        var value = (await Tool.RunAsync("inspect", Path.Combine(run.PathOf("ppo"), "value"), "--json")).Succeeds().Json;
        (await Tool.RunAsync("train", run.Config("other", MethodRun.Lines("ipo")), "--set", "seed=9")).Succeeds();
        var apart = (await Tool.RunAsync([.. one, "--set", "reference_model_dir=other"])).Succeeds().Json.GetProperty("measures");

        Assert.Equal(("3", 8), (Assert.Single(value.GetProperty("ranks").EnumerateArray()).ToString(), value.GetProperty("modules").GetInt32()));
        Assert.Equal(0, held.GetProperty("objective/kl").GetDouble());
        Assert.NotEqual(0, apart.GetProperty("objective/kl").GetDouble());
    }

    [Theory]
    [InlineData("ppo", "ppo")]
    [InlineData("grpo", "trl")]
    public async Task Fewer_sequences_at_once_take_less_cache(string method, string group)
    {
        string config = run.Config(method, MethodRun.Lines(method));
        long one = await Cache(1), two = await Cache(2);
        Assert.True(one > 0 && two >= 2 * one, $"one sequence takes {one} bytes, two take {two}");

        async Task<long> Cache(int sequences) => (await Tool.RunAsync("train", config, "--json", "--set", "max_steps=1", "--set", $"{group}.max_sequences={sequences}")).Succeeds()
            .Json.GetProperty("memory_bytes").GetProperty("kv cache").GetInt64();
    }

    [Fact]
    public async Task Run_that_its_divergence_ends_says_so()
    {
        var trained = (await Tool.RunAsync("train", run.Config("ppo", MethodRun.Lines("ppo")), "--json", "--set", "max_steps=5", "--set", "ppo.max_kl=0.001")).Succeeds();
        Assert.Equal(2, trained.Json.GetProperty("steps").GetInt32()); // the first update starts at the reference
        Assert.Contains("ended: objective/kl is ", trained.Error, StringComparison.Ordinal);
        Assert.Contains("above max_kl 0.001", File.ReadAllText(Path.Combine(run.PathOf("ppo"), "report.html")), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Written_ppo_config_reads_back_as_the_same_run()
    {
        (await Tool.RunAsync("train", run.Config("ppo", MethodRun.Lines("ppo")))).Succeeds();
        (await Tool.RunAsync("train", Path.Combine(run.PathOf("ppo"), "config.yaml"), "--set", $"output_dir={run.PathOf("again")}")).Succeeds();
        Assert.Equal(File.ReadAllBytes(Path.Combine(run.PathOf("ppo"), PeftFiles.WeightsName)), File.ReadAllBytes(Path.Combine(run.PathOf("again"), PeftFiles.WeightsName)));
    }

    [Fact]
    public async Task All_roles_of_ppo_hold_the_base_once()
    {
        long loaded, used;
        using (var backend = new HostBackend<float>())
        using (var model = PretrainedModel.Load(run.Model, backend, WeightStorage.Nf4Double))
        {
            loaded = backend.Memory.ByOwner["weights"];
            using var pass = new LanguageModelPass(model);
            pass.LogProbs(PackedBatch.From([new Example([1, 2], [1, 2], "", 0)])); // tables of positions are made when first asked for
            used = backend.Memory.ByOwner["weights"];
        }

        (await Tool.RunAsync("train", run.Config("reward", MethodRun.Lines("reward")))).Succeeds();
        string config = run.Config("ppo", MethodRun.Lines("ppo"));
        string[] roles = ["train", config, "--json", "--set", "rewards.1.model=reward", "--set", "reference_model_dir=policy", "--set", "lora_model_dir=policy"];
        (await Tool.RunAsync("train", run.Config("policy", MethodRun.Lines("dpo")))).Succeeds();

        var plan = (await Tool.RunAsync([.. roles, "--dry-run"])).Succeeds();
        var trained = (await Tool.RunAsync(roles)).Succeeds();

        Assert.Equal(loaded, plan.Json.GetProperty("memory_bytes").GetProperty("weights").GetInt64());
        Assert.Equal(used, trained.Json.GetProperty("memory_bytes").GetProperty("weights").GetInt64());
        string[] owners = ["weights", "adapters", "gradients", "optimizer"];
        Assert.All(owners, owner => Assert.Contains($"{owner} ", Line(plan, "memory: "), StringComparison.Ordinal));
        Assert.All([.. owners, "kv cache"], owner => Assert.Contains($"{owner} ", trained.Error.Split('\n').Last(line => line.StartsWith("memory: ", StringComparison.Ordinal)), StringComparison.Ordinal));
    }

    [Fact]
    public async Task Ppo_on_the_emulator_follows_the_cpu()
    {
        using var tiny = new TinyRun();
        File.WriteAllText(tiny.Config, """
            base_model: model
            adapter: lora
            lora_r: 2
            lora_target_modules: [q_proj]
            rl: ppo
            ppo: {response_length: 3, num_ppo_epochs: 1}
            rewards:
              - rule: length
                target: 2
            datasets:
              - path: rows.jsonl
                type: tokenized
            micro_batch_size: 2
            max_steps: 1
            learning_rate: 0.01
            output_dir: out
            """);
        var host = (await Tool.RunAsync("train", tiny.Config, "--json")).Succeeds().Json;
        var emulated = (await Tool.RunAsync("train", tiny.Config, "--json", "--device", "emulator", "--dtype", "f32")).Succeeds().Json;
        foreach (string name in new[] { "objective/scores", "objective/entropy", "loss/value_avg", "completions/mean_length" })
        {
            double expected = Measure(host, name);
            Assert.Equal(expected, Measure(emulated, name), 1e-4 * Math.Max(1, Math.Abs(expected)));
        }

        static double Measure(JsonElement json, string name) => json.GetProperty("measures").GetProperty(name).GetDouble();
    }

    static string Line(ToolRun run, string start) => run.Error.Split('\n').Single(line => line.StartsWith(start, StringComparison.Ordinal));

    static void CopyFolder(string from, string to)
    {
        foreach (string file in Directory.EnumerateFiles(from, "*", SearchOption.AllDirectories))
        {
            string copy = Path.Combine(to, Path.GetRelativePath(from, file));
            Directory.CreateDirectory(Path.GetDirectoryName(copy)!);
            File.Copy(file, copy);
        }
    }
}
