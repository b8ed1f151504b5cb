using System.Runtime.InteropServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// A block's shared memory, and for each of its 4-byte words who touched it last: enough to recognise reads of memory that nobody
/// wrote, reads of data that is still being copied, and two threads that race. Of several writers of different bytes of one word
/// only the last is known, so a race between sub-word accesses can be missed; none is reported that is not there.
/// </summary>
sealed unsafe partial class BlockMemory
{
    /// <summary>All bytes of a word, in a mask of them.</summary>
    public const int AllBytes = 15;

    /// <summary>In place of a lane: several of the warp.</summary>
    public const int SeveralLanes = 32;

    /// <summary>Behind the numbers of warps: threads of several.</summary>
    const int SeveralWarps = 64;

    /// <summary>Behind the numbers of warps: atomic operations, which do not race with each other.</summary>
    const int Atomic = 65;

    /// <summary>A record is warp, lane and bytes, from the highest bits to the lowest.</summary>
    const int LaneShift = 4, WarpShift = 10;

    /// <summary>Vectors of eight words reach this far beyond the last.</summary>
    const int Padding = 8;

    readonly AlignedMemory memory;
    readonly int* writeTimes, readTimes, writers, readers;
    readonly byte* initialised, pending;

    public BlockMemory(int staticBytes, int dynamicBytes)
    {
        DynamicStart = (staticBytes + 15) / 16 * 16;
        Size = dynamicBytes > 0 ? DynamicStart + dynamicBytes : staticBytes;
        int words = ((Size + 3) / 4) + Padding;
        memory = new AlignedMemory((4L * words) + (4 * sizeof(int) * words) + (2 * words));
        Data = memory.Pointer;
        writeTimes = (int*)(Data + (4 * words));
        readTimes = writeTimes + words;
        writers = readTimes + words;
        readers = writers + words;
        initialised = (byte*)(readers + words);
        pending = initialised + words;
        WordCount = words;
    }

    public byte* Data { get; }

    public int Size { get; }

    /// <summary>Where the part begins whose size the launch chooses.</summary>
    public int DynamicStart { get; }

    int WordCount { get; }

    /// <summary>Who touched which bytes of a word.</summary>
    public static int Record(int warp, int lane, int bytes) => (warp << WarpShift) | (lane << LaneShift) | bytes;

    /// <summary>For the next block, nothing is written and nothing pending. Records stay: they are older than all that the block does.</summary>
    public void Start()
    {
        NativeMemory.Clear(initialised, (nuint)WordCount);
        NativeMemory.Clear(pending, (nuint)WordCount);
    }

    /// <summary>Forgets who touched what.</summary>
    public void Forget() => NativeMemory.Clear(writeTimes, (nuint)(4L * sizeof(int) * WordCount));

    /// <summary>Notes a read; says what is wrong with it, or null.</summary>
    public string? Read(EmulatedWarp warp, int lane, ulong address, int size)
    {
        for (int done = 0; done < size; done += 4)
        {
            ulong word = (address + (ulong)done) >> 2;
            int bytes = Bytes(address, size - done), mine = Record(warp.Index, lane, bytes);
            if (pending[word] != 0)
                return "reads shared memory that cp.async has not delivered yet; wait for its group first";
            if ((initialised[word] & bytes) != bytes)
                return "reads shared memory that no thread of the block has written";
            if (Unordered(writeTimes[word], writers[word], mine, warp) && warp.Block.Launch.Options.CheckSharedRaces)
                return $"shared memory race: reads what {Who(writers[word])} wrote, without a barrier between";
            readers[word] = Join(readTimes[word], readers[word], mine, warp);
            readTimes[word] = warp.Time;
        }
        return null;
    }

    /// <summary>Notes a write of <paramref name="value"/>; says what is wrong with it, or null. Threads may write the same value at once.</summary>
    public string? Write(EmulatedWarp warp, int lane, ulong address, int size, void* value)
    {
        for (int done = 0; done < size; done += 4)
        {
            int length = Math.Min(4, size - done);
            ulong at = address + (ulong)done;
            bool changes = !new ReadOnlySpan<byte>(Data + at, length).SequenceEqual(new ReadOnlySpan<byte>((byte*)value + done, length));
            if (Note(warp, Record(warp.Index, lane, Bytes(address, size - done)), at >> 2, changes) is { } problem)
                return problem;
        }
        return null;
    }

    /// <summary>Notes an atomic read and write; says what is wrong with it, or null.</summary>
    public string? ReadModifyWrite(EmulatedWarp warp, ulong address, int size)
    {
        for (int done = 0; done < size; done += 4)
        {
            int bytes = Bytes(address, size - done);
            ulong word = (address + (ulong)done) >> 2;
            if ((initialised[word] & bytes) != bytes)
                return "reads shared memory that no thread of the block has written";
            if (Note(warp, Record(Atomic, 0, bytes), word, changes: true) is { } problem)
                return problem;
        }
        return null;
    }

    /// <summary>Counts a copy as under way (or, with -1, as arrived) that will write 16 bytes or less.</summary>
    public void Pend(ulong address, int size, int change)
    {
        for (int done = 0; done < size; done += 4)
            pending[(address + (ulong)done) >> 2] += (byte)change;
    }

    string? Note(EmulatedWarp warp, int mine, ulong word, bool changes)
    {
        if (pending[word] != 0)
            return "writes shared memory that cp.async is still copying to; wait for its group first";
        if (changes && warp.Block.Launch.Options.CheckSharedRaces)
        {
            if (Unordered(writeTimes[word], writers[word], mine, warp))
                return $"shared memory race: overwrites what {Who(writers[word])} wrote, without a barrier between";
            if (Unordered(readTimes[word], readers[word], mine, warp))
                return $"shared memory race: overwrites what {Who(readers[word])} read, without a barrier between";
        }
        initialised[word] |= (byte)(mine & AllBytes);
        bool again = IsSame(writers[word], mine) && writeTimes[word] == warp.Time;
        writers[word] = again ? writers[word] | mine : mine;
        writeTimes[word] = warp.Time;
        return null;
    }

    static int Bytes(ulong address, int size) => size >= 4 ? AllBytes : ((1 << size) - 1) << (int)(address & 3);

    /// <summary>
    /// Whether nothing orders an earlier access to some of the same bytes and this one: no block barrier, and no warp barrier between
    /// lanes of one warp.
    /// </summary>
    static bool Unordered(int time, int earlier, int mine, EmulatedWarp warp)
    {
        if (time < warp.Block.EpochStart || IsSame(earlier, mine) || (earlier & mine & AllBytes) == 0)
            return false;
        return earlier >> WarpShift != warp.Index || time == warp.Time;
    }

    /// <summary>Who has read a word when a thread reads it after an earlier reader.</summary>
    static int Join(int time, int earlier, int mine, EmulatedWarp warp)
    {
        if (time < warp.Block.EpochStart || (earlier & AllBytes) != (mine & AllBytes) || earlier == mine)
            return mine;
        if (earlier >> WarpShift != warp.Index)
            return Record(SeveralWarps, 0, mine & AllBytes);
        return time == warp.Time ? Record(warp.Index, SeveralLanes, mine & AllBytes) : mine;
    }

    static bool IsSame(int a, int b) => (a ^ b) >> LaneShift == 0;

    static string Who(int record)
    {
        int warp = record >> WarpShift, lane = record >> LaneShift & 63;
        return warp == Atomic ? "an atomic operation"
            : warp == SeveralWarps || lane == SeveralLanes ? "other threads"
            : $"thread {(warp * EmulatedWarp.Size) + lane}";
    }
}
