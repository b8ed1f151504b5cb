using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// How vectorised instructions treat a warp's lanes: they compute all 32, which costs no more than some and can do no harm, and
/// keep those of the mask. Slots of registers are aligned for it.
/// </summary>
static unsafe class Vectors
{
    /// <summary>Writes lanes <paramref name="first"/>, first + 1 ... as far as the mask names them.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Store<T>(T* to, int first, Vector256<T> values, uint mask) where T : unmanaged
    {
        if (mask != uint.MaxValue)
            values = Vector256.ConditionalSelect(Lanes<T>(mask >> first), values, Vector256.LoadAligned(to + first));
        values.StoreAligned(to + first);
    }

    /// <summary>Element i has all bits set if bit i is, else none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<T> Lanes<T>(uint bits) where T : unmanaged
    {
        switch (sizeof(T))
        {
            case 2:
                var bit16 = Vector256.Create((ushort)1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768);
                return Vector256.Equals(Vector256.Create((ushort)bits) & bit16, bit16).As<ushort, T>();
            case 4:
                var bit32 = Vector256.Create(1u, 2, 4, 8, 16, 32, 64, 128);
                return Vector256.Equals(Vector256.Create(bits) & bit32, bit32).As<uint, T>();
            default:
                var bit64 = Vector256.Create(1ul, 2, 4, 8);
                return Vector256.Equals(Vector256.Create((ulong)bits) & bit64, bit64).As<ulong, T>();
        }
    }

    /// <summary>Four 32-bit integers as 64-bit ones, extended by their sign or by zeros.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<ulong> Widen(uint* from, bool signed)
    {
        var four = Vector128.LoadAligned(from);
        return signed
            ? Vector256.Create(Vector128.WidenLower(four.AsInt32()), Vector128.WidenUpper(four.AsInt32())).AsUInt64()
            : Vector256.Create(Vector128.WidenLower(four), Vector128.WidenUpper(four));
    }

    /// <summary>Puts one value into all lanes of the mask.</summary>
    public static void Fill<T>(T* to, T value, uint mask) where T : unmanaged
    {
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
            Store(to, i, Vector256.Create(value), mask);
    }
}
