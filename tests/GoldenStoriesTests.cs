using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// A trained model's loss, gradients and training curves against llama2.c's own model under PyTorch (F32). That code rotates neighbouring pairs where Hugging Face rotates
/// halves, so rows of its q and k matrices are reordered head by head before they are compared.
/// </summary>
public class GoldenStoriesTests
{
    const int HeadWidth = 8;

    static readonly Dictionary<string, string> Modules = new()
    {
        ["attention.wq"] = "self_attn.q_proj",
        ["attention.wk"] = "self_attn.k_proj",
        ["attention.wv"] = "self_attn.v_proj",
        ["attention.wo"] = "self_attn.o_proj",
        ["feed_forward.w1"] = "mlp.gate_proj",
        ["feed_forward.w2"] = "mlp.down_proj",
        ["feed_forward.w3"] = "mlp.up_proj",
        ["attention_norm"] = "input_layernorm",
        ["ffn_norm"] = "post_attention_layernorm",
    };

    public static TheoryData<string> Devices => TestDevices.All.Rows();

    [Theory, MemberData(nameof(Devices))]
    public void LossAndLogits_ofTheExcerpt_areTheReference(string device)
    {
        using var golden = Golden();
        using var backend = TestDevices.Open(device);
        using var model = PretrainedModel.Load(TestAssets.Path("assets/stories260k-hf"), backend);
        using var pass = new LanguageModelPass(model);
        var batch = Batch(golden);

        double tolerance = TestDevices.Tolerance(device);
        Assert.Equal(1.29179, -pass.LogProbs(batch).Sum() / batch.TrainedTokens, tolerance / 10);
        using var tensors = Safetensors.Open(TestAssets.Path("assets/golden-torch-stories260k/logits_grads.safetensors"));
        Compare.Close(Compare.Read(tensors, "logits"), [.. pass.Logits(batch).Select(x => (double)x)], tolerance, "logits");
    }

    [Theory, MemberData(nameof(Devices))]
    public void Gradients_ofEveryWeight_areTheReference(string device)
    {
        using var golden = Golden();
        using var backend = TestDevices.Open(device);
        using var model = PretrainedModel.Load(TestAssets.Path("assets/stories260k-hf"), backend);
        using var pass = new LanguageModelPass(model);
        var store = model.MakeTrainable();
        var batch = Batch(golden);

        pass.Train(batch, batch.TrainedTokens, (0, 0));

        using var tensors = Safetensors.Open(TestAssets.Path("assets/golden-torch-stories260k/logits_grads.safetensors"));
        List<(string Name, double[] Expected, double[] Actual)> gradients = [];
        foreach (var info in tensors.Tensors.Where(info => info.Name.StartsWith("grad.", StringComparison.Ordinal)))
        {
            string name = HuggingFaceName(info.Name["grad.".Length..^".weight".Length]) + ".weight";
            gradients.Add((name, ToHalves(name, Compare.Read(tensors, info.Name), (int)info.Shape[^1]), backend.ReadDoubles(store[name].Gradient)));
        }

        Assert.Equal(store.Parameters.Count, gradients.Count);
        // In bfloat16 every activation and every gradient between two layers is rounded to 8 bits, five layers deep; in kernels without tensor cores, which round nothing else, it is as much.
        var (whole, single) = backend.Activation == DType.BF16 ? (4e-2, 6e-2) : (TestDevices.Tolerance(device), TestDevices.Tolerance(device));
        Compare.Close([.. gradients.SelectMany(x => x.Expected)], [.. gradients.SelectMany(x => x.Actual)], whole, "the whole gradient");
        foreach (var (name, expected, actual) in gradients)
        {
            Compare.Close(expected, actual, single, name);
        }
    }

    [Fact]
    public async Task Lora_twentySteps_followTheReferenceCurve()
    {
        using var golden = Golden();
        var recipe = golden.RootElement.GetProperty("lora_loralib");
        double[] expected = [.. recipe.GetProperty("loss_per_step").EnumerateArray().Select(x => x.GetDouble())];
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(TestAssets.Path("assets/stories260k-hf"), backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 4, Alpha = 8, Targets = ["q_proj", "v_proj"] });
        using (var tensors = Safetensors.Open(TestAssets.Path("assets/golden-torch-stories260k/lora_r4.safetensors")))
        {
            foreach (var info in tensors.Tensors.Where(info => info.Name.StartsWith("init.", StringComparison.Ordinal)))
            {
                string module = HuggingFaceName(info.Name["init.".Length..^".lora_A".Length]);
                var values = new float[info.Count];
                tensors.Read(info.Name, values);
                backend.Write(values, adapter.Parameters[module + ".lora_A.weight"].Value);
            }
        }

        Assert.Equal(recipe.GetProperty("trainable").GetInt64(), adapter.Parameters.Count);
        var losses = await Losses(model, TrainedWeights.Of(adapter, "base"), golden, new SftOptions
        {
            MaxSteps = expected.Length,
            LearningRate = recipe.GetProperty("lr").GetDouble(),
            Optimizer = new AdamWOptions { MaxGradientNorm = 0, Beta2 = recipe.TryGetProperty("betas", out var betas) ? betas[1].GetDouble() : 0.999 },
        });

        Compare.Close(expected, losses, 1e-3, "LoRA curve");
    }

    [Fact]
    public async Task FullFineTune_tenSteps_followTheReferenceCurve()
    {
        using var golden = Golden();
        var recipe = golden.RootElement.GetProperty("full_ft_adamw");
        double[] expected = [.. recipe.GetProperty("loss_and_prenorm_per_step").EnumerateArray().Select(x => x[0].GetDouble())];
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(TestAssets.Path("assets/stories260k-hf"), backend);
        model.MakeTrainable();

        // The reference decays norms too. Over ten steps at this rate that moves the curve by less than the tolerance.
        var losses = await Losses(model, TrainedWeights.Of(model, null), golden, new SftOptions
        {
            MaxSteps = expected.Length,
            LearningRate = recipe.GetProperty("lr").GetDouble(),
            Optimizer = new AdamWOptions { Beta2 = 0.95, WeightDecay = 0.1, MaxGradientNorm = 1 },
        });

        Compare.Close(expected, losses, 1e-3, "full fine-tuning curve");
    }

    static async Task<double[]> Losses(Models.CausalLm model, TrainedWeights weights, JsonDocument golden, SftOptions options)
    {
        var rows = Rows(golden);
        using var trainer = new SftTrainer(model, weights, rows, options with { Schedule = ScheduleKind.Constant, MicroBatchSize = rows.Count, Shuffle = false });
        var progress = new Steps();
        await trainer.RunAsync(progress, cancel: TestContext.Current.CancellationToken);
        return progress.Losses;
    }

    // Inputs and targets overlap by all but one token: together they are one sequence of 129, of which 128 are read.
    static List<Example> Rows(JsonDocument golden)
    {
        var inputs = golden.RootElement.GetProperty("input_ids");
        var targets = golden.RootElement.GetProperty("target_ids");
        return [.. Enumerable.Range(0, inputs.GetArrayLength()).Select(i =>
        {
            int[] ids = [.. inputs[i].EnumerateArray().Select(x => x.GetInt32()), targets[i].EnumerateArray().Last().GetInt32()];
            return new Example(ids, ids, "golden.json", i + 1);
        })];
    }

    static PackedBatch Batch(JsonDocument golden)
    {
        var whole = PackedBatch.From(Rows(golden));
        var kept = Enumerable.Range(0, whole.Length).Where(i => whole.Targets[i] != Example.Untrained).ToArray();
        int[] offsets = [0, .. whole.Offsets.Skip(1).Select((end, s) => end - s - 1)];
        return new PackedBatch([.. kept.Select(i => whole.InputIds[i])], offsets, [.. kept.Select(i => whole.Targets[i])], kept.Length);
    }

    static JsonDocument Golden() => JsonDocument.Parse(File.ReadAllText(TestAssets.Path("assets/golden-torch-stories260k/golden.json")));

    static string HuggingFaceName(string name)
    {
        if (!name.StartsWith("layers.", StringComparison.Ordinal))
        {
            return name == "norm" ? "model.norm" : "model.embed_tokens";
        }

        string[] parts = name.Split('.', 3);
        return $"model.layers.{parts[1]}.{Modules[parts[2]]}";
    }

    static double[] ToHalves(string name, double[] values, int columns)
    {
        if (!name.Contains("q_proj") && !name.Contains("k_proj"))
        {
            return values;
        }

        var moved = new double[values.Length];
        for (int row = 0; row < values.Length / columns; row++)
        {
            int head = row / HeadWidth, i = row % HeadWidth; // pair i/2, its first or second element
            int to = head * HeadWidth + i / 2 + i % 2 * (HeadWidth / 2);
            Array.Copy(values, row * columns, moved, to * columns, columns);
        }

        return moved;
    }
}
