using System.Diagnostics;
using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Metrics;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Training runs from YAML file to adapter, through the command line.</summary>
public class CliTrainTests : IDisposable
{
    const double Tolerance = 1e-4;
    readonly TempFolder temp = new();
    readonly TinyRun tiny = new();

    public void Dispose()
    {
        temp.Dispose();
        tiny.Dispose();
        GC.SuppressFinalize(this);
    }

    [Theory]
    [InlineData("lora", "cpu", "f32")]
    [InlineData("qlora_nf4", "cpu", "f32")]
    [InlineData("qlora_nf4", "emulator", "f32")]
    [InlineData("qlora_nf4", "emulator", "bf16")]
    public async Task Train_of_the_golden_case_reproduces_losses_and_adapter(string name, string device, string dtype)
    {
        string folder = TestAssets.Path($"golden/cases/{name}");
        double tolerance = TestDevices.Tolerance(dtype);
        (await Tool.RunAsync("train", GoldenConfig(name), "--set", $"device={device}", "--set", $"dtype={dtype}")).Succeeds();

        var expected = JsonElement.Parse(File.ReadAllText(Path.Combine(folder, "expected.json")));
        var rows = MetricsFile.Read(Path.Combine(temp.Path, "out", "metrics.jsonl"));
        Compare.Close(Doubles(expected, "losses"), [.. rows.Select(row => row["loss"])], tolerance, "losses");
        Compare.Close(Doubles(expected, "grad_norms"), [.. rows.Select(row => row["grad_norm"])], tolerance, "grad_norms");
        using var final = Safetensors.Open(Path.Combine(folder, "expected.safetensors"));
        using var adapter = Safetensors.Open(Path.Combine(temp.Path, "out", "adapter_model.safetensors"));
        Assert.Equal(42, adapter.Tensors.Count);
        foreach (var tensor in adapter.Tensors)
        {
            Compare.Close(Compare.Read(final, "final." + tensor.Name), Compare.Read(adapter, tensor.Name), tolerance, tensor.Name);
        }
    }

    [Fact]
    public async Task Train_on_real_instructions_learns_and_its_adapter_scores_the_same_afterwards()
    {
        string model = TestAssets.Path("assets/stories260k-hf");
        Instructions(train: 160, validation: 16);
        string config = Write("run.yaml", $"""
            base_model: {model}
            adapter: qlora
            lora_r: 16
            lora_alpha: 32
            lora_target_linear: true
            datasets:
              - path: train.json
                type: alpaca
            test_datasets:
              - path: validation.json
                type: alpaca
            sample_packing: true
            gradient_accumulation_steps: 2
            max_steps: 16
            learning_rate: 0.004
            warmup_steps: 2
            logging_steps: 8
            output_dir: out
            """);

        var trained = (await Tool.RunAsync("train", config, "--json")).Succeeds().Json;

        double before = trained.GetProperty("eval_loss_before").GetDouble(), after = trained.GetProperty("eval_loss").GetDouble();
        Assert.True(after <= 0.8 * before, $"validation loss went from {before:0.000} to {after:0.000}, expected a fall of at least 20 %");
        string adapter = Path.Combine(temp.Path, "out"), merged = temp.File("merged");
        string[] over = ["--model", model, "--base", "nf4-double", "--adapter", adapter];
        var evaluated = (await Tool.RunAsync(["evaluate", .. over, "--data", temp.File("validation.json"), "--json"])).Succeeds().Json;
        Assert.Equal(after, evaluated.GetProperty("loss").GetDouble(), 1e-6);

        (await Tool.RunAsync(["merge", .. over, "--out", merged, "--dtype", "f32"])).Succeeds();
        (await Tool.RunAsync(["score", .. over, "--text", "Once upon a time", "--logits", temp.File("a.safetensors")])).Succeeds();
        (await Tool.RunAsync(["score", "--model", merged, "--text", "Once upon a time", "--logits", temp.File("b.safetensors")])).Succeeds();
        using Safetensors apart = Safetensors.Open(temp.File("a.safetensors")), together = Safetensors.Open(temp.File("b.safetensors"));
        Compare.Close(Compare.Read(apart, "logits"), Compare.Read(together, "logits"), Tolerance, "logits after merging");

        string report = File.ReadAllText(Path.Combine(adapter, "report.html"));
        Assert.Contains($"{before:0.0000} before, {after:0.0000} after", report, StringComparison.Ordinal);
        Assert.DoesNotContain("http", report.Replace("http://www.w3.org/2000/svg", "", StringComparison.Ordinal), StringComparison.Ordinal);
        Assert.True(Directory.Exists(Path.Combine(adapter, "checkpoint-16")), "without save settings one checkpoint is kept, of the end");
    }

    [Fact]
    public async Task Written_config_reads_back_as_the_same_run()
    {
        string config = tiny.Config;
        (await Tool.RunAsync("train", config)).Succeeds();
        string again = Path.Combine(tiny.Output, "config.yaml"), first = File.ReadAllText(Path.Combine(tiny.Output, "adapter_model.safetensors"));
        (await Tool.RunAsync("train", again, "--set", $"output_dir={temp.File("again")}")).Succeeds();
        Assert.Equal(first, File.ReadAllText(Path.Combine(temp.File("again"), "adapter_model.safetensors")));
    }

    [Fact]
    public async Task Resumed_run_ends_as_the_uninterrupted_one_bit_for_bit()
    {
        string config = tiny.Config, straight = tiny.Output, resumed = temp.File("resumed");
        // Shuffling, dropout and a schedule make a step depend on where the run stands.
        string[] options = ["--set", "save_steps=3", "--set", "adapter=qlora", "--set", "load_in_4bit=true"];
        (await Tool.RunAsync(["train", config, .. options])).Succeeds();
        Copy(Path.Combine(straight, "checkpoint-3"), Path.Combine(resumed, "checkpoint-3"));
        File.WriteAllLines(Path.Combine(resumed, "metrics.jsonl"), File.ReadLines(Path.Combine(straight, "metrics.jsonl")).Take(3));

        var run = (await Tool.RunAsync(["train", config, .. options, "--set", $"output_dir={resumed}", "--resume"])).Succeeds();

        Assert.Contains("resuming from", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("step 3/6", run.Error, StringComparison.Ordinal);
        AssertSameRun(straight, resumed);
    }

    [Fact]
    public async Task Stopped_run_exits_130_and_goes_on_from_its_checkpoint()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "sends a Unix signal");
        string config = tiny.Config, straight = temp.File("straight"), output = tiny.Output;
        string[] options = ["--set", "max_steps=400"]; // long enough to be interrupted, short enough to finish afterwards
        var start = new ProcessStartInfo(Tool.Executable(), ["train", config, .. options]) { RedirectStandardError = true, RedirectStandardOutput = true };
        using var process = Process.Start(start)!;
        string? line;
        do
        {
            line = await process.StandardError.ReadLineAsync(TestContext.Current.CancellationToken);
        }
        while (line is not null && !line.StartsWith("step 2/", StringComparison.Ordinal));
        Tool.Stop(process);
        string rest = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);

        Assert.True(process.ExitCode == 130, $"exit code {process.ExitCode}: {rest}");
        Assert.Contains("train --resume goes on from it", rest, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(output, "adapter_model.safetensors")), "a run that was stopped has no final adapter");
        (await Tool.RunAsync(["train", config, .. options, "--resume"])).Succeeds();
        (await Tool.RunAsync(["train", config, .. options, "--set", $"output_dir={straight}"])).Succeeds();
        AssertSameRun(straight, output);
    }

    [Fact]
    public async Task Dry_run_shows_the_plan_and_writes_nothing()
    {
        var run = (await Tool.RunAsync("train", tiny.Config, "--dry-run", "--json")).Succeeds();
        Assert.Equal((6, 2752), (run.Json.GetProperty("steps").GetInt32(), run.Json.GetProperty("trainable").GetInt32()));
        Assert.Contains("plan: 6 steps of 1 x 2 rows", run.Error, StringComparison.Ordinal);
        Assert.False(Directory.Exists(tiny.Output));
    }

    [Fact]
    public async Task Log_has_a_line_every_logging_steps_and_for_the_last()
    {
        var run = (await Tool.RunAsync("train", tiny.Config, "--set", "logging_steps=4")).Succeeds();
        Assert.Equal(["4/6", "6/6"], run.Error.Split('\n').Where(line => line.StartsWith("step ", StringComparison.Ordinal)).Select(line => line.Split(' ')[1]));
        Assert.Equal("", run.Out);
        Assert.Equal(6, MetricsFile.Read(Path.Combine(tiny.Output, "metrics.jsonl")).Count);
    }

    [Fact]
    public async Task Blank_adapter_trains_every_weight_into_a_model_folder()
    {
        string config = tiny.Config;
        File.WriteAllText(config, File.ReadAllText(config).Replace("adapter: lora", "adapter:", StringComparison.Ordinal));
        (await Tool.RunAsync("train", config)).Succeeds();
        var rows = MetricsFile.Read(Path.Combine(tiny.Output, "metrics.jsonl"));
        string data = tiny.Rows;
        var before = (await Tool.RunAsync("evaluate", "--model", tiny.Model, "--data", data, "--json")).Succeeds().Json;
        var after = (await Tool.RunAsync("evaluate", "--model", tiny.Output, "--data", data, "--json")).Succeeds().Json;
        Assert.Equal(6, rows.Count);
        Assert.True(after.GetProperty("loss").GetDouble() < before.GetProperty("loss").GetDouble());
    }

    [Theory]
    [InlineData(1, "there is no such key. Did you mean \"lora_r\"?", "lora_rank=3")]
    [InlineData(1, "expected a number above 0", "num_epochs=0")]
    [InlineData(1, "device 'cuda:99': ", "device=cuda:99")]
    [InlineData(1, "BF16 activations, expected F32", "dtype=bf16")]
    [InlineData(1, "expected to leave at least one for training", "val_set_size=12")]
    [InlineData(2, "expected a Hugging Face model folder, found nothing", "base_model=absent")]
    [InlineData(2, "there is no such file", "datasets.0.path=absent.jsonl")]
    [InlineData(2, "bad.jsonl:2: the line is not a JSON object", "datasets.0.path=bad.jsonl")]
    [InlineData(2, "range.jsonl:1: input_ids has token 999, expected 0 ... 36", "datasets.0.path=range.jsonl")]
    [InlineData(2, "is a file, expected a folder", "output_dir=bad.jsonl/out")]
    [InlineData(2, "adapter_config.json", "lora_model_dir=absent")]
    [InlineData(1, "rows of text need a tokenizer", "datasets.0.type=alpaca")]
    public async Task Bad_input_is_an_error_and_leaves_no_output(int code, string message, string setting)
    {
        string config = tiny.Config;
        File.WriteAllText(tiny.PathOf("bad.jsonl"), "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [1, 2\n");
        File.WriteAllText(tiny.PathOf("range.jsonl"), "{\"input_ids\": [1, 999, 3]}\n");
        (await Tool.RunAsync("train", config, "--set", setting)).Fails(code, message);
        Assert.False(Directory.Exists(tiny.Output));
    }

    [Theory]
    [InlineData("adapter=", "where the trained model would replace it")]
    [InlineData("lora_r=2", "would lie among the model's files")]
    public async Task Output_that_is_the_base_model_through_a_link_is_an_error(string setting, string message)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "making links needs a privilege there");
        string config = tiny.Config;
        string[] before = [.. Directory.GetFileSystemEntries(tiny.Model).Order()];
        byte[] weights = File.ReadAllBytes(Path.Combine(tiny.Model, "model.safetensors"));
        Directory.CreateSymbolicLink(tiny.PathOf("link"), tiny.Model);

        (await Tool.RunAsync("train", config, "--set", setting, "--set", "output_dir=link")).Fails(1, message);

        Assert.Equal(before, Directory.GetFileSystemEntries(tiny.Model).Order());
        Assert.Equal(weights, File.ReadAllBytes(Path.Combine(tiny.Model, "model.safetensors")));
    }

    [Fact]
    public async Task Adapter_of_another_model_is_an_error()
    {
        (await Tool.RunAsync("train", tiny.Config, "--set", $"lora_model_dir={tiny.ForeignAdapter()}")).Fails(2, "The adapter is for another model");
        Assert.False(Directory.Exists(tiny.Output));
    }

    [Fact]
    public async Task Resume_without_a_checkpoint_is_an_error() =>
        (await Tool.RunAsync("train", tiny.Config, "--resume")).Fails(1, "there is no checkpoint in");

    [Fact]
    public async Task Resume_of_a_run_with_other_settings_is_an_error_that_names_them()
    {
        string config = tiny.Config;
        (await Tool.RunAsync("train", config, "--set", "save_steps=3")).Succeeds();
        string before = File.ReadAllText(Path.Combine(tiny.Output, "config.yaml"));
        foreach (string[] more in new string[][] { [], ["--dry-run"] })
        {
            (await Tool.RunAsync(["train", config, "--set", "seed=5", "--set", "learning_rate=0.5", "--resume", .. more])).Fails(2,
                "state.msgpack: belongs to a run with other settings or data: found [seed 42], expected [seed 5]; found [Peak = 0.01], expected [Peak = 0.5]. Restore them");
        }

        Assert.Equal(before, File.ReadAllText(Path.Combine(tiny.Output, "config.yaml")));
    }

    [Theory]
    [InlineData("nope", "nope: there is no such folder, expected the checkpoint-N folder of a run")]
    [InlineData("model", "model: has no state.msgpack, expected the checkpoint-N folder of a run")]
    public async Task Resume_from_what_is_no_checkpoint_is_an_error_before_the_model_is_read(string from, string message)
    {
        foreach (string[] more in new string[][] { [], ["--dry-run"] })
        {
            (await Tool.RunAsync(["train", tiny.Config, "--set", $"resume_from_checkpoint={from}", "--set", "base_model=absent", .. more])).Fails(2, message);
        }

        Assert.False(Directory.Exists(tiny.Output));
    }

    [Fact]
    public async Task Run_cancelled_before_its_first_step_leaves_an_earlier_one_as_it_was()
    {
        (await Tool.RunAsync("train", tiny.Config)).Succeeds();
        var before = Contents();

        using StringWriter output = new(), error = new();
        int code = await Cli.Program.RunAsync(["train", tiny.Config, "--set", "learning_rate=0.5"], output, error, new CancellationToken(canceled: true));

        Assert.Equal(130, code);
        Assert.Contains("stopped before the first step; nothing was saved", error.ToString(), StringComparison.Ordinal);
        Assert.Equal(before, Contents());

        List<(string, string)> Contents() => [.. Directory.GetFiles(tiny.Output, "*", SearchOption.AllDirectories).Order().Select(file => (file, Convert.ToHexString(File.ReadAllBytes(file))))];
    }

    // The keys of Axolotl that describe the golden cases.
    string GoldenConfig(string name)
    {
        string folder = TestAssets.Path($"golden/cases/{name}");
        return Write("run.yaml", $"""
            base_model: {folder}/model
            adapter: {(name == "lora" ? "lora" : "qlora")}
            load_in_4bit: {(name == "lora" ? "false" : "true")}
            bnb_config_kwargs:
              bnb_4bit_use_double_quant: false
            lora_model_dir: {folder}/adapter
            datasets:
              - path: {folder}/train.jsonl
                type: tokenized
            shuffle_merged_datasets: false
            micro_batch_size: 1
            gradient_accumulation_steps: 2
            max_steps: 6
            learning_rate: 0.002
            lr_scheduler: constant
            weight_decay: 0.01
            max_grad_norm: 1.0
            adam_beta1: 0.9
            adam_beta2: 0.999
            adam_epsilon: 1e-8
            output_dir: out
            """);
    }

    // Short rows, so that a few seconds hold many of them.
    void Instructions(int train, int validation)
    {
        using var all = JsonDocument.Parse(File.ReadAllText(TestAssets.Path("assets/data-rasbt/instruction-data.json")));
        var rows = all.RootElement.EnumerateArray().Select(row => row.Clone())
            .Where(row => row.EnumerateObject().Sum(field => field.Value.GetString()!.Length) < 130).Take(train + validation).ToList();
        Write("train.json", JsonSerializer.Serialize(rows.Take(train)));
        Write("validation.json", JsonSerializer.Serialize(rows.Skip(train)));
    }

    string Write(string name, string text)
    {
        File.WriteAllText(temp.File(name), text);
        return temp.File(name);
    }

    static void AssertSameRun(string expected, string actual)
    {
        Assert.Equal(File.ReadAllBytes(Path.Combine(expected, "adapter_model.safetensors")), File.ReadAllBytes(Path.Combine(actual, "adapter_model.safetensors")));
        Assert.Equal(Rows(expected), Rows(actual));

        static List<(double, double, double)> Rows(string folder) =>
            [.. MetricsFile.Read(Path.Combine(folder, "metrics.jsonl")).Select(row => (row["step"], row["loss"], row["grad_norm"]))];
    }

    static void Copy(string from, string to)
    {
        Directory.CreateDirectory(to);
        foreach (string file in Directory.EnumerateFiles(from))
        {
            File.Copy(file, Path.Combine(to, Path.GetFileName(file)));
        }
    }

    static double[] Doubles(JsonElement json, string name) => [.. json.GetProperty(name).EnumerateArray().Select(x => x.GetDouble())];
}
