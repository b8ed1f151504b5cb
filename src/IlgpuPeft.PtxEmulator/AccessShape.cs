using System.Numerics;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Where the lanes of one memory instruction go, relative to the first of them. Warps and loops mostly repeat an instruction in the
/// same shape at another place, and then all that depends on the shape alone is known already: the extent of the accesses, the
/// sectors and wavefronts they take, the words of shared memory they touch.
/// </summary>
sealed unsafe class AccessShape
{
    const int SectorBytes = 32, WordBytes = 4;

    readonly ulong[] offsets = new ulong[EmulatedWarp.Size];
    readonly byte[] sectors = new byte[SectorBytes], wavefronts = new byte[WordBytes];
    uint lanes;
    int size;
    ulong misalignment;
    long lowest, highest;

    /// <summary>Address of the first lane that runs.</summary>
    public ulong First { get; private set; }

    /// <summary>Lowest and highest address of a lane.</summary>
    public (ulong Low, ulong High) Range => (First + (ulong)lowest, First + (ulong)highest);

    /// <summary>Whether all 32 lanes follow each other without a gap.</summary>
    public bool IsContiguous { get; private set; }

    /// <summary>Whether all lanes go to one address.</summary>
    public bool IsUniform => lowest == highest;

    /// <summary>The words of shared memory; null for accesses narrower than a word, and until a shape is seen for the second time in a row.</summary>
    public SharedWords? Words { get; private set; }

    /// <summary>Takes the addresses of the lanes of a mask, which access <paramref name="bytes"/> bytes each.</summary>
    public void Fit(ulong* addresses, uint mask, int bytes)
    {
        First = addresses[BitOperations.TrailingZeroCount(mask)];
        if (mask != lanes || bytes != size || !Fits(addresses))
            Take(addresses, mask, bytes);
        else if (Words == null && size >= WordBytes)
            Words = new SharedWords(offsets, lanes, size);
    }

    /// <summary>Whether every address is a multiple of a power of two.</summary>
    public bool IsAligned(int to) => ((First | misalignment) & (ulong)(to - 1)) == 0;

    /// <summary>32-byte sectors of global memory that the request touches. Depends on where in a sector the first lane is.</summary>
    public int Sectors(ulong* addresses)
    {
        ref byte known = ref sectors[First % SectorBytes];
        return known != 0 ? known : known = (byte)PtxEmulator.Sectors.Count(new ReadOnlySpan<ulong>(addresses, EmulatedWarp.Size), lanes, size);
    }

    /// <summary>Wavefronts that shared memory needs. To move all lanes by whole words renames the banks and changes nothing.</summary>
    public int Wavefronts(ulong* addresses)
    {
        ref byte known = ref wavefronts[First % WordBytes];
        return known != 0 ? known : known = (byte)Banks.Wavefronts(new ReadOnlySpan<ulong>(addresses, EmulatedWarp.Size), lanes, size);
    }

    bool Fits(ulong* addresses)
    {
        ref ulong known = ref offsets[0];
        var first = Vector256.Create(First);
        var difference = Vector256<ulong>.Zero;
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<ulong>.Count)
        {
            var other = (Vector256.Load(addresses + i) - first) ^ Vector256.LoadUnsafe(ref known, (nuint)i);
            difference |= lanes == uint.MaxValue ? other : other & Vectors.Lanes<ulong>(lanes >> i);
        }
        return difference == Vector256<ulong>.Zero;
    }

    void Take(ulong* addresses, uint mask, int bytes)
    {
        (lanes, size, Words) = (mask, bytes, null);
        Array.Clear(sectors);
        Array.Clear(wavefronts);
        Vector256<long> low = default, high = default;
        Vector256<ulong> bits = default, gaps = default, next = Vector256.Create(0ul, 1, 2, 3) * (ulong)bytes;
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<ulong>.Count)
        {
            var offset = (Vector256.Load(addresses + i) - Vector256.Create(First)) & Vectors.Lanes<ulong>(mask >> i);
            offset.StoreUnsafe(ref offsets[i]);
            low = Vector256.Min(low, offset.AsInt64());
            high = Vector256.Max(high, offset.AsInt64());
            bits |= offset;
            gaps |= offset ^ next;
            next += Vector256.Create(4 * (ulong)bytes);
        }
        lowest = Math.Min(Math.Min(low[0], low[1]), Math.Min(low[2], low[3]));
        highest = Math.Max(Math.Max(high[0], high[1]), Math.Max(high[2], high[3]));
        misalignment = bits[0] | bits[1] | bits[2] | bits[3];
        IsContiguous = gaps == Vector256<ulong>.Zero;
    }
}
