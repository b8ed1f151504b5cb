using System.Runtime.InteropServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// A block's shared memory, and for each of its 4-byte words who touched it last: enough to recognise reads of memory that nobody
/// wrote, reads of data that is still being copied, and two threads that race. Of several writers of different bytes of one word
/// only the last is known, so a race between sub-word accesses can be missed; none is reported that is not there.
/// </summary>
sealed unsafe class BlockMemory : IDisposable
{
    /// <summary>In place of a thread: threads of several warps.</summary>
    const short Many = -1;

    /// <summary>In place of a thread: several lanes of warp w are this minus w.</summary>
    const short ManyOfWarp = -16;

    struct Word
    {
        public int WriteEpoch, WriteTime, ReadEpoch, ReadTime;
        public short Writer, Reader;
        public byte Initialised, WriteBytes, ReadBytes, Pending;

        /// <summary>Whether the writer was an atomic operation; those do not race with each other.</summary>
        public bool WriteAtomic;
    }

    readonly Word* words;

    public BlockMemory(int staticBytes, int dynamicBytes)
    {
        DynamicStart = (staticBytes + 15) / 16 * 16;
        Size = dynamicBytes > 0 ? DynamicStart + dynamicBytes : staticBytes;
        Data = (byte*)NativeMemory.AlignedAlloc((nuint)Size + 16, 16);
        words = (Word*)NativeMemory.AlignedAlloc((nuint)(WordCount * sizeof(Word)) + 16, 16);
    }

    public byte* Data { get; }

    public int Size { get; }

    /// <summary>Where the part begins whose size the launch chooses.</summary>
    public int DynamicStart { get; }

    int WordCount => (Size + 3) / 4;

    /// <summary>Forgets everything, for the next block.</summary>
    public void Start()
    {
        NativeMemory.Clear(Data, (nuint)Size);
        NativeMemory.Clear(words, (nuint)(WordCount * sizeof(Word)));
        for (int i = 0; i < WordCount; i++)
            words[i].WriteEpoch = words[i].ReadEpoch = -1;
    }

    /// <summary>Notes a read; says what is wrong with it, or null.</summary>
    public string? Read(EmulatedWarp warp, int lane, ulong address, int size)
    {
        short thread = (short)((warp.Index * EmulatedWarp.Size) + lane);
        int epoch = warp.Block.Epoch;
        for (int done = 0; done < size; done += 4)
        {
            ref var word = ref words[(address + (ulong)done) >> 2];
            int bytes = Bytes(address, size - done);
            if (word.Pending != 0)
                return "reads shared memory that cp.async has not delivered yet; wait for its group first";
            if ((word.Initialised & bytes) != bytes)
                return "reads shared memory that no thread of the block has written";
            if ((word.WriteBytes & bytes) != 0 && Unordered(word.WriteEpoch, word.WriteTime, word.Writer, warp, thread)
                && warp.Block.Launch.Options.CheckSharedRaces)
                return $"shared memory race: reads what {Who(word.Writer)} wrote, without a barrier between";
            bool sameBytes = word.ReadEpoch == epoch && word.ReadBytes == bytes;
            word.Reader = sameBytes ? Join(word.Reader, word.ReadTime, thread, warp) : thread;
            word.ReadBytes = (byte)bytes;
            (word.ReadEpoch, word.ReadTime) = (epoch, warp.Time);
        }
        return null;
    }

    /// <summary>Notes a write of <paramref name="value"/>; says what is wrong with it, or null. Threads may write the same value at once.</summary>
    public string? Write(EmulatedWarp warp, int lane, ulong address, int size, void* value)
    {
        short thread = (short)((warp.Index * EmulatedWarp.Size) + lane);
        for (int done = 0; done < size; done += 4)
        {
            int bytes = Bytes(address, size - done), length = Math.Min(4, size - done);
            ulong at = address + (ulong)done;
            bool changes = !new ReadOnlySpan<byte>(Data + at, length).SequenceEqual(new ReadOnlySpan<byte>((byte*)value + done, length));
            if (Note(warp, thread, at, bytes, changes) is { } problem)
                return problem;
        }
        return null;
    }

    /// <summary>Notes an atomic read and write; says what is wrong with it, or null.</summary>
    public string? ReadModifyWrite(EmulatedWarp warp, int lane, ulong address, int size)
    {
        short thread = (short)((warp.Index * EmulatedWarp.Size) + lane);
        for (int done = 0; done < size; done += 4)
        {
            int bytes = Bytes(address, size - done);
            ulong at = address + (ulong)done;
            if ((words[at >> 2].Initialised & bytes) != bytes)
                return "reads shared memory that no thread of the block has written";
            if (Note(warp, thread, at, bytes, changes: true, atomic: true) is { } problem)
                return problem;
        }
        return null;
    }

    /// <summary>Counts a copy as under way (or, with -1, as arrived) that will write 16 bytes or less.</summary>
    public void Pend(ulong address, int size, int change)
    {
        for (int done = 0; done < size; done += 4)
            words[(address + (ulong)done) >> 2].Pending += (byte)change;
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(Data);
        NativeMemory.AlignedFree(words);
    }

    string? Note(EmulatedWarp warp, short thread, ulong address, int bytes, bool changes, bool atomic = false)
    {
        ref var word = ref words[address >> 2];
        if (word.Pending != 0)
            return "writes shared memory that cp.async is still copying to; wait for its group first";
        if (changes && warp.Block.Launch.Options.CheckSharedRaces)
        {
            if (!(atomic && word.WriteAtomic) && (word.WriteBytes & bytes) != 0 && Unordered(word.WriteEpoch, word.WriteTime, word.Writer, warp, thread))
                return $"shared memory race: overwrites what {Who(word.Writer)} wrote, without a barrier between";
            if ((word.ReadBytes & bytes) != 0 && Unordered(word.ReadEpoch, word.ReadTime, word.Reader, warp, thread))
                return $"shared memory race: overwrites what {Who(word.Reader)} read, without a barrier between";
        }
        word.Initialised |= (byte)bytes;
        bool again = word.Writer == thread && word.WriteEpoch == warp.Block.Epoch && word.WriteTime == warp.Time;
        word.WriteBytes = (byte)(again ? word.WriteBytes | bytes : bytes);
        bool among = atomic && word.WriteAtomic && word.WriteEpoch == warp.Block.Epoch;
        word.Writer = among ? Join(word.Writer, word.WriteTime, thread, warp) : thread;
        word.WriteAtomic = atomic;
        (word.WriteEpoch, word.WriteTime) = (warp.Block.Epoch, warp.Time);
        return null;
    }

    static int Bytes(ulong address, int size) => size >= 4 ? 15 : ((1 << size) - 1) << (int)(address & 3);

    /// <summary>
    /// Whether nothing orders an earlier access and this one: no barrier of the block or of a part of it, and no warp barrier between
    /// lanes of one warp. Where several warps made the earlier accesses, a barrier of a part may have ordered all of them.
    /// </summary>
    static bool Unordered(int epoch, int time, short earlier, EmulatedWarp warp, short thread)
    {
        if (epoch != warp.Block.Epoch || earlier == thread)
            return false;
        int other = WarpOf(earlier);
        return other == warp.Index ? time == warp.Time : warp.Seen == null || (other >= 0 && warp.Seen[other] <= time);
    }

    /// <summary>Who has read (or atomically changed) a word when a thread does so after an earlier one.</summary>
    static short Join(short earlier, int time, short thread, EmulatedWarp warp)
    {
        if (earlier == thread)
            return thread;
        if (WarpOf(earlier) != warp.Index)
            return Many;
        return time == warp.Time ? (short)(ManyOfWarp - warp.Index) : thread;
    }

    static int WarpOf(short thread) => thread >= 0 ? thread / EmulatedWarp.Size : thread <= ManyOfWarp ? ManyOfWarp - thread : -1;

    static string Who(short thread) => thread < 0 ? "other threads" : $"thread {thread}";
}
