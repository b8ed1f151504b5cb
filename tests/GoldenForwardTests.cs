using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Whole models against numbers that other people's code computed.</summary>
public class GoldenForwardTests
{
    [Theory]
    [InlineData("cpu", int.MaxValue)]
    [InlineData("emulator-f32", 24)]
    public void Stories260k_greedy_equalsTheReferenceTokenForToken(string device, int tokens)
    {
        string folder = TestAssets.Path("assets/stories260k-hf");
        using var golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "golden_greedy.json")));
        int[] expected = [.. golden.RootElement.GetProperty("generated_ids").EnumerateArray().Select(x => x.GetInt32()).Take(tokens)];
        using var backend = TestDevices.Open(device);
        using var model = PretrainedModel.Load(folder, backend);
        using var generator = new Generator(model);

        var completion = generator.Complete([1], new GenerationOptions { MaxTokens = expected.Length }, TestContext.Current.CancellationToken);

        Assert.Equal(expected, completion.Tokens);
    }

    public static TheoryData<string> Devices => TestDevices.All.Rows();

    [Theory, MemberData(nameof(Devices))]
    public void Llama_logits_areTheReference(string device)
    {
        string folder = TestAssets.Path("golden/cases/llama");
        using var golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "expected.json")));
        int[] ids = [.. golden.RootElement.GetProperty("input_ids").EnumerateArray().Select(x => x.GetInt32())];
        using var backend = TestDevices.Open(device);
        using var model = PretrainedModel.Load(Path.Combine(folder, "model"), backend);
        using var pass = new LanguageModelPass(model);
        var batch = PackedBatch.From([new Example(ids, ids, "golden", 1)]);

        double tolerance = TestDevices.Tolerance(device);
        using var tensors = Safetensors.Open(Path.Combine(folder, "expected.safetensors"));
        Compare.Close(Compare.Read(tensors, "logits"), [.. pass.Logits(batch).Select(x => (double)x)], tolerance, "logits");
        double loss = golden.RootElement.GetProperty("loss").GetDouble();
        Assert.Equal(loss, -pass.LogProbs(batch).Sum() / batch.TrainedTokens, tolerance * loss);
    }
}
