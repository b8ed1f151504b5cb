using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Whole models against numbers that other people's code computed.</summary>
public class GoldenForwardTests
{
    [Fact]
    public void Stories260k_greedy_equalsTheReferenceTokenForToken()
    {
        string folder = TestAssets.Path("assets/stories260k-hf");
        using var golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "golden_greedy.json")));
        int[] expected = [.. golden.RootElement.GetProperty("generated_ids").EnumerateArray().Select(x => x.GetInt32())];
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(folder, backend);
        using var generator = new Generator(model);

        var completion = generator.Complete([1], new GenerationOptions { MaxTokens = expected.Length }, TestContext.Current.CancellationToken);

        Assert.Equal(expected, completion.Tokens);
    }
}
