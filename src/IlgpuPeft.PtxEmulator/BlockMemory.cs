using System.Runtime.InteropServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// A block's shared memory, and who touched each of its 4-byte words last: enough to recognise reads of memory that nobody wrote, reads
/// of data that is still being copied, and two threads that race. A word of which threads touch single bytes is split: its bytes are
/// noted one by one, until all threads have met and it is touched as a whole again.
/// </summary>
sealed unsafe partial class BlockMemory
{
    /// <summary>All bytes of a word, in a mask of them.</summary>
    public const int AllBytes = 15;

    /// <summary>In place of a lane: several of the warp.</summary>
    public const int SeveralLanes = 32;

    /// <summary>Behind the numbers of warps: threads of several.</summary>
    const int SeveralWarps = 64;

    /// <summary>A record is warp and lane, from the highest bits to the lowest, above the bits of a word's bytes, which are all set.</summary>
    const int LaneShift = 4, WarpShift = 10;

    /// <summary>In a record: it was an atomic operation; those do not race with each other.</summary>
    const int Atomic = 1 << 20;

    /// <summary>Among the copies under way: the word is split.</summary>
    const byte Split = 0x80;

    /// <summary>Vectors of eight words reach this far beyond the last.</summary>
    const int Padding = 8;

    readonly AlignedMemory memory;

    /// <summary>Notes of a word, and behind those of all words, four to a word, of single bytes.</summary>
    readonly int* writeTimes, readTimes, writers, readers;
    readonly byte* initialised, pending;

    public BlockMemory(int staticBytes, int dynamicBytes)
    {
        DynamicStart = (staticBytes + 15) / 16 * 16;
        Size = dynamicBytes > 0 ? DynamicStart + dynamicBytes : staticBytes;
        WordCount = ((Size + 3) / 4) + Padding;
        memory = new AlignedMemory((4L * WordCount) + (4L * sizeof(int) * NoteCount) + (2 * WordCount));
        Data = memory.Pointer;
        writeTimes = (int*)(Data + (4 * WordCount));
        readTimes = writeTimes + NoteCount;
        writers = readTimes + NoteCount;
        readers = writers + NoteCount;
        initialised = (byte*)(readers + NoteCount);
        pending = initialised + WordCount;
    }

    public byte* Data { get; }

    public int Size { get; }

    /// <summary>Where the part begins whose size the launch chooses.</summary>
    public int DynamicStart { get; }

    int WordCount { get; }

    int NoteCount => 5 * WordCount;

    /// <summary>Who touched a word.</summary>
    public static int Record(int warp, int lane) => (warp << WarpShift) | (lane << LaneShift) | AllBytes;

    /// <summary>For the next block, nothing is written and nothing pending. Records stay: they are older than all that the block does.</summary>
    public void Start()
    {
        NativeMemory.Clear(initialised, (nuint)WordCount);
        NativeMemory.Clear(pending, (nuint)WordCount);
    }

    /// <summary>Forgets who touched what.</summary>
    public void Forget() => NativeMemory.Clear(writeTimes, (nuint)(4L * sizeof(int) * NoteCount));

    /// <summary>Notes a read; says what is wrong with it, or null.</summary>
    public string? Read(EmulatedWarp warp, int lane, ulong address, int size)
    {
        int mine = Record(warp.Index, lane);
        int* notes = stackalloc int[4];
        for (int done = 0; done < size; done += 4)
        {
            int word = (int)((address + (ulong)done) >> 2), bytes = Bytes(address, size - done);
            if ((pending[word] & ~Split) != 0)
                return "reads shared memory that cp.async has not delivered yet; wait for its group first";
            if ((initialised[word] & bytes) != bytes)
                return "reads shared memory that no thread of the block has written";
            int count = Notes(word, bytes, warp.Block.EpochStart, notes);
            for (int i = 0; i < count; i++)
            {
                int note = notes[i];
                if (Unordered(writeTimes[note], writers[note], mine, warp) && warp.Block.Launch.Options.CheckSharedRaces)
                    return $"shared memory race: reads what {Who(writers[note])} wrote, without a barrier between";
                readers[note] = Join(readTimes[note], readers[note], mine, warp);
                readTimes[note] = warp.Time;
            }
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
            if (Note(warp, Record(warp.Index, lane), (int)(at >> 2), Bytes(address, size - done), changes) is { } problem)
                return problem;
        }
        return null;
    }

    /// <summary>Notes an atomic read and write; says what is wrong with it, or null.</summary>
    public string? ReadModifyWrite(EmulatedWarp warp, int lane, ulong address, int size)
    {
        for (int done = 0; done < size; done += 4)
        {
            int word = (int)((address + (ulong)done) >> 2), bytes = Bytes(address, size - done);
            if ((initialised[word] & bytes) != bytes)
                return "reads shared memory that no thread of the block has written";
            if (Note(warp, Record(warp.Index, lane) | Atomic, word, bytes, changes: true) is { } problem)
                return problem;
        }
        return null;
    }

    /// <summary>
    /// What a copy that starts now, and will write <paramref name="value"/> into whole words, races with, or null. It may write at any time from now on, so no access before it may be
    /// unordered; accesses behind it find it under way.
    /// </summary>
    public string? CopyRace(EmulatedWarp warp, int lane, ulong address, int size, void* value)
    {
        int mine = Record(warp.Index, lane);
        int* notes = stackalloc int[4];
        for (int done = 0; done < size; done += 4)
        {
            int word = (int)((address + (ulong)done) >> 2);
            bool changes = *(int*)(Data + (4 * word)) != ((int*)value)[done / 4];
            int count = Notes(word, AllBytes, warp.Block.EpochStart, notes);
            for (int i = 0; changes && i < count; i++)
                if (Race(warp, mine, notes[i]) is { } problem)
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

    string? Note(EmulatedWarp warp, int mine, int word, int bytes, bool changes)
    {
        if ((pending[word] & ~Split) != 0)
            return "writes shared memory that cp.async is still copying to; wait for its group first";
        int* notes = stackalloc int[4];
        int count = Notes(word, bytes, warp.Block.EpochStart, notes);
        for (int i = 0; i < count; i++)
        {
            int note = notes[i];
            bool bothAtomic = (mine & writers[note] & Atomic) != 0;
            if (changes && Race(warp, mine, note) is { } problem)
                return problem;
            writers[note] = bothAtomic ? Join(writeTimes[note], writers[note], mine, warp) | Atomic : mine;
            writeTimes[note] = warp.Time;
        }
        initialised[word] |= (byte)bytes;
        return null;
    }

    /// <summary>What a write of another value races with, or null.</summary>
    string? Race(EmulatedWarp warp, int mine, int note)
    {
        if (!warp.Block.Launch.Options.CheckSharedRaces)
            return null;
        if ((mine & writers[note] & Atomic) == 0 && Unordered(writeTimes[note], writers[note], mine, warp))
            return $"shared memory race: overwrites what {Who(writers[note])} wrote, without a barrier between";
        return Unordered(readTimes[note], readers[note], mine, warp)
            ? $"shared memory race: overwrites what {Who(readers[note])} read, without a barrier between"
            : null;
    }

    /// <summary>The notes that an access to bytes of a word must look at: the word's, or if it is or must be split those of its bytes.</summary>
    int Notes(int word, int bytes, int epochStart, int* notes)
    {
        int first = WordCount + (4 * word);
        if (bytes != AllBytes && (pending[word] & Split) == 0)
        {
            pending[word] |= Split;
            for (int i = first; i < first + 4; i++)
                (writeTimes[i], readTimes[i], writers[i], readers[i]) = (writeTimes[word], readTimes[word], writers[word], readers[word]);
        }
        else if (bytes == AllBytes && (pending[word] & Split) != 0 && IsOld(first, epochStart))
        {
            pending[word] &= unchecked((byte)~Split);
            writeTimes[word] = readTimes[word] = 0;
        }
        if ((pending[word] & Split) == 0)
        {
            notes[0] = word;
            return 1;
        }
        int count = 0;
        for (int i = 0; i < 4; i++)
            if ((bytes >> i & 1) != 0)
                notes[count++] = first + i;
        return count;
    }

    bool IsOld(int first, int epochStart)
    {
        for (int i = first; i < first + 4; i++)
            if (writeTimes[i] >= epochStart || readTimes[i] >= epochStart)
                return false;
        return true;
    }

    static int Bytes(ulong address, int size) => size >= 4 ? AllBytes : ((1 << size) - 1) << (int)(address & 3);

    /// <summary>
    /// Whether nothing orders an earlier access and this one: no barrier of the block or of a part of it, and no warp barrier between
    /// lanes of one warp. Where several warps made the earlier accesses, a barrier of a part may have ordered all of them.
    /// </summary>
    static bool Unordered(int time, int earlier, int mine, EmulatedWarp warp)
    {
        if (time < warp.Block.EpochStart || IsSame(earlier, mine))
            return false;
        int other = WarpOf(earlier);
        return other == warp.Index ? time == warp.Time : warp.Seen == null || (other < SeveralWarps && warp.Seen[other] <= time);
    }

    /// <summary>Who has read (or atomically changed) a word when a thread does so after an earlier one.</summary>
    static int Join(int time, int earlier, int mine, EmulatedWarp warp)
    {
        if (time < warp.Block.EpochStart || IsSame(earlier, mine))
            return mine;
        if (WarpOf(earlier) != warp.Index)
            return Record(SeveralWarps, 0);
        return time == warp.Time ? Record(warp.Index, SeveralLanes) : mine;
    }

    static bool IsSame(int a, int b) => ((a ^ b) & ~Atomic) >> LaneShift == 0;

    static int WarpOf(int record) => (record & ~Atomic) >> WarpShift;

    static string Who(int record)
    {
        int warp = WarpOf(record), lane = record >> LaneShift & 63;
        return warp == SeveralWarps || lane == SeveralLanes ? "other threads" : $"thread {(warp * EmulatedWarp.Size) + lane}";
    }
}
