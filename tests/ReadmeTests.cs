using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class ReadmeTests
{
    [Fact]
    public void Program_ofTheReadme_isTheOneThatIsRun()
    {
        string readme = File.ReadAllText(Path.Combine(TestAssets.Checkout(), "README.md"));
        string block = readme.Split("```csharp\n")[1].Split("```")[0];
        string[] lines = File.ReadAllLines(Path.Combine(TestAssets.Checkout(), "tests", "ReadmeProgram.cs"));
        var usings = lines.Where(line => line.StartsWith("using ", StringComparison.Ordinal));
        var body = lines.SkipWhile(line => !line.Contains("string folder")).TakeWhile(line => line != "    }").Select(line => line.Trim());

        Assert.Equal([.. usings, "", .. body], block.TrimEnd().Split('\n'));
    }

    [Fact]
    public void Configurations_ofTheReadme_areAccepted()
    {
        string[] blocks = [.. File.ReadAllText(Path.Combine(TestAssets.Checkout(), "README.md")).Split("```yaml\n").Skip(1).Select(part => part.Split("```")[0])];
        using var temp = new TempFolder();

        Assert.Equal(3, blocks.Length);
        foreach (string block in blocks)
        {
            File.WriteAllText(temp.File("run.yaml"), block);
            Assert.Empty(ConfigReader.Read(temp.File("run.yaml"), []).Notes);
        }
    }

    [Fact]
    public async Task Program_ofTheReadme_trainsAnAdapterThatLoads()
    {
        string model = TestAssets.Path("assets/stories260k-hf");
        using var temp = new TempFolder();
        string rows = temp.File("rows.json"), output = temp.File("adapter");
        File.WriteAllText(rows, """[{"instruction": "Say hello.", "input": "", "output": "Hello."}, {"instruction": "Name a colour.", "input": "", "output": "Red."}]""");

        await ReadmeProgram.RunAsync([model, rows, output]);

        using var backend = new HostBackend<float>();
        using var loaded = PretrainedModel.Load(model, backend, WeightStorage.Nf4Double);
        using var adapter = PretrainedAdapter.Load(loaded, output);
        Assert.Equal(16, adapter.Config.Rank);
        Assert.All(adapter.Updates, update => Assert.Contains(Tensors.Transfers.ReadFloats(backend, update.Update.B.Value), value => value != 0));
    }
}
