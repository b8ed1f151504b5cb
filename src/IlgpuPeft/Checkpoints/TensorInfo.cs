using IlgpuPeft.Kernels;

namespace IlgpuPeft.Checkpoints;

/// <summary>Name, element type and shape of one tensor of a safetensors file.</summary>
/// <param name="Name">Key in the file.</param>
/// <param name="TypeName">Element type as the format spells it: <c>F32</c>, <c>BF16</c>, <c>U8</c>, <c>BOOL</c> ...</param>
/// <param name="Shape">Extents, outermost first; empty for a scalar.</param>
public sealed record TensorInfo(string Name, string TypeName, IReadOnlyList<long> Shape)
{
    /// <summary>The same with a type that kernels can hold.</summary>
    public TensorInfo(string name, DType type, params long[] shape) : this(name, type.ToString(), shape)
    {
    }

    /// <summary>Element type, or null for one that kernels do not hold (8-bit floats, booleans ...).</summary>
    public DType? Type => Enum.TryParse(TypeName, out DType type) ? type : null;

    /// <summary>Number of elements.</summary>
    /// <exception cref="OverflowException">It exceeds 64 bits.</exception>
    public long Count => Shape.Aggregate(1L, (product, extent) => checked(product * extent));

    /// <summary>Size of the elements in the file.</summary>
    /// <exception cref="OverflowException">It exceeds 64 bits.</exception>
    /// <exception cref="NotSupportedException">The type is not one of the format's.</exception>
    public long Bytes => checked(Count * (SizeOf(TypeName) ?? throw new NotSupportedException($"{Name}: unknown element type {TypeName}.")));

    /// <summary>The shape as <c>[16, 2048]</c>.</summary>
    public string ShapeText => $"[{string.Join(", ", Shape)}]";

    /// <summary>Bytes per element of a type of the format, or null for an unknown one.</summary>
    public static int? SizeOf(string typeName) => typeName switch
    {
        "BOOL" or "U8" or "I8" or "F8_E4M3" or "F8_E5M2" or "F8_E8M0" => 1,
        "F16" or "BF16" or "I16" or "U16" => 2,
        "F32" or "I32" or "U32" => 4,
        "F64" or "I64" or "U64" => 8,
        _ => null,
    };
}
