using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Values;

namespace IlgpuPeft.Kernels;

/// <summary>A block of PTX text with registers of its own, inside the kernel that a generator writes; and the names of the registers around it.</summary>
readonly struct PtxBlock : IDisposable
{
    readonly PTXCodeGenerator generator;

    public PtxBlock(PTXCodeGenerator generator)
    {
        this.generator = generator;
        generator.Builder.AppendLine("\t{");
    }

    public void Line(string text) => generator.Builder.Append('\t').AppendLine(text);

    /// <inheritdoc />
    public void Dispose() => generator.Builder.AppendLine("\t}");

    /// <summary>The names of a structure's registers, field by field.</summary>
    public static string[] Names(PTXCodeGenerator generator, Value value) => [.. PtxIntrinsics.Registers(generator, value).Select(PtxIntrinsics.Name)];

    /// <summary>The name of the register that holds a number.</summary>
    public static string Register(PTXCodeGenerator generator, Value value) => PtxIntrinsics.Name(PtxIntrinsics.Hardware(generator, generator.LoadPrimitive(value)));

    /// <summary>An argument that the kernel gives as a constant.</summary>
    public static int Constant(Value value) => value.Resolve() is PrimitiveValue constant
        ? constant.Int32Value
        : throw new NotSupportedException("PtxBlock: an argument that must be a constant is not one.");

    /// <summary>Lets the result of a call take over the registers of its first argument, and names them.</summary>
    public static string[] InPlace(PTXCodeGenerator generator, Value value)
    {
        var argument = ((MethodCall)value)[0];
        var registers = generator.LoadAs<PTXCodeGenerator.CompoundRegister>(argument);
        if (registers.Children.All(child => child is PTXCodeGenerator.HardwareRegister))
        {
            generator.Bind(value, registers);
            return Names(generator, value);
        }

        throw new NotSupportedException("PtxBlock: a structure that is changed in place must be a variable.");
    }
}
