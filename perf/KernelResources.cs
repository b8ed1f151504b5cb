using ILGPU.Runtime.Cuda;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Perf;

/// <summary>What the driver's compiler made of every kernel: registers, shared memory, and local bytes, which in a hot kernel are spills and an error.</summary>
static class KernelResources
{
    /// <param name="args">--device NAME.</param>
    public static void Run(string[] args)
    {
        string device = DeviceArguments.Device(args);
        List<string> spilled = [];
        foreach (var activation in (DType[])[DType.F32, DType.BF16])
        {
            using var backend = Device.Open(device, activation);
            foreach (var item in KernelCase.All(CaseShape.Tiny, activation))
            {
                using CaseMemory memory = new(backend);
                item.Prepare(memory)();
            }

            backend.Synchronize();
            var kernels = backend switch { KernelBackend<F32> single => single.Device, KernelBackend<BF16> brain => brain.Device, _ => throw new ArgumentException($"perf kernels: {device} runs no kernels.") };
            Console.WriteLine($"{device}, {activation}: {kernels.Accelerator.Name}");
            Console.WriteLine($"{"registers",9} {"local",6} {"shared",7}  kernel");
            foreach (var (name, kernel) in kernels.Compiled)
            {
                // The emulator has no registers to run out of: there the text tells whether a local array was asked for.
                var (registers, local, shared) = kernel switch
                {
                    CudaKernel cuda => CudaDriver.Attributes(cuda),
                    EmulatedKernel emulated => (0, emulated.Ptx.Contains(".local", StringComparison.Ordinal) ? 1 : 0, 0),
                    _ => default,
                };
                Console.WriteLine($"{registers,9} {local,6} {shared,7}  {name}");
                if (local > 0)
                {
                    spilled.Add($"{activation} {name}");
                }
            }
        }

        Console.WriteLine(spilled.Count == 0 ? "no kernel uses local memory" : $"local memory in {spilled.Count} kernels: {string.Join(", ", spilled)}");
        Environment.ExitCode = spilled.Count == 0 ? 0 : 1;
    }
}
