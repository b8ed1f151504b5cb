namespace IlgpuPeft.PtxEmulator;

/// <summary>One device allocation. Freed ones stay in the table for a while, so that a late access is recognised.</summary>
sealed record Allocation(ulong Start, ulong Length, int Id)
{
    public bool Freed { get; set; }

    /// <summary>If it is a variable of a module, what owns its memory, and so lives as long as this.</summary>
    public ModuleVariables? Owner { get; init; }

    public bool Contains(ulong first, ulong end) => !Freed && first >= Start && end <= Start + Length;
}

/// <summary>The device's memory: every allocation by address.</summary>
/// <param name="capacity">Bytes that may be allocated at a time.</param>
sealed unsafe class AllocationTable(long capacity = long.MaxValue) : IDisposable
{
    /// <summary>Bytes of freed memory that are kept out of use.</summary>
    const long Quarantine = 64L << 20;

    readonly SortedList<ulong, Allocation> byStart = [];
    readonly Queue<Allocation> freed = new();
    readonly Lock gate = new();
    long freedBytes;
    int nextId;
    long used;

    /// <summary>Bytes that may still be allocated.</summary>
    public long FreeBytes => capacity - Volatile.Read(ref used);

    /// <exception cref="OutOfMemoryException">The device's memory is smaller than what is asked for and held.</exception>
    public Allocation Allocate(long bytes)
    {
        ulong length = (ulong)Math.Max(0, bytes);
        if (Interlocked.Add(ref used, (long)length) > capacity)
        {
            Interlocked.Add(ref used, -(long)length);
            throw new OutOfMemoryException($"PtxEmulator: an allocation of {length} bytes does not fit: {FreeBytes} of {capacity} bytes are free.");
        }
        var memory = System.Runtime.InteropServices.NativeMemory.AlignedAlloc((nuint)Math.Max(1, length), 256);
        lock (gate)
        {
            var allocation = new Allocation((ulong)memory, length, nextId++);
            byStart.Add(allocation.Start, allocation);
            return allocation;
        }
    }

    /// <summary>Makes a module's variables known, which are no allocations of this table.</summary>
    public void Include(ModuleVariables variables)
    {
        lock (gate)
            foreach (var (address, length) in variables.Places)
                byStart.TryAdd(address, new Allocation(address, (ulong)length, nextId++) { Owner = variables });
    }

    public void Free(Allocation allocation)
    {
        Interlocked.Add(ref used, -(long)allocation.Length);
        lock (gate)
        {
            allocation.Freed = true;
            freed.Enqueue(allocation);
            freedBytes += (long)allocation.Length;
            while (freedBytes > Quarantine)
            {
                var oldest = freed.Dequeue();
                freedBytes -= (long)oldest.Length;
                Release(oldest);
            }
        }
    }

    /// <summary>The last allocation, live or freed, that starts at or below an address.</summary>
    public Allocation? Find(ulong address)
    {
        lock (gate)
        {
            int low = 0, high = byStart.Count - 1;
            while (low <= high)
            {
                int middle = (low + high) / 2;
                if (byStart.Keys[middle] <= address)
                    low = middle + 1;
                else
                    high = middle - 1;
            }
            return high < 0 ? null : byStart.Values[high];
        }
    }

    /// <summary>Says why an access of <paramref name="size"/> bytes is not allowed, or null if it is.</summary>
    public string? Problem(ulong address, int size)
    {
        var near = Find(address);
        if (near != null && near.Contains(address, address + (ulong)size))
            return null;
        if (near != null && near.Freed && address < near.Start + near.Length)
            return $"buffer {near.Id} of {near.Length} bytes is used after it was freed";
        if (near != null && !near.Freed && address < near.Start + near.Length + (1 << 20))
            return $"out of bounds: {size} bytes at byte {address - near.Start} of buffer {near.Id}, which has {near.Length} bytes";
        return address < 4096 ? $"out of bounds: {size} bytes at a null address" : $"out of bounds: {size} bytes outside every buffer";
    }

    public void Dispose()
    {
        foreach (var allocation in byStart.Values.ToArray())
            Release(allocation);
    }

    void Release(Allocation allocation)
    {
        byStart.Remove(allocation.Start);
        if (allocation.Owner != null)
            return;
        System.Runtime.InteropServices.NativeMemory.AlignedFree((void*)allocation.Start);
    }
}
