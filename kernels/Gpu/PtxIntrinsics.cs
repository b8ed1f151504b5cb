using System.Reflection;
using ILGPU;
using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Intrinsics;
using ILGPU.IR.Types;
using ILGPU.IR.Values;
using ILGPU.Runtime.Cuda;
using HardwareRegister = ILGPU.Backends.PTX.PTXCodeGenerator.HardwareRegister;
using PrimitiveRegister = ILGPU.Backends.PTX.PTXCodeGenerator.PrimitiveRegister;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The PTX of <see cref="Intrinsics"/>: one generator for each method, of the same name. ILGPU calls it where a kernel calls the method, with the operands' registers; nothing
/// goes through local memory, as the operands of its inline assembly do.
/// </summary>
static class PtxIntrinsics
{
    static readonly CudaArchitecture Oldest = CudaArchitecture.SM_70;

    /// <summary>Makes the intrinsics of <paramref name="type"/> known to a context, each with the generator of its name in <paramref name="generators"/>.</summary>
    /// <param name="builder">Of the context.</param>
    /// <param name="type">Declares the intrinsics.</param>
    /// <param name="generators">Writes their PTX.</param>
    /// <param name="portable">Holds, under the same name, what GPUs before sm_80 run in place of an instruction that came with it.</param>
    public static void Register(Context.Builder builder, Type type, Type generators, Type? portable = null)
    {
        var manager = builder.GetIntrinsicManager();
        foreach (var method in type.GetMethods(BindingFlags.Static | BindingFlags.Public).Where(method => method.IsDefined(typeof(IntrinsicImplementationAttribute))))
        {
            bool replaced = portable?.GetMethod(method.Name) is not null;
            manager.RegisterMethod(method, new PTXIntrinsic(generators, method.Name, IntrinsicImplementationMode.GenerateCode, replaced ? CudaArchitecture.SM_80 : Oldest));
            if (replaced)
            {
                manager.RegisterMethod(method, new PTXIntrinsic(portable!, method.Name, IntrinsicImplementationMode.Redirect, Oldest, CudaArchitecture.SM_80)); // not sm_80 itself
            }
        }
    }

    public static void NarrowToF16(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        string from = PtxBlock.Register(generator, ((MethodCall)value)[0]), result = Name(generator.AllocateHardware(value));
        using var text = new PtxBlock(generator);
        text.Line(".reg .b16 half;");
        text.Line($"cvt.rn.f16.f32 half, {from};");
        text.Line($"cvt.u32.u16 {result}, half;");
    }

    public static void WidenF16(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        string from = PtxBlock.Register(generator, ((MethodCall)value)[0]), result = Name(generator.AllocateHardware(value));
        using var text = new PtxBlock(generator);
        text.Line(".reg .b16 half;");
        text.Line($"cvt.u16.u32 half, {from};");
        text.Line($"cvt.f32.f16 {result}, half;");
    }

    public static void PackBf16(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        HardwareRegister low = Hardware(generator, generator.LoadPrimitive(call[0])), high = Hardware(generator, generator.LoadPrimitive(call[1]));
        var result = generator.AllocateHardware(value);
        using var command = generator.BeginCommand("cvt.rn.bf16x2.f32"); // the first operand goes to the upper half
        command.AppendArgument(result);
        command.AppendArgument(high);
        command.AppendArgument(low);
    }

    public static void Fma(PTXBackend backend, PTXCodeGenerator generator, Value value) => Plain(generator, value, "fma.rn.f32");

    public static void MultiplyRounded(PTXBackend backend, PTXCodeGenerator generator, Value value) => Plain(generator, value, "mul.rn.f32");

    public static void Exp2(PTXBackend backend, PTXCodeGenerator generator, Value value) => Plain(generator, value, "ex2.approx.ftz.f32");

    public static void MultiplyWide(PTXBackend backend, PTXCodeGenerator generator, Value value) => Plain(generator, value, "mul.wide.u32");

    public static void SharedAddress(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var address = Address(generator, ((MethodCall)value)[0], MemoryAddressSpace.Shared);
        var result = generator.AllocateHardware(value);
        using var command = generator.BeginCommand("cvt.u32.u64");
        command.AppendArgument(result);
        command.AppendArgument(address);
    }

    public static void LoadShared(PTXBackend backend, PTXCodeGenerator generator, Value value) => LoadFour(generator, value, "ld.shared.v4.b32");

    public static void LoadSharedFloat(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var address = Hardware(generator, generator.LoadPrimitive(((MethodCall)value)[0]));
        var result = generator.AllocateHardware(value);
        using var command = generator.BeginCommand("ld.shared.f32");
        command.AppendArgument(result);
        command.AppendArgumentValue(address);
    }

    public static void StoreShared(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        var address = Hardware(generator, generator.LoadPrimitive(call[0]));
        var values = Registers(generator, call[1]);
        using var command = generator.BeginCommand("st.shared.v4.b32");
        command.AppendArgumentValue(address);
        command.AppendVectorArgument(values);
    }

    public static void CopyAsync16(PTXBackend backend, PTXCodeGenerator generator, Value value) => CopyAsync(generator, value, "cp.async.cg.shared.global", 16);

    public static void CopyAsync4(PTXBackend backend, PTXCodeGenerator generator, Value value) => CopyAsync(generator, value, "cp.async.ca.shared.global", 4);

    public static void CopyAsyncCommit(PTXBackend backend, PTXCodeGenerator generator, Value value) => generator.Command("cp.async.commit_group");

    public static void CopyAsyncWait(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        using var command = generator.BeginCommand("cp.async.wait_group");
        command.AppendConstant(((PrimitiveValue)((MethodCall)value)[0].Resolve()).Int32Value);
    }

    public static void LoadMatrix4(PTXBackend backend, PTXCodeGenerator generator, Value value) => LoadFour(generator, value, "ldmatrix.sync.aligned.m8n8.x4.shared.b16");

    public static void LoadMatrix4Transposed(PTXBackend backend, PTXCodeGenerator generator, Value value) =>
        LoadFour(generator, value, "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16");

    public static void MultiplyAdd(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        PrimitiveRegister[] c = Registers(generator, call[0]), a = Registers(generator, call[1]), b = Registers(generator, call[2]);
        generator.Allocate(value);
        using var command = generator.BeginCommand("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32");
        command.AppendVectorArgument(Registers(generator, value));
        command.AppendVectorArgument(a);
        command.AppendVectorArgument(b);
        command.AppendVectorArgument(c);
    }

    /// <summary>The registers of a structure's fields; constants are moved to registers, since most such instructions take no immediates.</summary>
    public static PrimitiveRegister[] Registers(PTXCodeGenerator generator, Value value)
    {
        var compound = generator.LoadAs<PTXCodeGenerator.CompoundRegister>(value);
        return [.. compound.Children.Select(child => Hardware(generator, (PrimitiveRegister)child))];
    }

    /// <summary>The register itself, or a new one that holds the constant.</summary>
    public static HardwareRegister Hardware(PTXCodeGenerator generator, PrimitiveRegister register)
    {
        if (register is HardwareRegister hardware)
        {
            return hardware;
        }

        var result = generator.AllocateRegister(register.Description);
        using var move = generator.BeginMove();
        move.AppendRegisterMovementSuffix(register.BasicValueType);
        move.AppendArgument(result);
        move.AppendArgument(register);
        return result;
    }

    /// <summary>A register's name, for text that is appended as a whole.</summary>
    public static string Name(PrimitiveRegister register) => "%" + PTXRegisterAllocator.GetStringRepresentation((HardwareRegister)register);

    /// <summary>A pointer as an address of one space. ILGPU hands it over generic, or already in that space where it could tell.</summary>
    public static HardwareRegister Address(PTXCodeGenerator generator, Value pointer, MemoryAddressSpace space)
    {
        var register = generator.LoadHardware(pointer);
        var actual = ((PointerType)pointer.Type).AddressSpace;
        if (actual == space)
        {
            return register;
        }

        if (actual != MemoryAddressSpace.Generic)
        {
            throw new NotSupportedException($"PtxIntrinsics: a pointer to {actual} memory, expected {space}.");
        }

        var result = generator.AllocatePlatformRegister(out _);
        using var command = generator.BeginCommand($"cvta.to.{space.ToString().ToLowerInvariant()}.u64");
        command.AppendArgument(result);
        command.AppendArgument(register);
        return result;
    }

    static void CopyAsync(PTXCodeGenerator generator, Value value, string instruction, int size)
    {
        var call = (MethodCall)value;
        HardwareRegister shared = Hardware(generator, generator.LoadPrimitive(call[0])), global = Address(generator, call[1], MemoryAddressSpace.Global);
        var bytes = generator.LoadPrimitive(call[2]);
        using var command = generator.BeginCommand(instruction);
        command.AppendArgumentValue(shared);
        command.AppendArgumentValue(global);
        command.AppendConstant(size);
        command.AppendArgument(bytes);
    }

    static void Plain(PTXCodeGenerator generator, Value value, string instruction)
    {
        var call = (MethodCall)value;
        PrimitiveRegister[] operands = [.. Enumerable.Range(0, call.Count).Select(i => generator.LoadPrimitive(call[i]))];
        var result = generator.AllocateHardware(value);
        using var command = generator.BeginCommand(instruction);
        command.AppendArgument(result);
        foreach (var operand in operands)
        {
            command.AppendArgument(operand);
        }
    }

    static void LoadFour(PTXCodeGenerator generator, Value value, string instruction)
    {
        var address = Hardware(generator, generator.LoadPrimitive(((MethodCall)value)[0]));
        generator.Allocate(value);
        using var command = generator.BeginCommand(instruction);
        command.AppendVectorArgument(Registers(generator, value));
        command.AppendArgumentValue(address);
    }
}
