namespace IlgpuPeft.Kernels;

/// <summary>Who holds how much device memory, now and at most. Allocation happens on one thread: the one that owns the backend.</summary>
public sealed class MemoryAccount
{
    readonly Dictionary<nint, (string Owner, long Bytes)> allocations = [];
    readonly SortedDictionary<string, long> byOwner = [];

    /// <summary>Bytes held now.</summary>
    public long Live { get; private set; }

    /// <summary>The most that was ever held.</summary>
    public long Peak { get; private set; }

    /// <summary>How many allocations were ever made: steady state makes none.</summary>
    public long Allocations { get; private set; }

    /// <summary>Bytes held now, by owner.</summary>
    public IReadOnlyDictionary<string, long> ByOwner => byOwner;

    /// <summary>Bytes as a person reads them: 1,024-based, three digits.</summary>
    public static string Format(long bytes) => bytes switch
    {
        < 1L << 10 => $"{bytes} B",
        < 1L << 20 => $"{bytes / 1024.0:0.#} KiB",
        < 1L << 30 => $"{bytes / 1048576.0:0.#} MiB",
        _ => $"{bytes / 1073741824.0:0.##} GiB",
    };

    /// <inheritdoc />
    public override string ToString() =>
        $"{Format(Live)} ({string.Join(", ", byOwner.Where(x => x.Value > 0).OrderByDescending(x => x.Value).Select(x => $"{x.Key} {Format(x.Value)}"))})";

    internal void Add(string owner, nint address, long bytes)
    {
        allocations.Add(address, (owner, bytes));
        byOwner[owner] = byOwner.GetValueOrDefault(owner) + bytes;
        Live += bytes;
        Peak = Math.Max(Peak, Live);
        Allocations++;
    }

    internal void Remove(nint address)
    {
        if (!allocations.Remove(address, out var held))
        {
            throw new InvalidOperationException($"Backend.Free: address 0x{address:x} is not held. Free each allocation once, and not a range of it.");
        }

        byOwner[held.Owner] -= held.Bytes;
        Live -= held.Bytes;
    }

    internal List<nint> Clear()
    {
        List<nint> held = [.. allocations.Keys];
        allocations.Clear();
        byOwner.Clear();
        Live = 0;
        return held;
    }
}
