using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// The same notes and checks for a warp's whole request, eight words at a time. Where one finds anything, the lanes are looked at one
/// by one, in order: so it may find too much, never too little, and noting a word twice is as good as once.
/// </summary>
sealed unsafe partial class BlockMemory
{
    const ulong EveryByte = 0x0101_0101_0101_0101;

    /// <summary>Notes the reads of a request; false if something may be wrong.</summary>
    public bool Read(EmulatedWarp warp, AccessShape shape, SharedWords words)
    {
        var several = Vector256.Create(Record(warp.Index, SeveralLanes));
        var severalWarps = Vector256.Create(Record(SeveralWarps, 0));
        foreach (var run in words.Runs)
            for (int i = 0; i < run.Count; i += Vector256<int>.Count)
            {
                int at = (int)(shape.First >> 2) + run.Offset + i;
                var (mine, lanes, bytes) = Eight(warp, words, run, i);
                if (((*(ulong*)(initialised + at) ^ (AllBytes * EveryByte)) & bytes) != 0 || (*(ulong*)(pending + at) & bytes) != 0)
                    return false;
                if ((Unordered(writeTimes + at, writers + at, mine, warp) & lanes) != Vector256<int>.Zero)
                    return false;
                Vector256<int> times = Vector256.Load(readTimes + at), earlier = Vector256.Load(readers + at), now = Vector256.Create(warp.Time);
                var ofWarp = Vector256.ConditionalSelect(Vector256.Equals(times, now) & ~Vector256.Equals(earlier, mine), several, mine);
                var joined = Vector256.ConditionalSelect(
                    Vector256.Equals(earlier >> WarpShift, Vector256.Create(warp.Index)), ofWarp, severalWarps);
                var comparable = Vector256.GreaterThanOrEqual(times, Vector256.Create(warp.Block.EpochStart))
                    & Vector256.Equals(earlier & Vector256.Create(AllBytes), Vector256.Create(AllBytes));
                Vector256.ConditionalSelect(lanes, Vector256.ConditionalSelect(comparable, joined, mine), earlier).Store(readers + at);
                Vector256.ConditionalSelect(lanes, now, times).Store(readTimes + at);
            }
        return true;
    }

    /// <summary>Notes the writes of a request in which no two lanes write one word; false if something may be wrong.</summary>
    public bool Write(EmulatedWarp warp, AccessShape shape, SharedWords words)
    {
        bool races = warp.Block.Launch.Options.CheckSharedRaces;
        foreach (var run in words.Runs)
            for (int i = 0; i < run.Count; i += Vector256<int>.Count)
            {
                int at = (int)(shape.First >> 2) + run.Offset + i;
                var (mine, lanes, bytes) = Eight(warp, words, run, i);
                if ((*(ulong*)(pending + at) & bytes) != 0)
                    return false;
                var unordered = Unordered(writeTimes + at, writers + at, mine, warp) | Unordered(readTimes + at, readers + at, mine, warp);
                if (races && (unordered & lanes) != Vector256<int>.Zero)
                    return false;
                *(ulong*)(initialised + at) |= AllBytes * EveryByte & bytes;
                Vector256.ConditionalSelect(lanes, mine, Vector256.Load(writers + at)).Store(writers + at);
                Vector256.ConditionalSelect(lanes, Vector256.Create(warp.Time), Vector256.Load(writeTimes + at)).Store(writeTimes + at);
            }
        return true;
    }

    /// <summary>The records of eight words of a run from word <paramref name="i"/>; if it has fewer left, which those are, as lanes and as bytes.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static (Vector256<int> Mine, Vector256<int> Lanes, ulong Bytes) Eight(EmulatedWarp warp, SharedWords words, SharedWords.Run run, int i)
    {
        int count = run.Count - i;
        var mine = Vector256.LoadUnsafe(ref words.Touching[0], (nuint)(run.Start + i)) | Vector256.Create(warp.Index << WarpShift);
        return count >= 8
            ? (mine, Vector256<int>.AllBitsSet, ulong.MaxValue)
            : (mine, Vectors.Lanes<int>((1u << count) - 1), (1ul << (8 * count)) - 1);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector256<int> Unordered(int* times, int* records, Vector256<int> mine, EmulatedWarp warp)
    {
        Vector256<int> time = Vector256.Load(times), earlier = Vector256.Load(records);
        var comparable = Vector256.GreaterThanOrEqual(time, Vector256.Create(warp.Block.EpochStart))
            & ~Vector256.Equals((earlier ^ mine) >> LaneShift, Vector256<int>.Zero)
            & ~Vector256.Equals(earlier & Vector256.Create(AllBytes), Vector256<int>.Zero);
        var otherWarp = ~Vector256.Equals(earlier >> WarpShift, Vector256.Create(warp.Index));
        return comparable & (otherWarp | Vector256.Equals(time, Vector256.Create(warp.Time)));
    }
}
