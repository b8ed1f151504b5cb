namespace IlgpuPeft.Kernels;

/// <summary>
/// Cuts a range into the tasks of one job. The cuts follow from the shape alone, never from the number of threads: results do not either.
/// </summary>
readonly struct Partition
{
    /// <summary>Elements per task: 64 KiB of f32. Taking a task costs tens of nanoseconds, working through this many takes microseconds.</summary>
    const int Grain = 16384;

    /// <summary>Columns per task where threads share out columns: whole cache lines, so that no two threads write to one.</summary>
    const int ColumnGrain = 64;

    readonly long length, size;

    Partition(long length, long size)
    {
        this.length = length;
        this.size = size;
        Count = checked((int)((length + size - 1) / size));
    }

    /// <summary>Number of tasks.</summary>
    public int Count { get; }

    /// <summary>Independent elements.</summary>
    public static Partition Elements(long length) => new(length, Grain);

    /// <summary>At most <paramref name="most"/> tasks, for results that are held per task.</summary>
    public static Partition Elements(long length, int most) => new(length, Math.Max(Grain, (length + most - 1) / most));

    /// <summary>Whole rows of <paramref name="width"/> elements.</summary>
    public static Partition Rows(long rows, long width) => new(rows, Math.Max(1, Grain / width));

    /// <summary>Columns: every task goes over all rows in order, which fixes the order of sums over rows.</summary>
    public static Partition Columns(int width) => new(width, ColumnGrain);

    /// <summary>Task <paramref name="index"/> works on [Start, End).</summary>
    public (long Start, long End) this[int index] => (index * size, Math.Min(length, (index + 1) * size));
}
