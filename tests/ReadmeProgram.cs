using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Tests;

/// <summary>The program on the README's first page, line for line: <see cref="ReadmeTests"/> holds the two together and runs this one.</summary>
static class ReadmeProgram
{
    public static async Task RunAsync(string[] args)
    {
        string folder = args[0], rows = args[1], output = args[2];
        using var device = Device.Open("auto");
        using var model = PretrainedModel.Load(folder, device, WeightStorage.Nf4Double);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 16, Alpha = 32 });
        var tokenizer = Tokenizer.Load(folder);
        var data = Dataset.Load([new DatasetSource { Path = rows, Type = DatasetType.Alpaca }], new DatasetOptions { SequenceLength = 512 }, tokenizer);
        using var trainer = new SftTrainer(adapter, folder, data.Examples, new SftOptions { MaxSteps = 20, OutputFolder = output });
        var result = await trainer.RunAsync();
        Console.WriteLine($"loss {result.Last!.Loss:F3}; the adapter is in {output}");
        using var generator = new Generator(model);
        var answer = generator.Complete(tokenizer.Encode("Once upon a time"), new GenerationOptions { MaxTokens = 40 });
        Console.WriteLine(tokenizer.Decode([.. answer.Tokens]));
    }
}
