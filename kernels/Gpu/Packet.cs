using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Sixteen bytes of neighbouring elements, widened to floats: four of F32 in A to D, or eight of BF16. It is what one thread loads, computes on and stores at a time. Arithmetic is
/// element by element; of F32 the upper half is never read, and the compiler drops it.
/// </summary>
struct Packet(float a, float b, float c, float d, float e, float f, float g, float h)
{
    public float A = a, B = b, C = c, D = d, E = e, F = f, G = g, H = h;

    /// <summary>Elements of a packet of <typeparamref name="T"/>, which is F32 or BF16.</summary>
    public static int Size<T>() where T : unmanaged, IElement<T> => T.Type == DType.F32 ? 4 : 8;

    /// <summary>Packets that hold <paramref name="elements"/> elements, the last perhaps in part.</summary>
    public static long Count<T>(long elements) where T : unmanaged, IElement<T> => (elements + Size<T>() - 1) / Size<T>();

    /// <summary>1 if rows of <paramref name="width"/> elements of <typeparamref name="T"/> in these slices consist of packets that one access moves, else 0: kernels take no bool.</summary>
    public static int Fits<T>(long width, params ReadOnlySpan<Slice> slices) where T : unmanaged, IElement<T>
    {
        bool fits = width % Size<T>() == 0;
        foreach (var slice in slices)
        {
            fits &= slice.Address % 16 == 0;
        }

        return fits ? 1 : 0;
    }

    /// <summary>Elements <paramref name="first"/> and on; those from <paramref name="end"/> on are zero.</summary>
    /// <param name="values">Where they are.</param>
    /// <param name="first">Index of the first.</param>
    /// <param name="end">Index that is not read any more.</param>
    /// <param name="whole">
    /// Whether the packet ends before <paramref name="end"/> and starts at a multiple of 16 bytes, so that one access moves it. A constant: where it varies, a kernel has a branch for each,
    /// since loads that end in branches of their own would wait for one another.
    /// </param>
    public static Packet Load<T>(ArrayView<T> values, long first, long end, bool whole) where T : unmanaged, IElement<T> => Load<T, T>(values, first, end, whole);

    /// <summary>As many elements as a packet of <typeparamref name="T"/> has, stored as <typeparamref name="TStored"/>: the F32 weights beside eight BF16 activations take two accesses.</summary>
    public static Packet Load<TStored, T>(ArrayView<TStored> values, long first, long end, bool whole) where TStored : unmanaged, IElement<TStored> where T : unmanaged, IElement<T>
    {
        if (whole)
        {
            if (TStored.Type == DType.BF16)
            {
                return FromBf16(values.Cast<Word4>()[first >> 3]);
            }

            var low = values.Cast<Float4>()[first >> 2];
            var high = Size<T>() == 8 ? values.Cast<Float4>()[(first >> 2) + 1] : default;
            return new Packet(low.X, low.Y, low.Z, low.W, high.X, high.Y, high.Z, high.W);
        }

        Packet each = default;
        each.A = At(values, first, end);
        each.B = At(values, first + 1, end);
        each.C = At(values, first + 2, end);
        each.D = At(values, first + 3, end);
        if (Size<T>() == 8)
        {
            each.E = At(values, first + 4, end);
            each.F = At(values, first + 5, end);
            each.G = At(values, first + 6, end);
            each.H = At(values, first + 7, end);
        }

        return each;
    }

    /// <summary>Stores what <see cref="Load{T}"/> with the same numbers would read, each element rounded once.</summary>
    public readonly void Store<T>(ArrayView<T> values, long first, long end, bool whole) where T : unmanaged, IElement<T> => Store<T, T>(values, first, end, whole);

    /// <summary>Stores the elements of a packet of <typeparamref name="T"/> as <typeparamref name="TStored"/>.</summary>
    public readonly void Store<TStored, T>(ArrayView<TStored> values, long first, long end, bool whole) where TStored : unmanaged, IElement<TStored> where T : unmanaged, IElement<T>
    {
        if (!whole)
        {
            Set(values, first, end, A);
            Set(values, first + 1, end, B);
            Set(values, first + 2, end, C);
            Set(values, first + 3, end, D);
            if (Size<T>() == 8)
            {
                Set(values, first + 4, end, E);
                Set(values, first + 5, end, F);
                Set(values, first + 6, end, G);
                Set(values, first + 7, end, H);
            }
        }
        else if (TStored.Type == DType.BF16)
        {
            values.Cast<Word4>()[first >> 3] = ToBf16();
        }
        else
        {
            values.Cast<Float4>()[first >> 2] = new Float4 { X = A, Y = B, Z = C, W = D };
            if (Size<T>() == 8)
            {
                values.Cast<Float4>()[(first >> 2) + 1] = new Float4 { X = E, Y = F, Z = G, W = H };
            }
        }
    }

    /// <summary>The elements as <see cref="Store{T}"/> would round them.</summary>
    public readonly Packet Rounded<T>() where T : unmanaged, IElement<T> => T.Type == DType.BF16 ? FromBf16(ToBf16()) : this;

    public static Packet operator +(Packet x, Packet y) => new(x.A + y.A, x.B + y.B, x.C + y.C, x.D + y.D, x.E + y.E, x.F + y.F, x.G + y.G, x.H + y.H);

    public static Packet operator -(Packet x, Packet y) => new(x.A - y.A, x.B - y.B, x.C - y.C, x.D - y.D, x.E - y.E, x.F - y.F, x.G - y.G, x.H - y.H);

    public static Packet operator *(Packet x, Packet y) => new(x.A * y.A, x.B * y.B, x.C * y.C, x.D * y.D, x.E * y.E, x.F * y.F, x.G * y.G, x.H * y.H);

    public static Packet operator +(float x, Packet y) => new(x + y.A, x + y.B, x + y.C, x + y.D, x + y.E, x + y.F, x + y.G, x + y.H);

    public static Packet operator -(float x, Packet y) => new(x - y.A, x - y.B, x - y.C, x - y.D, x - y.E, x - y.F, x - y.G, x - y.H);

    public static Packet operator *(float x, Packet y) => new(x * y.A, x * y.B, x * y.C, x * y.D, x * y.E, x * y.F, x * y.G, x * y.H);

    /// <summary>1/(1 + e^−x).</summary>
    public static Packet Sigmoid(Packet x) => new(Sigmoid(x.A), Sigmoid(x.B), Sigmoid(x.C), Sigmoid(x.D), Sigmoid(x.E), Sigmoid(x.F), Sigmoid(x.G), Sigmoid(x.H));

    /// <summary>The sum of the elements, in pairs.</summary>
    public static float Sum<T>(Packet x) where T : unmanaged, IElement<T>
    {
        float low = (x.A + x.B) + (x.C + x.D);
        return Size<T>() == 8 ? low + ((x.E + x.F) + (x.G + x.H)) : low;
    }

    static float Sigmoid(float x) => 1 / (1 + XMath.Exp(-x));

    static Packet FromBf16(Word4 words) =>
        new(Even(words.X), Odd(words.X), Even(words.Y), Odd(words.Y), Even(words.Z), Odd(words.Z), Even(words.W), Odd(words.W));

    readonly Word4 ToBf16() =>
        new() { X = Intrinsics.PackBf16(A, B), Y = Intrinsics.PackBf16(C, D), Z = Intrinsics.PackBf16(E, F), W = Intrinsics.PackBf16(G, H) };

    static float Even(uint word) => Interop.IntAsFloat(word << 16);

    static float Odd(uint word) => Interop.IntAsFloat(word & 0xFFFF_0000);

    static float At<T>(ArrayView<T> values, long index, long end) where T : unmanaged, IElement<T> => index < end ? T.Widen(values[index]) : 0;

    static void Set<T>(ArrayView<T> values, long index, long end, float value) where T : unmanaged, IElement<T>
    {
        if (index < end)
        {
            values[index] = T.Narrow(value);
        }
    }
}
