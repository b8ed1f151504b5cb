using System.Reflection;
using System.Reflection.Emit;
using ILGPU.Backends.IL;
using ILGPU.Backends.PTX;
using ILGPU.Runtime;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Writes the method that ILGPU calls to launch a kernel: it lays the arguments out in one structure, by ILGPU's own mapping for
/// CUDA, and hands its address on.
/// </summary>
static class KernelLauncher
{
    const int KernelArgument = 0;
    const int DimensionArgument = 2;

    public static MethodInfo Generate(PTXBackend backend, PTXCompiledKernel kernel, int groupSize)
    {
        var entry = IlgpuInternals.EntryPoint(kernel);
        List<Type> types = [typeof(Kernel), typeof(AcceleratorStream), entry.KernelIndexType];
        for (int i = 0; i < entry.Parameters.Count; i++)
            types.Add(entry.Parameters[i]);
        var method = new DynamicMethod("launch_" + kernel.Name, typeof(void), [.. types], typeof(KernelLauncher).Module, skipVisibility: true);
        var emitter = new ILEmitter(method.GetILGenerator());
        var (arguments, size) = backend.ArgumentMapper.Map(emitter, entry);
        emitter.Emit(ArgumentOperation.Load, KernelArgument);
        emitter.Emit(ArgumentOperation.Load, DimensionArgument);
        emitter.Emit(OpCodes.Box, entry.KernelIndexType);
        emitter.EmitConstant(groupSize);
        emitter.Emit(LocalOperation.LoadAddress, arguments);
        emitter.Emit(OpCodes.Conv_U);
        emitter.EmitConstant(size);
        emitter.EmitCall(typeof(EmulatedKernel).GetMethod(nameof(EmulatedKernel.Launch), BindingFlags.Static | BindingFlags.NonPublic)!);
        emitter.Emit(OpCodes.Ret);
        emitter.Finish();
        return method;
    }
}
