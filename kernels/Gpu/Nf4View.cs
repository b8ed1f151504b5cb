using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>An NF4 matrix as kernels see it: packed codes and block scales. Decoding looks codes up in a table of 16 floats that each group keeps in shared memory, one bank a code.</summary>
/// <param name="packed">Two weights a byte, the even one in the high nibble.</param>
/// <param name="absMax">One scale a block, or nothing with double quantisation.</param>
/// <param name="scaleCodes">One 8-bit scale a block, with double quantisation.</param>
/// <param name="nestedAbsMax">One scale for 256 of them.</param>
/// <param name="nestedMap">The 256 values of the 8-bit type.</param>
/// <param name="offset">Mean of the block scales.</param>
/// <param name="blockShift">Logarithm of the block size.</param>
readonly struct Nf4View(ArrayView<byte> packed, ArrayView<float> absMax, ArrayView<byte> scaleCodes, ArrayView<float> nestedAbsMax, ArrayView<float> nestedMap, float offset, int blockShift)
{
    /// <summary>Weights that one 16-byte load brings; block sizes are multiples of it.</summary>
    public const int Run = 32;

    readonly ArrayView<byte> packed = packed, scaleCodes = scaleCodes;
    readonly ArrayView<float> absMax = absMax, nestedAbsMax = nestedAbsMax, nestedMap = nestedMap;
    readonly float offset = offset;
    readonly int blockShift = blockShift;

    /// <summary>The view of a stored weight.</summary>
    public static Nf4View Of(KernelDevice device, Weight weight)
    {
        var (buffers, scales) = (device.Buffers, weight.Scales!);
        return new Nf4View(
            buffers.View<byte>(weight.Values),
            scales.IsDouble ? default : buffers.View<float>(scales.AbsMax),
            scales.IsDouble ? buffers.View<byte>(scales.AbsMax) : default,
            buffers.View<float>(scales.NestedAbsMax),
            buffers.View<float>(scales.NestedMap),
            scales.NestedOffset,
            int.Log2(scales.BlockSize));
    }

    /// <summary>Whether every row of <paramref name="width"/> weights is whole runs, so that 16-byte loads serve it.</summary>
    public static bool HasRuns(Weight weight, int width) => width % Run == 0 && weight.Values.Address % 16 == 0;

    /// <summary>Fills the group's table; the caller's barrier completes it.</summary>
    public static void Prepare(ArrayView<float> codes)
    {
        if (Group.IdxX < 16)
        {
            codes[Group.IdxX] = Code(Group.IdxX);
        }
    }

    /// <summary>Fills the group's table of the 15 midpoints between neighbouring codes; the caller's barrier completes it.</summary>
    public static void PrepareThresholds(ArrayView<float> thresholds)
    {
        if (Group.IdxX < 15)
        {
            thresholds[Group.IdxX] = (Code(Group.IdxX) + Code(Group.IdxX + 1)) / 2;
        }
    }

    /// <summary>Copies the 8-bit type's values to shared memory, where double quantisation has them; the caller's barrier completes it.</summary>
    public void PrepareMap(ArrayView<float> map)
    {
        for (int i = Group.IdxX; i < nestedMap.Length; i += Group.DimX)
        {
            map[i] = nestedMap[i];
        }
    }

    /// <summary>The scale of the block that holds weight <paramref name="index"/> of the flattened matrix.</summary>
    public float Scale(long index) => Scale(index, nestedMap);

    /// <summary><see cref="Scale(long)"/> with the 8-bit type's values in shared memory.</summary>
    public float Scale(long index, ArrayView<float> map)
    {
        long block = index >> blockShift;
        return absMax.Length > 0 ? absMax[block] : Intrinsics.MultiplyRounded(map[(int)scaleCodes[block]], nestedAbsMax[block / Nf4.NestedBlockSize]) + offset;
    }

    /// <summary>One weight.</summary>
    public float At(ArrayView<float> codes, long index) => codes[(packed[index >> 1] >> ((index & 1) == 0 ? 4 : 0)) & 15] * Scale(index);

    /// <summary>Four neighbouring weights, which lie in one block.</summary>
    public Float4 Quad(ArrayView<float> codes, long quad)
    {
        float scale = Scale(4 * quad);
        int first = packed[2 * quad], second = packed[2 * quad + 1];
        return new Float4 { X = codes[first >> 4] * scale, Y = codes[first & 15] * scale, Z = codes[second >> 4] * scale, W = codes[second & 15] * scale };
    }

    /// <summary>The packed codes of weights 32·<paramref name="run"/> to 32·<paramref name="run"/> + 31.</summary>
    public Word4 Packed(long run) => packed.Cast<Word4>()[run];

    /// <summary>Codes 0 to 3 of a word of 8; shifted right by 16, codes 4 to 7.</summary>
    public static Float4 Decode(ArrayView<float> codes, uint word) => new()
    {
        X = codes[(int)((word >> 4) & 15)],
        Y = codes[(int)(word & 15)],
        Z = codes[(int)((word >> 12) & 15)],
        W = codes[(int)((word >> 8) & 15)],
    };

    /// <summary><see cref="Nf4.Codes"/>, by halving: kernels have no tables of their own.</summary>
    static float Code(int code) => code < 8
        ? code < 4
            ? code < 2 ? code < 1 ? -1.0f : -0.6961928009986877f : code < 3 ? -0.5250730514526367f : -0.39491748809814453f
            : code < 6 ? code < 5 ? -0.28444138169288635f : -0.18477343022823334f : code < 7 ? -0.09105003625154495f : 0.0f
        : code < 12
            ? code < 10 ? code < 9 ? 0.07958029955625534f : 0.16093020141124725f : code < 11 ? 0.24611230194568634f : 0.33791524171829224f
            : code < 14 ? code < 13 ? 0.44070982933044434f : 0.5626170039176941f : code < 15 ? 0.7229568362236023f : 1.0f;
}
