using System.Diagnostics;
using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Cli;
using IlgpuPeft.Kernels;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Every command but train, through its command line.</summary>
public class CliTests : IDisposable
{
    readonly TempFolder temp = new();
    readonly TinyRun tiny = new();

    public void Dispose()
    {
        temp.Dispose();
        tiny.Dispose();
        GC.SuppressFinalize(this);
    }

    [Fact]
    public async Task Help_names_every_command()
    {
        var run = (await Tool.RunAsync("--help")).Succeeds();
        string[] commands = ["demo", "train", "preprocess", "generate", "chat", "score", "evaluate", "merge", "quantize", "inspect", "devices", "ladder", "pretrain"];
        foreach (string command in commands)
        {
            Assert.Contains($"\n  {command} ", run.Out, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(1, "is required", "generate")]
    [InlineData(1, "generate", "genrate")]
    [InlineData(1, "expected either --prompt or --tokens", "generate", "--model", "{model}")]
    [InlineData(1, "expected either --prompt or --tokens", "generate", "--model", "{model}", "--prompt", "x", "--tokens", "1")]
    [InlineData(1, "expected token ids such as 1,15,2, got 1,x", "generate", "--model", "{model}", "--tokens", "1,x")]
    [InlineData(1, "token id 37 is out of range, expected 0 to 36", "generate", "--model", "{model}", "--tokens", "1,37")]
    [InlineData(1, "token id 37 is out of range, expected 0 to 36", "score", "--model", "{model}", "--tokens", "1,37")]
    [InlineData(1, "expected at least 2", "score", "--model", "{model}", "--tokens", "1")]
    [InlineData(1, "--max-tokens: expected at least 1, got 0", "generate", "--model", "{model}", "--tokens", "1", "--max-tokens", "0")]
    [InlineData(1, "--top-p: expected a number from", "generate", "--model", "{model}", "--tokens", "1", "--top-p", "2")]
    [InlineData(1, "device 'cuda:99': ", "generate", "--model", "{model}", "--tokens", "1", "--device", "cuda:99")]
    [InlineData(1, "BF16 activations, expected F32", "generate", "--model", "{model}", "--tokens", "1", "--dtype", "bf16")]
    [InlineData(1, "there is no tokenizer.json", "generate", "--model", "{model}", "--prompt", "x")]
    [InlineData(1, "a conversation is text", "chat", "--model", "{model}")]
    [InlineData(1, "--sequence-len: expected at least 2, got 1", "evaluate", "--model", "{model}", "--data", "{rows}", "--sequence-len", "1")]
    [InlineData(1, "a file holds the logits of one text", "score", "--model", "{model}", "--data", "{rows}", "--logits", "{temp}/l.safetensors")]
    [InlineData(1, "rows of text need a tokenizer", "evaluate", "--model", "{model}", "--data", "{rows}", "--type", "alpaca")]
    [InlineData(1, "'int8' not recognized. Must be one of", "generate", "--model", "{model}", "--tokens", "1", "--base", "int8")]
    [InlineData(2, "expected a Hugging Face model folder, found nothing", "generate", "--model", "{temp}/absent", "--tokens", "1")]
    [InlineData(2, "The adapter is for another model", "generate", "--model", "{model}", "--adapter", "{foreign}", "--tokens", "1")]
    [InlineData(2, "there is no such file", "evaluate", "--model", "{model}", "--data", "{temp}/absent.jsonl", "--type", "tokenized")]
    [InlineData(2, "The adapter is for another model", "merge", "--model", "{model}", "--adapter", "{foreign}", "--out", "{temp}/out")]
    [InlineData(1, "is the model that is read", "merge", "--model", "{model}", "--adapter", "{adapter}", "--out", "{model}/")]
    [InlineData(2, "is a file, expected a folder", "quantize", "--model", "{model}", "--out", "{model}/config.json/out")]
    [InlineData(2, "is a file, expected a folder", "score", "--model", "{model}", "--tokens", "1,2", "--logits", "{model}/config.json/l.safetensors")]
    [InlineData(2, "found nothing", "inspect", "{temp}/absent")]
    [InlineData(2, "found a file of another kind", "inspect", "{rows}")]
    [InlineData(2, "expected a Hugging Face model folder, found a file", "generate", "--model", "{rows}", "--tokens", "1")]
    [InlineData(2, "there is no such file. Check --data", "score", "--model", "{model}", "--data", "absent.jsonl", "--type", "tokenized")]
    [InlineData(2, "there is no field \"text\"; the row has input_ids, labels. Check --type.", "score", "--model", "{stories}", "--data", "{rows}", "--type", "completion")]
    public async Task Bad_input_is_an_error_with_its_exit_code_and_leaves_no_file(int code, string message, params string[] args)
    {
        (await Tool.RunAsync([.. args.Select(Path)])).Fails(code, message);
        Assert.Empty(Directory.EnumerateFileSystemEntries(temp.Path));
    }

    [Fact]
    public void Exception_of_the_runtime_is_a_failure_with_its_stack()
    {
        var (code, message) = Program.Explain(Assert.Throws<InvalidOperationException>(() => Array.Empty<int>().First()));
        Assert.Equal(2, code);
        Assert.StartsWith("error: unexpected System.InvalidOperationException", message, StringComparison.Ordinal);
        Assert.Contains("at System.Linq", message, StringComparison.Ordinal);
        Assert.Equal(130, Program.Explain(new OperationCanceledException()).Code);
    }

    [Fact]
    public async Task Output_folder_without_permission_is_an_error()
    {
        if (OperatingSystem.IsWindows() || Environment.UserName == "root")
        {
            Assert.Skip("needs a Unix user whom folder permissions bind");
            return;
        }

        string closed = Directory.CreateDirectory(temp.File("closed")).FullName;
        File.SetUnixFileMode(closed, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        (await Tool.RunAsync("quantize", "--model", tiny.Model, "--out", closed)).Fails(2, "change the folder's permissions");
    }

    [Theory]
    [InlineData("cpu", "f32", 1e-5)]
    [InlineData("emulator", "f32", 1e-4)]
    [InlineData("emulator", "bf16", 3e-2)]
    public async Task Score_of_the_golden_tokens_gives_the_reference_loss_and_logits(string device, string dtype, double tolerance)
    {
        string folder = TestAssets.Path("golden/cases/llama");
        var expected = JsonElement.Parse(File.ReadAllText(System.IO.Path.Combine(folder, "expected.json")));
        int[] ids = Ints(expected, "input_ids");
        string file = temp.File("logits.safetensors");

        var run = (await Tool.RunAsync("score", "--model", System.IO.Path.Combine(folder, "model"), "--tokens", string.Join(',', ids), "--json", "--logits", file, "--device", device, "--dtype", dtype)).Succeeds();

        Assert.Equal(ids, Ints(run.Json, "tokens"));
        Assert.Equal(expected.GetProperty("loss").GetDouble(), run.Json.GetProperty("loss").GetDouble(), tolerance);
        Assert.Equal(expected.GetProperty("perplexity").GetDouble(), run.Json.GetProperty("perplexity").GetDouble(), 1e3 * tolerance);
        double[] logprobs = [.. run.Json.GetProperty("logprobs").EnumerateArray().Select(x => x.GetDouble())];
        Assert.Equal(ids.Length - 1, logprobs.Length);
        Assert.Equal(run.Json.GetProperty("loss").GetDouble(), -logprobs.Average(), 1e-9);
        double[] reference = Tensor(System.IO.Path.Combine(folder, "expected.safetensors"), "logits"), logits = Tensor(file, "logits");
        Compare.Close(reference, logits, Math.Max(tolerance, 1e-4), "logits");
        // logprobs[i] is of tokens[i + 1]: computed here from the reference's logits.
        int vocabulary = reference.Length / ids.Length;
        for (int i = 0; i < logprobs.Length; i++)
        {
            var row = reference.AsSpan(i * vocabulary, vocabulary).ToArray();
            Assert.Equal(row[ids[i + 1]] - Math.Log(row.Sum(x => Math.Exp(x))), logprobs[i], Math.Max(2 * tolerance, 1e-4));
        }
    }

    [Fact]
    public async Task Generate_greedily_gives_the_reference_tokens()
    {
        string folder = TestAssets.Path("assets/stories260k-hf");
        var golden = JsonElement.Parse(File.ReadAllText(System.IO.Path.Combine(folder, "golden_greedy.json")));

        var run = (await Tool.RunAsync("generate", "--model", folder, "--tokens", "1", "--max-tokens", "200", "--json")).Succeeds();

        Assert.Equal([1], Ints(run.Json, "prompt_tokens"));
        Assert.Equal(Ints(golden, "generated_ids"), Ints(run.Json, "tokens"));
        Assert.Equal("length", run.Json.GetProperty("finish_reason").GetString());
        Assert.StartsWith("Once upon a time, there was a little girl named Lily.", run.Json.GetProperty("text").GetString(), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Generate_streams_the_text_that_json_holds_and_a_seed_repeats_it()
    {
        string[] args = ["generate", "--model", Path("{stories}"), "--prompt", "Once upon", "--max-tokens", "30", "--temperature", "0.9", "--top-k", "50", "--seed", "3"];
        var streamed = (await Tool.RunAsync(args)).Succeeds();
        var json = (await Tool.RunAsync([.. args, "--json"])).Succeeds().Json;
        var other = (await Tool.RunAsync([.. args[..^1], "4"])).Succeeds();
        Assert.Equal(json.GetProperty("text").GetString() + Environment.NewLine, streamed.Out);
        Assert.StartsWith(" a time", streamed.Out, StringComparison.Ordinal);
        Assert.NotEqual(streamed.Out, other.Out);
    }

    [Theory]
    [InlineData("@Lily")]
    [InlineData("-1 dog")]
    [InlineData("[x] \"y\"")]
    [InlineData("")]
    public async Task Prompt_may_be_any_text(string prompt)
    {
        var json = (await Tool.RunAsync("generate", "--model", Path("{stories}"), "--prompt", prompt, "--max-tokens", "2", "--json")).Succeeds().Json;
        Assert.Equal(Tokenizer.Load(Path("{stories}")).Encode(prompt), Ints(json, "prompt_tokens"));
    }

    [Fact]
    public async Task Model_without_a_tokenizer_generates_token_ids()
    {
        var run = (await Tool.RunAsync("generate", "--model", tiny.Model, "--tokens", "3,4,5", "--max-tokens", "4")).Succeeds();
        var json = (await Tool.RunAsync("generate", "--model", tiny.Model, "--tokens", "3,4,5", "--max-tokens", "4", "--json")).Succeeds().Json;
        Assert.Equal(string.Join(' ', Ints(json, "tokens")), run.Out.Trim());
        Assert.Equal(JsonValueKind.Null, json.GetProperty("text").ValueKind);
    }

    [Fact]
    public async Task Evaluate_gives_the_mean_of_what_score_gives_for_each_row()
    {
        string[] args = ["--model", tiny.Model, "--adapter", tiny.Adapter, "--data", tiny.Rows, "--json"];
        var whole = (await Tool.RunAsync(["evaluate", .. args])).Succeeds().Json;
        var rows = (await Tool.RunAsync(["score", .. args])).Succeeds().Out.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonElement.Parse(line)).ToList();
        var labels = File.ReadLines(tiny.Rows).Select(line => Ints(JsonElement.Parse(line), "labels").Skip(1).Count(label => label != -100)).ToList();
        Assert.Equal(labels.Sum(), whole.GetProperty("tokens").GetInt64());
        Assert.Equal(Enumerable.Range(1, rows.Count).Select(line => (tiny.Rows, line)), rows.Select(row => (row.GetProperty("file").GetString()!, row.GetProperty("line").GetInt32())));
        Assert.Equal(rows.Count, whole.GetProperty("rows").GetInt32());
        Assert.Equal(rows.Zip(labels, (row, count) => row.GetProperty("loss").GetDouble() * count).Sum() / labels.Sum(), whole.GetProperty("loss").GetDouble(), 1e-5);
    }

    [Theory]
    [InlineData("stored")]
    [InlineData("nf4")]
    [InlineData("nf4-double")]
    public async Task Merged_model_gives_the_logits_of_base_and_adapter(string storage)
    {
        string merged = temp.File("merged"), before = temp.File("a.safetensors"), after = temp.File("b.safetensors");
        const string ids = "5,9,23,30,1,7";
        (await Tool.RunAsync("merge", "--model", tiny.Model, "--adapter", tiny.Adapter, "--out", merged, "--dtype", "f32", "--base", storage)).Succeeds();
        (await Tool.RunAsync("score", "--model", tiny.Model, "--adapter", tiny.Adapter, "--base", storage, "--tokens", ids, "--logits", before)).Succeeds();
        (await Tool.RunAsync("score", "--model", merged, "--tokens", ids, "--logits", after)).Succeeds();
        Compare.Close(Tensor(before, "logits"), Tensor(after, "logits"), 1e-4, "logits");
    }

    [Theory]
    [InlineData("nf4-double")]
    [InlineData("nf4", "--no-double-quant")]
    public async Task Quantized_checkpoint_scores_as_the_model_quantised_while_loading(string storage, params string[] options)
    {
        string folder = temp.File("nf4");
        (await Tool.RunAsync(["quantize", "--model", tiny.Model, "--out", folder, .. options])).Succeeds();
        var loaded = (await Tool.RunAsync("score", "--model", tiny.Model, "--base", storage, "--tokens", "5,9,23,30,1,7", "--json")).Succeeds();
        var stored = (await Tool.RunAsync("score", "--model", folder, "--tokens", "5,9,23,30,1,7", "--json")).Succeeds();
        Assert.Equal(loaded.Out, stored.Out);
        var inspected = (await Tool.RunAsync("inspect", folder, "--json")).Succeeds().Json;
        Assert.Equal((14, 9740), (inspected.GetProperty("nf4_layers").GetInt32(), inspected.GetProperty("parameters").GetInt64()));
    }

    [Fact]
    public async Task Inspect_shows_models_adapters_and_tensor_files()
    {
        Assert.Contains("llama: 9,740 weights", (await Tool.RunAsync("inspect", tiny.Model)).Succeeds().Out, StringComparison.Ordinal);
        var adapter = (await Tool.RunAsync("inspect", tiny.Adapter, "--json")).Succeeds().Json;
        Assert.Equal(("adapter", 14, 2752, 0), (adapter.GetProperty("kind").GetString(), adapter.GetProperty("modules").GetInt32(), adapter.GetProperty("trainable").GetInt32(),
            adapter.GetProperty("zero_b").GetArrayLength()));
        var file = (await Tool.RunAsync("inspect", Path("{adapter}/adapter_model.safetensors"), "--json")).Succeeds().Json;
        Assert.Equal(28, file.GetProperty("tensors").GetArrayLength());
    }

    [Fact]
    public async Task Inspect_warns_of_an_untrained_adapter()
    {
        using (var backend = new HostBackend<float>())
        using (var model = PretrainedModel.Load(tiny.Model, backend))
        using (var adapter = new AdapterSet(model, new LoraConfig { Targets = ["q_proj"] }))
        {
            PretrainedAdapter.Save(adapter, temp.File("new"), "tiny");
        }

        Assert.Contains("B is all zero in 2 of 2 layers", (await Tool.RunAsync("inspect", temp.File("new"))).Succeeds().Out, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Devices_lists_the_cpu_as_open()
    {
        var devices = (await Tool.RunAsync("devices", "--json")).Succeeds().Json.EnumerateArray().ToDictionary(x => x.GetProperty("name").GetString()!, x => x.GetProperty("opens").GetBoolean());
        Assert.True(devices["cpu"]);
        Assert.False(devices["cuda:0"]);
    }

    [Fact]
    public async Task Preprocess_marks_what_is_trained_on_and_counts_what_is_left_out()
    {
        File.WriteAllText(temp.File("data.json"), JsonSerializer.Serialize(new[]
        {
            new { instruction = "Say yes.", output = "yes" }, new { instruction = new string('x', 2000), output = "no" },
        }));
        File.WriteAllText(temp.File("run.yaml"), $"base_model: {Path("{stories}")}\nlearning_rate: 0.001\nadapter: lora\nlora_target_linear: true\ndatasets:\n  - path: data.json\n    type: alpaca\n");
        var run = (await Tool.RunAsync("preprocess", temp.File("run.yaml"))).Succeeds();
        Assert.Contains("⟦ yes</s>⟧", run.Out, StringComparison.Ordinal);
        Assert.Contains("2 rows -> 1 examples", run.Error, StringComparison.Ordinal);
        Assert.Contains("1 dropped: longer than sequence_len", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Chat_answers_lines_of_standard_input_until_exit()
    {
        var start = new ProcessStartInfo(Tool.Executable(), ["chat", "--model", Path("{stories}"), "--max-tokens", "12"])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true,
        };
        using var chat = Process.Start(start)!;
        await chat.StandardInput.WriteAsync("Lily went out.\n/reset\nTom had a ball.\n/exit\n");
        chat.StandardInput.Close();
        var (output, error) = (chat.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken), chat.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken));
        await chat.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal(0, chat.ExitCode);
        Assert.NotEqual("", (await output).Trim());
        Assert.Contains("Messages are sent as plain lines", await error, StringComparison.Ordinal);
        Assert.Contains("the conversation starts anew", await error, StringComparison.Ordinal);
    }

    /// <summary>Puts real paths for names in braces, and makes only those that are asked for.</summary>
    string Path(string text)
    {
        (string Name, Func<string> Path)[] places =
        [
            ("{temp}", () => temp.Path), ("{model}", () => tiny.Model), ("{adapter}", () => tiny.Adapter), ("{foreign}", tiny.ForeignAdapter), ("{rows}", () => tiny.Rows),
            ("{stories}", () => TestAssets.Path("assets/stories260k-hf")),
        ];
        return places.Where(place => text.Contains(place.Name, StringComparison.Ordinal)).Aggregate(text, (path, place) => path.Replace(place.Name, place.Path(), StringComparison.Ordinal));
    }

    static int[] Ints(JsonElement json, string name) => [.. json.GetProperty(name).EnumerateArray().Select(x => x.GetInt32())];

    static double[] Tensor(string path, string name)
    {
        using var file = Safetensors.Open(path);
        return Compare.Read(file, name);
    }
}
