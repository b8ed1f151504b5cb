using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>Holds one device's results to another's: what the emulator computed where there is no GPU, a GPU checks itself against.</summary>
static class OutputsCheck
{
    static readonly DType[] Activations = [DType.F32, DType.BF16];

    /// <param name="args">ACTION [--device NAME] [--file FILE] [--progress FILE]; ACTION is save or check.</param>
    public static int Run(Arguments args)
    {
        bool save = args.OneOf("ACTION", ["save", "check"], "") == "save";
        string device = DeviceArguments.Device(args), file = args["--file"] ?? "outputs.safetensors";
        return save ? Save(device, file) : Check(device, file, new ResumableRun(args["--progress"]));
    }

    /// <summary>How far results are from what was expected, in relation to it. NaN where either has one.</summary>
    public static double RelativeError(float[] expected, float[] actual)
    {
        double error = 0, size = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            error += Math.Pow((double)actual[i] - expected[i], 2);
            size += (double)expected[i] * expected[i];
        }

        return error == 0 ? 0 : Math.Sqrt(error / size);
    }

    static int Save(string device, string file)
    {
        List<(string Name, float[] Values)> outputs = [];
        foreach (var activation in Activations)
        {
            using var backend = Device.Open(device, activation);
            foreach (var (name, item) in Items(activation))
            {
                outputs.AddRange(Outputs(backend, name, item));
            }
        }

        SafetensorsWriter.Write(file, [.. outputs.Select(output => TensorSource.OfFloats(new TensorInfo(output.Name, DType.F32, output.Values.Length), () => output.Values))]);
        Console.WriteLine($"{file}: {outputs.Count} outputs of {device}");
        return 0;
    }

    static int Check(string device, string file, ResumableRun run)
    {
        using var saved = Safetensors.Open(file);
        int wrong = 0, all = 0;
        foreach (var activation in Activations)
        {
            if (run.Left(Items(activation), item => item.Name) is not { Count: > 0 } items)
            {
                continue;
            }

            var backend = Device.Open(device, activation); // given back only whole: after a fault the process ends
            foreach (var (name, item) in items)
            {
                List<(string Name, float[] Values)> outputs = [];
                if (!run.Try(name, () => outputs = Outputs(backend, name, item)))
                {
                    return ResumableRun.Stopped;
                }

                all += outputs.Count;
                wrong += outputs.Count(output => !Agrees(saved, output.Name, output.Values, activation));
            }

            backend.Dispose();
        }

        Console.WriteLine($"{all - wrong} of {all} outputs agree with {file}");
        return wrong == 0 ? 0 : 1;
    }

    static bool Agrees(Safetensors saved, string name, float[] values, DType activation)
    {
        var expected = new float[values.Length];
        try
        {
            saved.Read(name, expected);
        }
        catch (CheckpointException cause)
        {
            Console.WriteLine($"WRONG {name}: {cause.Message}");
            return false;
        }

        double error = RelativeError(expected, values), allowed = activation == DType.BF16 ? 2e-2 : 1e-4;
        bool right = error <= allowed; // NaN is not
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{(right ? "same " : "WRONG")} {error:e2} {name}"));
        return right;
    }

    /// <summary>Every operation that is checked, by its name in the file of outputs.</summary>
    public static IEnumerable<(string Name, KernelCase Case)> Items(DType activation) =>
    [
        .. CaseShape.Checked.SelectMany(shape => KernelCase.All(shape, activation).Select(item => ($"{activation} {shape.Name} {item.Operation}", item))),
        .. KernelForms.All().Select(item => ($"{activation} {item.Operation}", item)),
    ];

    // Without a using declaration: after a fault memory cannot be freed either, and the first error is the one to print.
    static List<(string Name, float[] Values)> Outputs(Backend backend, string name, KernelCase item)
    {
        CaseMemory memory = new(backend);
        item.Prepare(memory)();
        List<(string, float[])> outputs = [.. memory.Outputs.Index().Select(output => ($"{name} {output.Index}", Read(backend, output.Item)))];
        memory.Dispose();
        return outputs;
    }

    static float[] Read(Backend backend, Slice output)
    {
        switch (output.Type)
        {
            case DType.I32:
                return Array.ConvertAll(backend.ReadInts(output), x => (float)x);
            case DType.U8:
                var bytes = new byte[output.Bytes];
                backend.Download(output, bytes);
                return Array.ConvertAll(bytes, x => (float)x);
            default:
                return backend.ReadFloats(output);
        }
    }
}
