using System.Collections.Immutable;
using System.Runtime.CompilerServices;
using ILGPU;
using ILGPU.Backends;
using ILGPU.Backends.EntryPoints;
using ILGPU.IR;
using ILGPU.IR.Transformations;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Everything here reaches into ILGPU where it offers no public way. Written against 1.5.3; other versions are refused.</summary>
static class IlgpuInternals
{
    static readonly Version Expected = new(1, 5, 3);

    /// <exception cref="NotSupportedException">The ILGPU that is loaded is another version.</exception>
    public static void CheckVersion()
    {
        var version = typeof(Context).Assembly.GetName().Version!;
        if (version.Major != Expected.Major || version.Minor != Expected.Minor || version.Build != Expected.Build)
            throw new NotSupportedException(
                $"PtxEmulator: ILGPU {version} is loaded, expected {Expected}. The emulator uses internals of that version; reference exactly it.");
    }

    /// <summary>Parameter types and grouping of a compiled kernel.</summary>
    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "get_EntryPoint")]
    public static extern EntryPoint EntryPoint(CompiledKernel kernel);

    /// <summary>
    /// Makes a PTX backend compile with the pipeline of O1, plus the inference that pointers in kernel parameters are global. The
    /// stock O2 sinks loads below later stores and barriers and marks divergent branches uniform; plain O1 leaves pointers generic.
    /// </summary>
    public static void UseSafePipeline(Backend backend)
    {
        var transformers = Transformers(backend);
        var steps = transformers[^1].Transformations.ToList();
        int lower = steps.FindIndex(step => step is LowerStructures);
        steps.Insert(lower, new InferKernelAddressSpaces(MemoryAddressSpace.Global));
        int infer = steps.FindIndex(step => step is InferAddressSpaces);
        if (infer >= 0)
            steps[infer] = new InferLocalAddressSpaces();
        SetTransformers(backend, transformers.SetItem(transformers.Length - 1, Transformer.Create(transformers[^1].Configuration, [.. steps])));
    }

    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "get_KernelTransformers")]
    static extern ImmutableArray<Transformer> Transformers(Backend backend);

    [UnsafeAccessor(UnsafeAccessorKind.Method, Name = "set_KernelTransformers")]
    static extern void SetTransformers(Backend backend, ImmutableArray<Transformer> transformers);
}
