using IlgpuPeft.Kernels;
using IlgpuPeft.Perf;

// Each verb is one benchmark. Run in Release: dotnet run -c Release --project perf -- gemm
var verbs = new SortedDictionary<string, Action<string[]>>
{
    ["attention"] = _ => AttentionBenchmark.Run(),
    ["gemm"] = GemmBenchmark.Run,
    ["matvec"] = MatVecBenchmark.Run,
    ["step"] = StepBenchmark.Run,
    ["decode"] = DecodeBenchmark.Run,
    ["emulator"] = _ => EmulatorBenchmark.Run(),
    ["learn"] = LearningRuns.Run,
    ["grpo"] = PolicyBenchmark.Grpo,
    ["make-model"] = RandomModels.Make,
    ["ops"] = _ => OpsBenchmark.Run(),
    ["ppo"] = PolicyBenchmark.Ppo,
    ["device-step"] = DeviceStepBenchmark.Run,
    ["device"] = DeviceBenchmark.Run,
    ["kernels"] = KernelResources.Run,
    ["outputs"] = OutputsCheck.Run,
};

if (args.Length == 0 || !verbs.TryGetValue(args[0], out var run))
{
    Console.Error.WriteLine($"usage: perf {string.Join(" | ", verbs.Keys)}");
    return 1;
}

try
{
    run(args[1..]);
    return Environment.ExitCode;
}
catch (Exception error) when (error is ArgumentException or DeviceMemoryException or IOException or InvalidDataException)
{
    Console.Error.WriteLine($"perf {args[0]}: {error.Message}");
    return 1;
}
