using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>All commands of the program, and what becomes of their errors.</summary>
static class Verbs
{
    public static readonly IReadOnlyDictionary<string, Verb> All = new SortedDictionary<string, Verb>(StringComparer.Ordinal)
    {
        ["attention"] = new("", Whole(AttentionBenchmark.Run)),
        ["decode"] = new("[SHAPE [ROUNDS [STORAGE]]]", DecodeBenchmark.Run),
        ["device"] = new("[--device NAME] [--csv FILE] [--shape MODEL] [--operation PREFIX] [--progress FILE]", DeviceBenchmark.Run),
        ["device-step"] = new("[--device NAME] [--shape SHAPE] [--model FOLDER] [--tokens N] [--rounds N] [--csv FILE]", DeviceStepBenchmark.Run),
        ["emulator"] = new("", Whole(EmulatorBenchmark.Run)),
        ["gemm"] = new("[THREADS]", GemmBenchmark.Run),
        ["grpo"] = new("[SHAPE [UPDATES [DEVICE]]]", PolicyBenchmark.Grpo),
        ["kernels"] = new("[--device NAME] [--progress FILE]", KernelResources.Run),
        ["learn"] = new("MODEL PREFERENCES [SEEDS [METHOD]]", LearningRuns.Run),
        ["make-model"] = new("SHAPE FOLDER", RandomModels.Make),
        ["matvec"] = new("[THREADS]", MatVecBenchmark.Run),
        ["ops"] = new("", Whole(OpsBenchmark.Run)),
        ["outputs"] = new("ACTION [--device NAME] [--file FILE] [--progress FILE]", OutputsCheck.Run),
        ["ppo"] = new("[SHAPE [UPDATES [DEVICE]]]", PolicyBenchmark.Ppo),
        ["step"] = new("[SHAPE [TOKENS [ROUNDS]]]", StepBenchmark.Run),
    };

    /// <summary>Runs the command that the first word names.</summary>
    /// <param name="args">The command line.</param>
    /// <param name="error">Where errors go.</param>
    /// <returns>The exit code: 0 where all went well, 1 where the command line or the machine is at fault; what else there is, commands say themselves.</returns>
    public static int Run(string[] args, TextWriter error)
    {
        if (args.Length == 0 || !All.TryGetValue(args[0], out var verb))
        {
            error.WriteLine($"perf: expected a command, one of {string.Join(", ", All.Keys)}, got {(args.Length == 0 ? "none" : $"'{args[0]}'")}.");
            return 1;
        }

        try
        {
            return verb.Run(new Arguments(verb.Usage, args[1..]));
        }
        catch (Exception cause) when (cause is ArgumentException or DeviceMemoryException or KernelException or CheckpointException or IOException or InvalidDataException)
        {
            error.WriteLine($"perf {args[0]}: {cause.Message}");
            return 1;
        }
    }

    static Func<Arguments, int> Whole(Action run) => _ =>
    {
        run();
        return 0;
    };
}
