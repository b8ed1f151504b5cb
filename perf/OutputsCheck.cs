using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>Holds one device's results to another's: what the emulator computed where there is no GPU, a GPU checks itself against.</summary>
static class OutputsCheck
{
    static readonly DType[] Activations = [DType.F32, DType.BF16];

    /// <param name="args">save|check --device NAME --file F.safetensors.</param>
    public static void Run(string[] args)
    {
        string device = DeviceArguments.Device(args), file = DeviceArguments.Value(args, "--file") ?? "outputs.safetensors";
        var outputs = Outputs(device).ToList();
        if (args.FirstOrDefault() == "save")
        {
            SafetensorsWriter.Write(file, [.. outputs.Select(output => TensorSource.OfFloats(new TensorInfo(output.Name, DType.F32, output.Values.Length), () => output.Values))]);
            Console.WriteLine($"{file}: {outputs.Count} outputs of {device}");
            return;
        }

        using var saved = Safetensors.Open(file);
        int wrong = 0;
        foreach (var (name, values) in outputs)
        {
            var expected = new float[values.Length];
            saved.Read(name, expected);
            double error = RelativeError(expected, values), allowed = name.StartsWith("BF16", StringComparison.Ordinal) ? 2e-2 : 1e-4;
            bool right = error <= allowed; // NaN is not
            wrong += right ? 0 : 1;
            Console.WriteLine($"{(right ? "same " : "WRONG")} {error:e2} {name}");
        }

        Console.WriteLine($"{outputs.Count - wrong} of {outputs.Count} outputs agree with {file}");
        Environment.ExitCode = wrong == 0 ? 0 : 1;
    }

    static IEnumerable<(string Name, float[] Values)> Outputs(string device)
    {
        foreach (var activation in Activations)
        {
            using var backend = Device.Open(device, activation);
            foreach (var (shape, item) in CaseShape.Checked.SelectMany(shape => KernelCase.All(shape, activation).Select(item => (shape, item))))
            {
                using CaseMemory memory = new(backend);
                item.Prepare(memory)();
                foreach (var (index, output) in memory.Outputs.Index())
                {
                    yield return ($"{activation} {shape.Name} {item.Operation} {index}", output.Type == DType.I32 ? Array.ConvertAll(backend.ReadInts(output), x => (float)x) : backend.ReadFloats(output));
                }
            }
        }
    }

    static double RelativeError(float[] expected, float[] actual)
    {
        double error = 0, size = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            error += Math.Pow((double)actual[i] - expected[i], 2);
            size += (double)expected[i] * expected[i];
        }

        return error == 0 ? 0 : Math.Sqrt(error / size);
    }
}
