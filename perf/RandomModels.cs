using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Model folders of random bf16 weights: anyone can repeat a measurement without a download.</summary>
static class RandomModels
{
    /// <param name="args">SHAPE FOLDER.</param>
    public static int Make(Arguments args)
    {
        string shape = args.OneOf("SHAPE", ModelShapes.All.Keys, ""), folder = args["FOLDER"]!;
        RandomModel.Write(ModelShapes.All[shape], folder, DType.BF16);
        Console.WriteLine($"{folder}: random bf16 weights of {shape}'s shape");
        return 0;
    }

    /// <summary>The folder of one of <see cref="ModelShapes"/> under the temp folder, made at the first call.</summary>
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
