using System.Globalization;
using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>A reward model's folder on the command line: scored with, shown, and refused where a language model is needed.</summary>
public sealed class RewardCliTests : IDisposable
{
    const string Prompt = "Once upon a time", Answer = " there was a cat.";

    readonly TempFolder temp = new();
    readonly string model = TestAssets.Path("assets/stories260k-hf");
    readonly Dictionary<string, double> expected = [];
    readonly Tokenizer tokenizer;

    /// <summary>Saves a reward model and what it says of a few texts.</summary>
    public RewardCliTests()
    {
        tokenizer = Tokenizer.Load(model);
        using var backend = new HostBackend<float>();
        using var loaded = PretrainedModel.Load(model, backend);
        using var adapter = new AdapterSet(loaded, new LoraConfig { Rank = 2, Targets = ["q_proj"] }, seed: 4, scalarHead: true);
        PretrainedAdapter.Save(adapter, Adapter, model);
        using var reward = new RewardModel(adapter);
        int eos = tokenizer.Eos!.Value.Id;
        int[] prompt = tokenizer.Encode(Prompt);
        foreach (var (name, ids) in ((string, int[])[])
        [
            ("text", [.. prompt, eos]), ("tokens", [1, 5, 9]), ("row", [.. prompt, .. tokenizer.Encode(Answer, addSpecialTokens: false), eos]),
        ])
        {
            expected[name] = reward.Score([ids])[0];
        }

        Assert.Equal(3, expected.Values.Distinct().Count());
    }

    string Adapter => temp.File("adapter");

    public void Dispose() => temp.Dispose();

    [Fact]
    public async Task Score_ofATextOfTokensAndOfARowIsReadAtTheirEnd()
    {
        string data = temp.File("rows.jsonl");
        File.WriteAllText(data, JsonSerializer.Serialize(new { prompt = Prompt, completion = Answer }) + "\n" + JsonSerializer.Serialize(new { prompt = Prompt, completion = Answer + "</s>" }) + "\n");

        var text = (await Reward("--text", Prompt, "--json")).Succeeds().Json;
        Assert.Equal(expected["text"], text.GetProperty("reward").GetDouble());
        Assert.Equal(tokenizer.Encode(Prompt).Length + 1, text.GetProperty("tokens").GetInt32());
        Assert.Equal(expected["text"], (await Reward("--text", Prompt + "</s>", "--json")).Succeeds().Json.GetProperty("reward").GetDouble());
        Assert.Equal(expected["tokens"], (await Reward("--tokens", "1,5,9", "--json")).Succeeds().Json.GetProperty("reward").GetDouble());
        string[] lines = (await Reward("--data", data, "--json")).Succeeds().Out.TrimEnd().Split('\n');
        Assert.Equal(2, lines.Length);
        Assert.All(lines, line => Assert.Equal(expected["row"], JsonElement.Parse(line).GetProperty("reward").GetDouble()));
        Assert.Equal([(data, 1), (data, 2)], lines.Select(line => JsonElement.Parse(line)).Select(row => (row.GetProperty("file").GetString()!, row.GetProperty("line").GetInt32())));
        Assert.False(text.TryGetProperty("line", out _));
        Assert.Equal(string.Create(CultureInfo.InvariantCulture, $"reward {expected["tokens"]:0.000000}  tokens 3\n"), (await Reward("--tokens", "1,5,9")).Succeeds().Out.ReplaceLineEndings("\n"));
    }

    [Fact]
    public async Task Score_refusesWhatHasNoScore()
    {
        File.WriteAllText(temp.File("long.jsonl"), """{"text": "Once upon a time there was a cat who lived in a house."}""");
        (await Tool.RunAsync("score", "--model", model, "--reward", "--text", Prompt)).Fails(1, "Give the folder of a reward model's adapter with --adapter");
        (await Reward("--tokens", "1,2", "--logits", temp.File("x.safetensors"))).Fails(1, "a reward model has no logits");
        (await Reward("--tokens", "1,512")).Fails(1, "token id 512 is out of range");
        var cut = await Reward("--data", temp.File("long.jsonl"), "--sequence-len", "8");
        Assert.Contains("a score is of a whole text. Raise --sequence-len", cut.Error, StringComparison.Ordinal);
        Assert.Equal((2, ""), (cut.Code, cut.Out));
        Assert.NotEqual(0, (await Reward()).Code);
    }

    [Fact]
    public async Task OtherCommands_refuseARewardModelAndScoreRefusesALanguageModel()
    {
        const string refused = "scores texts and cannot continue them";
        (await Tool.RunAsync("generate", "--model", model, "--adapter", Adapter, "--prompt", Prompt)).Fails(2, refused);
        (await Tool.RunAsync("score", "--model", model, "--adapter", Adapter, "--text", Prompt)).Fails(2, refused);
        (await Tool.RunAsync("merge", "--model", model, "--adapter", Adapter, "--out", temp.File("merged"))).Fails(2, "its head has no place");
        using var tiny = new TinyRun();
        (await Tool.RunAsync("score", "--model", tiny.Model, "--adapter", tiny.Adapter, "--reward", "--tokens", "1,2")).Fails(2, "the adapter of a language model has no head that scores texts");
    }

    [Fact]
    public async Task Inspect_showsTheHead()
    {
        var json = (await Tool.RunAsync("inspect", Adapter, "--json")).Succeeds().Json;
        Assert.Equal(("SEQ_CLS", 64), (json.GetProperty("task_type").GetString(), json.GetProperty("head").GetInt32()));
        Assert.Contains("a head of 64 weights: it scores texts", (await Tool.RunAsync("inspect", Adapter)).Succeeds().Out, StringComparison.Ordinal);
    }

    Task<ToolRun> Reward(params string[] arguments) => Tool.RunAsync(["score", "--model", model, "--adapter", Adapter, "--reward", .. arguments]);
}
