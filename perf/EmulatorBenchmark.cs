using IlgpuPeft.PtxEmulator;
using ILGPU;
using ILGPU.Runtime;

namespace IlgpuPeft.Perf;

/// <summary>What the PTX emulator needs for launches that are typical of a training step. Compiling and parsing are not in the times.</summary>
static unsafe class EmulatorBenchmark
{
    const int Rounds = 7, N = 256, Elements = 1 << 20, Launches = 500;

    public static void Run()
    {
        using var context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
        using var emulator = context.CreatePtxEmulator();
        // Small integers: every product and sum is exact, so results must match to the bit.
        float[] x = Values(1), y = Values(2), product = Product(x, y, transposed: false), bProduct = Product(x, y, transposed: true);
        using var a = emulator.Allocate1D(x);
        using var b = emulator.Allocate1D(y);
        using var c = emulator.Allocate1D<float>(N * N);
        using var halfA = emulator.Allocate1D(Array.ConvertAll(x, BFloat16));
        using var halfB = emulator.Allocate1D(Array.ConvertAll(y, BFloat16));
        using var vector = emulator.Allocate1D<float>(Elements);
        using var sum = emulator.Allocate1D<float>(Elements);
        vector.MemSetToZero();
        sum.MemSetToZero();

        var tiled = emulator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, ArrayView<float>, int>(EmulatorKernels.Tiled);
        var registers = emulator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, ArrayView<float>, int>(EmulatorKernels.RegisterTiled);
        var add = emulator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, float>(EmulatorKernels.Add);
        var empty = emulator.LoadStreamKernel<ArrayView<float>>(EmulatorKernels.Empty);
        var tensorCore = PtxProgram.Parse(EmulatorKernels.TensorCore(N));
        byte[] arguments = [.. new[] { halfA.NativePtr, halfB.NativePtr, c.NativePtr }.SelectMany(pointer => BitConverter.GetBytes((long)pointer))];
        LaunchCounters? tensorCounters = null;

        var block = new Index2D(EmulatorKernels.Tile, EmulatorKernels.Tile);
        void Tiled() => tiled(new KernelConfig(new Index2D(N / EmulatorKernels.Tile, N / EmulatorKernels.Tile), block), a.View, b.View, c.View, N);
        void RegisterTiled() =>
            registers(new KernelConfig(new Index2D(N / EmulatorKernels.RegisterTile, N / EmulatorKernels.RegisterTile), block), a.View, b.View, c.View, N);
        void TensorCore() => tensorCounters = new Launch(tensorCore, emulator.Memory, emulator.Options)
        {
            GridDim = (N / EmulatorKernels.TensorTile, N / EmulatorKernels.TensorTile, 1),
            BlockDim = (128, 1, 1),
            Arguments = arguments,
        }.Run();
        void Add() => add(new KernelConfig(Elements / 256, 256), vector.View, sum.View, 2f);
        void Empty()
        {
            for (int i = 0; i < Launches; i++)
                empty(new KernelConfig(1, 32), vector.View);
        }
        void Small()
        {
            for (int i = 0; i < Launches; i++)
                add(new KernelConfig(4, 256), vector.View, sum.View, 2f);
        }

        Tiled();
        Check("tiled", product, c);
        Console.WriteLine(emulator.LastLaunch!.Report());
        RegisterTiled();
        Check("register-tiled", product, c);
        Console.WriteLine(emulator.LastLaunch.Report());
        TensorCore();
        Check("tensor core", bProduct, c);
        Console.WriteLine(tensorCounters!.Report());

        Action[] actions = [Tiled, RegisterTiled, TensorCore, Add, Small, Empty];
        string[] names =
        [
            $"f32 {N}x{N}x{N}, 16x16 tiles", $"f32 {N}x{N}x{N}, 32x32 tiles in registers", $"bf16 {N}x{N}x{N}, mma", $"y += a x, {Elements} elements",
            $"{Launches} launches of 32 warps", $"{Launches} launches of one empty warp",
        ];
        var times = Timing.Interleaved(Rounds, 0.05, actions);
        Console.WriteLine($"{emulator.Options.Workers} workers, milliseconds: median and best of {Rounds} rounds; of all cores together");
        for (int i = 0; i < names.Length; i++)
            Console.WriteLine($"{names[i],-40} {1e3 * times[i].Median,9:F2} {1e3 * times[i].Best,9:F2} {CoreMilliseconds(actions[i]),9:F2}");
    }

    /// <summary>Processor time of a run: what a busy machine does not change.</summary>
    static double CoreMilliseconds(Action action)
    {
        var before = Environment.CpuUsage.TotalTime;
        for (int i = 0; i < Rounds; i++)
            action();
        return (Environment.CpuUsage.TotalTime - before).TotalMilliseconds / Rounds;
    }

    static float[] Values(int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, N * N).Select(_ => (float)random.Next(-8, 9))];
    }

    static ushort BFloat16(float x) => (ushort)(BitConverter.SingleToUInt32Bits(x) >> 16);

    static float[] Product(float[] a, float[] b, bool transposed)
    {
        var c = new float[N * N];
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++)
                for (int k = 0; k < N; k++)
                    c[(i * N) + j] += a[(i * N) + k] * (transposed ? b[(j * N) + k] : b[(k * N) + j]);
        return c;
    }

    static void Check(string kernel, float[] expected, MemoryBuffer1D<float, Stride1D.Dense> result)
    {
        float[] got = result.GetAsArray1D();
        for (int i = 0; i < expected.Length; i++)
            if (got[i] != expected[i])
                throw new InvalidOperationException(
                    $"perf emulator: {kernel}: C[{i / N}, {i % N}] is {got[i]}, expected {expected[i]}. No times are printed for a wrong result.");
        result.MemSetToZero();
    }
}
