using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>Four neighbouring elements at once: one 16-byte access of 32-bit floats, one 8-byte access of 16-bit ones.</summary>
static class Quads
{
    /// <summary>Whether a matrix with rows of <paramref name="width"/> elements can be read in quads: every row starts at a multiple of a quad's bytes.</summary>
    public static bool Fit(Slice slice, long width) => width % 4 == 0 && slice.Address % (4 * slice.Type.Size()) == 0;

    /// <summary>Elements 4·<paramref name="quad"/> to 4·<paramref name="quad"/> + 3.</summary>
    public static Float4 Load<T>(ArrayView<T> values, long quad) where T : unmanaged, IElement<T>
    {
        if (T.Type == DType.F32)
        {
            return values.Cast<Float4>()[quad];
        }

        var words = values.Cast<Word2>()[quad];
        if (T.Type == DType.F16)
        {
            return new Float4
            {
                X = Intrinsics.WidenF16(words.X),
                Y = Intrinsics.WidenF16(words.X >> 16),
                Z = Intrinsics.WidenF16(words.Y),
                W = Intrinsics.WidenF16(words.Y >> 16),
            };
        }

        return new Float4
        {
            X = Interop.IntAsFloat(words.X << 16),
            Y = Interop.IntAsFloat(words.X & 0xFFFF_0000),
            Z = Interop.IntAsFloat(words.Y << 16),
            W = Interop.IntAsFloat(words.Y & 0xFFFF_0000),
        };
    }

    /// <summary>Stores elements 4·<paramref name="quad"/> to 4·<paramref name="quad"/> + 3, F32 or BF16, each rounded once.</summary>
    public static void Store<T>(ArrayView<T> values, long quad, Float4 value) where T : unmanaged, IElement<T>
    {
        if (T.Type == DType.F32)
        {
            values.Cast<Float4>()[quad] = value;
        }
        else
        {
            values.Cast<Word2>()[quad] = new Word2 { X = Intrinsics.PackBf16(value.X, value.Y), Y = Intrinsics.PackBf16(value.Z, value.W) };
        }
    }
}
