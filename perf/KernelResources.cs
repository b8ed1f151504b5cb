using ILGPU.Runtime.Cuda;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Perf;

/// <summary>What the driver's compiler made of every kernel: registers, shared memory, and local bytes, which are spills and an error.</summary>
sealed class KernelResources
{
    readonly List<string> spilled = [];
    KernelDevice? device;
    int printed;

    /// <param name="args">[--device NAME] [--progress FILE].</param>
    public static int Run(Arguments args)
    {
        string name = DeviceArguments.Device(args);
        var run = new ResumableRun(args["--progress"]);
        var resources = new KernelResources();
        Console.WriteLine($"{name}: {DeviceArguments.Describe(name)}; of a kernel with several lines, each is a form of its own");
        Console.WriteLine($"{"registers",9} {"local",6} {"shared",7}  kernel");
        foreach (var (pass, large, open) in Passes(name))
        {
            string Item((string Name, Action<Backend> Run) item) => $"{pass} {item.Name}";
            if (run.Left(Items(large), Item) is not { Count: > 0 } items)
            {
                continue;
            }

            var backend = open(); // given back only whole: after a fault the process ends
            var device = DeviceArguments.KernelsOf(backend);
            foreach (var item in items)
            {
                bool done = run.Try(Item(item), () =>
                {
                    item.Run(backend);
                    backend.Synchronize();
                });
                resources.PrintNew(device);
                if (!done)
                {
                    return ResumableRun.Stopped;
                }
            }

            backend.Dispose();
        }

        var spilled = resources.spilled;
        Console.WriteLine(spilled.Count == 0 ? $"{resources.printed} kernels, none uses local memory" : $"local memory in {spilled.Count} kernels: {string.Join(", ", spilled)}");
        return spilled.Count == 0 ? 0 : 1;
    }

    /// <summary>
    /// What reaches every kernel in every form: each operation alone, a training step and decoding of a tiny model, the teaching ladders.
    /// </summary>
    /// <param name="large">Also at the shapes of models, where products are large enough for the largest tiles.</param>
    public static IEnumerable<(string Name, Action<Backend> Run)> Items(bool large)
    {
        foreach (var shape in large ? [.. CaseShape.Checked, .. CaseShape.Models] : CaseShape.Checked)
        {
            foreach (var item in KernelCase.All(shape, DType.BF16)) // the names and runs are the same for each type
            {
                yield return ($"{shape.Name} {item.Operation}", backend => Once(backend, item));
            }
        }

        foreach (var item in KernelForms.All())
        {
            yield return (item.Operation, backend => Once(backend, item));
        }

        yield return ("tiny model", TinyModel);
        yield return ("ladders", Ladders);
    }

    // Portable products have one size of tile, and the emulator takes hours for a model's.
    static IEnumerable<(string Name, bool Large, Func<Backend> Open)> Passes(string name) =>
    [
        ("F32", false, () => Device.Open(name, DType.F32)),
        ("BF16", KernelDevices.CudaIndex(name) is not null, () => Device.Open(name, DType.BF16)),
        ("BF16, portable", false, () => new KernelBackend<BF16>(KernelDevice.Rent(name), portable: true)),
    ];

    static void Once(Backend backend, KernelCase item)
    {
        CaseMemory memory = new(backend); // without a using declaration: after a fault memory cannot be freed either, and the first error is the one to print
        item.Prepare(memory)();
        backend.Synchronize();
        memory.Dispose();
    }

    static void TinyModel(Backend backend)
    {
        using CaseMemory weights = new(backend, "weights");
        using var model = RandomNf4Model.OfShape("tiny", weights);
        using (var step = new TrainingStep(model, tokens: 96, sequences: 3))
        {
            step.Run();
        }

        using var generator = new Generator(model);
        generator.Complete([1, 2, 3], new GenerationOptions { MaxTokens = 4, StopIds = [] });
    }

    static void Ladders(Backend backend)
    {
        var device = DeviceArguments.KernelsOf(backend);
        if (device.HasTensorCores)
        {
            var wrong = Ladder.ClimbMatMul(device, 64).Concat(Ladder.ClimbAttention(device, 64)).FirstOrDefault(rung => !(rung.RelativeError < 1e-2));
            if (wrong is not null)
            {
                throw new InvalidOperationException($"rung {wrong.Name} has a relative error of {wrong.RelativeError:e2}, expected less than 1e-2.");
            }
        }
    }

    /// <summary>A row for each kernel that was compiled since the last call.</summary>
    void PrintNew(KernelDevice device)
    {
        printed = device == this.device ? printed : 0;
        this.device = device;
        foreach (var (name, kernel) in device.Compiled.Skip(printed))
        {
            var (registers, local, shared) = Resources(device, kernel);
            Console.WriteLine($"{registers,9} {local,6} {shared,7}  {name}");
            printed++;
            if (local > 0)
            {
                spilled.Add(name);
            }
        }
    }

    // The emulator has no registers to run out of: there the text tells whether a local array was asked for.
    static (int Registers, int Local, int Shared) Resources(KernelDevice device, ILGPU.Runtime.Kernel kernel) => kernel switch
    {
        CudaKernel cuda => CudaDriver.Attributes(cuda),
        EmulatedKernel emulated => (0, emulated.Ptx.Contains(".local", StringComparison.Ordinal) ? 1 : 0, 0),
        _ => throw new ArgumentException($"device '{device.Name}' compiles to no PTX, expected cuda:N or emulator."),
    };
}
