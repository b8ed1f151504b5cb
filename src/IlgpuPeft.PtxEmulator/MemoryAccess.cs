using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>The state spaces that a kernel can address. A generic address says by its top byte which one it means.</summary>
enum Space { Generic, Global, Shared, Local, Parameter }

/// <summary>
/// Turns a warp's addresses into host memory: computes them for all lanes, checks each access, and counts the request.
/// </summary>
static unsafe class MemoryAccess
{
    /// <summary>Top byte of generic addresses into shared memory; device memory is at host addresses, which have none.</summary>
    public const ulong SharedWindow = 1UL << 56;

    /// <summary>Top byte of generic addresses into local memory.</summary>
    public const ulong LocalWindow = 2UL << 56;

    const ulong Window = 0xFFUL << 56;

    /// <summary>Computes base + offset for each lane.</summary>
    public static void Addresses(EmulatedWarp warp, Register start, long offset, ulong* addresses)
    {
        byte* slot = warp.Registers + start.Slot;
        var plus = Vector256.Create((ulong)offset);
        if (start.LaneSize == 8)
            for (int lane = 0; lane < EmulatedWarp.Size; lane += Vector256<ulong>.Count)
                (Vector256.LoadAligned((ulong*)slot + lane) + plus).Store(addresses + lane);
        else
            for (int lane = 0; lane < EmulatedWarp.Size; lane += Vector256<ulong>.Count)
                (Vectors.Widen((uint*)slot + lane, signed: false) + plus).Store(addresses + lane);
    }

    /// <summary>The lanes of a generic access that go to one space; their addresses become addresses of that space.</summary>
    public static uint Select(ulong* addresses, uint mask, Space space)
    {
        ulong window = space switch { Space.Shared => SharedWindow, Space.Local => LocalWindow, _ => 0 };
        uint lanes = 0;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if ((addresses[lane] & Window) != window)
                continue;
            lanes |= 1u << lane;
            addresses[lane] &= ~Window;
        }
        return lanes;
    }

    /// <summary>
    /// Checks every lane's access of some bytes; afterwards global addresses are good host pointers. <paramref name="last"/> is the
    /// buffer that the instruction found before, which mostly is where the next request goes, too.
    /// </summary>
    public static void Check(EmulatedWarp warp, Space space, AccessShape shape, ulong* addresses, uint mask, int size, ref Allocation? last)
    {
        var (low, high) = shape.Range;
        // Lanes so far apart that addresses wrap around between them are in no memory together.
        bool good = low <= high && shape.IsAligned(size) && space switch
        {
            Space.Global => (last is { } known && known.Contains(low, high + (ulong)size)) || Find(warp, low, high + (ulong)size, ref last),
            _ => high <= (ulong)Limit(warp, space) && high + (ulong)size <= (ulong)Limit(warp, space),
        };
        if (!good)
            CheckLanes(warp, space, addresses, mask, size);
    }

    public static void Count(EmulatedWarp warp, Space space, AccessShape shape, ulong* addresses, uint mask, int size, bool store)
    {
        long bytes = (long)BitOperations.PopCount(mask) * size;
        if (space == Space.Global)
            warp.Counters.Global(shape.Sectors(addresses), bytes, store);
        else if (space == Space.Shared)
            warp.Counters.Shared(shape.Wavefronts(addresses), bytes);
        else
            warp.Counters.LocalBytes += bytes;
    }

    /// <summary>Host memory behind a checked address.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Pointer(EmulatedWarp warp, Space space, ulong address, int lane) => space switch
    {
        Space.Global => (byte*)address,
        Space.Shared => warp.Block.Shared.Data + address,
        _ => warp.LaneMemory + ((long)lane * warp.Block.Launch.Program.LaneBytes) + (long)address,
    };

    static bool Find(EmulatedWarp warp, ulong low, ulong end, ref Allocation? last)
    {
        var found = warp.Block.Launch.Memory.Find(low);
        if (found == null || !found.Contains(low, end))
            return false;
        last = found;
        return true;
    }

    static int Limit(EmulatedWarp warp, Space space) => space == Space.Shared ? warp.Block.Shared.Size : warp.Block.Launch.Program.LaneBytes;

    /// <summary>Throws the error of the first lane that has one. Lanes in different buffers have none.</summary>
    static void CheckLanes(EmulatedWarp warp, Space space, ulong* addresses, uint mask, int size)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if (Problem(warp, space, addresses[lane], size) is { } text)
                throw PtxEmulatorException.At(warp, lane, text, addresses[lane]);
        }
    }

    static string? Problem(EmulatedWarp warp, Space space, ulong address, int size)
    {
        if ((address & (ulong)(size - 1)) != 0)
            return $"misaligned: {size} bytes need an address that {size} divides";
        if (space == Space.Global)
            return warp.Block.Launch.Memory.Problem(address, size);
        int limit = Limit(warp, space);
        return address <= (ulong)limit && address + (ulong)size <= (ulong)limit
            ? null
            : $"out of bounds: {size} bytes at byte {address} of {limit} bytes of {(space == Space.Shared ? "shared" : "local")} memory";
    }
}
