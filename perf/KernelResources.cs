using ILGPU.Runtime.Cuda;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Perf;

/// <summary>What the driver's compiler made of every kernel: registers, shared memory, and local bytes, which are spills and an error.</summary>
static class KernelResources
{
    /// <param name="args">--device NAME.</param>
    public static void Run(string[] args)
    {
        string name = DeviceArguments.Device(args);
        var device = RunAll(name);
        Console.WriteLine($"{name}: {device.Accelerator.Name}; of a kernel with several lines, each is a form of its own");
        Console.WriteLine($"{"registers",9} {"local",6} {"shared",7}  kernel");
        List<string> spilled = [];
        foreach (var (kernel, compiled) in device.Compiled.OrderBy(kernel => kernel.Name, StringComparer.Ordinal))
        {
            // The emulator has no registers to run out of: there the text tells whether a local array was asked for.
            var (registers, local, shared) = compiled switch
            {
                CudaKernel cuda => CudaDriver.Attributes(cuda),
                EmulatedKernel emulated => (0, emulated.Ptx.Contains(".local", StringComparison.Ordinal) ? 1 : 0, 0),
                _ => throw new ArgumentException($"device '{name}' compiles to no PTX, expected cuda:N or emulator."),
            };
            Console.WriteLine($"{registers,9} {local,6} {shared,7}  {kernel}");
            if (local > 0)
            {
                spilled.Add(kernel);
            }
        }

        Console.WriteLine(spilled.Count == 0 ? $"{device.Compiled.Count} kernels, none uses local memory" : $"local memory in {spilled.Count} kernels: {string.Join(", ", spilled)}");
        Environment.ExitCode = spilled.Count == 0 ? 0 : 1;
        device.Return();
    }

    /// <summary>Every operation alone, and a training step and decoding of a tiny model, in both types of activations; on a GPU also with products large enough for the largest tiles.</summary>
    static KernelDevice RunAll(string name)
    {
        IEnumerable<CaseShape> shapes = KernelDevices.CudaIndex(name) is null ? CaseShape.Checked : CaseShape.Checked.Concat(CaseShape.Models);
        foreach (var activation in (DType[])[DType.F32, DType.BF16])
        {
            using var backend = Device.Open(name, activation);
            foreach (var item in shapes.SelectMany(shape => KernelCase.All(shape, activation)))
            {
                using CaseMemory memory = new(backend);
                item.Prepare(memory)();
            }

            using CaseMemory weights = new(backend, "weights");
            using var model = RandomNf4Model.OfShape("tiny", weights);
            using (var step = new TrainingStep(model, tokens: 96, sequences: 3))
            {
                step.Run();
            }

            using var generator = new Generator(model);
            generator.Complete([1, 2, 3], new GenerationOptions { MaxTokens = 4, StopIds = [] });
        }

        return KernelDevice.Rent(name); // the one that both backends have left
    }
}
