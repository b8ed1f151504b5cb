using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Model folders of random bf16 weights: anyone can repeat a measurement without a download.</summary>
static class RandomModels
{
    /// <param name="args">SHAPE DIR.</param>
    public static void Make(string[] args)
    {
        if (args.Length != 2 || !ModelShapes.All.TryGetValue(args[0], out string? config))
        {
            Console.Error.WriteLine($"usage: perf make-model SHAPE DIR, SHAPE one of {string.Join(", ", ModelShapes.All.Keys)}");
            Environment.ExitCode = 1;
            return;
        }

        RandomModel.Write(config, args[1], DType.BF16);
        Console.WriteLine($"{args[1]}: random bf16 weights of {args[0]}'s shape");
    }

    /// <summary>The folder of a shape under the temp folder, made at the first call.</summary>
    public static string Folder(string shape)
    {
        string folder = Path.Combine(Path.GetTempPath(), "ilgpu-peft-perf", shape);
        if (!File.Exists(Path.Combine(folder, "model.safetensors")))
        {
            RandomModel.Write(ModelShapes.All[shape], folder, DType.BF16);
        }

        return folder;
    }
}
