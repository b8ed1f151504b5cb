using System.Numerics;
using System.Runtime.CompilerServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>The state spaces that a kernel can address. A generic address says by its top byte which one it means.</summary>
enum Space { Generic, Global, Shared, Local, Parameter }

/// <summary>
/// Turns a warp's addresses into host memory: computes them lane by lane, checks each access, and counts the request.
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
        if (start.LaneSize == 8)
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                addresses[lane] = ((ulong*)slot)[lane] + (ulong)offset;
        else
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                addresses[lane] = ((uint*)slot)[lane] + (ulong)offset;
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

    /// <summary>Checks every lane's access; afterwards global addresses are good host pointers.</summary>
    public static void Check(EmulatedWarp warp, Space space, ulong* addresses, uint mask, int size, ref Allocation? last)
    {
        ulong low = ulong.MaxValue, high = 0, bits = 0;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            ulong address = addresses[BitOperations.TrailingZeroCount(rest)];
            low = Math.Min(low, address);
            high = Math.Max(high, address);
            bits |= address;
        }
        if ((bits & (ulong)(size - 1)) != 0)
            Fail(warp, addresses, mask, address =>
                (address & (ulong)(size - 1)) == 0 ? null : $"misaligned: {size} bytes need an address that {size} divides");
        ulong end = high + (ulong)size;
        switch (space)
        {
            case Space.Global:
                if (last is { } known && known.Contains(low, end))
                    return;
                if (warp.Block.Launch.Memory.Find(low) is { } found && found.Contains(low, end))
                    last = found;
                else
                    Fail(warp, addresses, mask, address => warp.Block.Launch.Memory.Problem(address, size));
                break;
            case Space.Shared:
                Bound(warp, addresses, mask, size, end, warp.Block.Shared.Size, "shared");
                break;
            default:
                Bound(warp, addresses, mask, size, end, warp.Block.Launch.Program.LaneBytes, "local");
                break;
        }
    }

    /// <summary>The error of the first lane that has one.</summary>
    public static void Fail(EmulatedWarp warp, ulong* addresses, uint mask, Func<ulong, string?> problem)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if (problem(addresses[lane]) is { } text)
                throw PtxEmulatorException.At(warp, lane, text, addresses[lane]);
        }
    }

    public static void Count(EmulatedWarp warp, Space space, ulong* addresses, uint mask, int size, bool store)
    {
        var lanes = new ReadOnlySpan<ulong>(addresses, EmulatedWarp.Size);
        if (space == Space.Global)
            warp.Counters.Global(lanes, mask, size, store);
        else if (space == Space.Shared)
            warp.Counters.Shared(lanes, mask, size);
        else
            warp.Counters.LocalBytes += (long)BitOperations.PopCount(mask) * size;
    }

    /// <summary>Host memory behind a checked address.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static byte* Pointer(EmulatedWarp warp, Space space, ulong address, int lane) => space switch
    {
        Space.Global => (byte*)address,
        Space.Shared => warp.Block.Shared.Data + address,
        _ => warp.LaneMemory + ((long)lane * warp.Block.Launch.Program.LaneBytes) + (long)address,
    };

    static void Bound(EmulatedWarp warp, ulong* addresses, uint mask, int size, ulong end, int limit, string name)
    {
        if (end > (ulong)limit || end < (ulong)size)
            Fail(warp, addresses, mask, address => address <= (ulong)limit && address + (ulong)size <= (ulong)limit
                ? null
                : $"out of bounds: {size} bytes at byte {address} of {limit} bytes of {name} memory");
    }
}
