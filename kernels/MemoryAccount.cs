namespace IlgpuPeft.Kernels;

/// <summary>
/// Who holds how much device memory, now and at most: exactly what <see cref="Backend.Allocate"/> handed out. Left out are what kernels keep for themselves
/// (<see cref="Backend.ScratchBytes"/>), the files that are mapped while a model loads, and the managed heap; alignment (at most 264 bytes an allocation) is not counted either.
/// Allocation happens on one thread: the one that owns the backend.
/// </summary>
public sealed class MemoryAccount
{
    readonly Dictionary<nint, (string Owner, Slice Slice, long Bytes)> allocations = [];
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

    /// <summary>The error of an allocation that does not fit: what was asked for, what is free and held, and which settings make room.</summary>
    internal DeviceMemoryException NoRoom(string device, long bytes, string owner, (long Free, long Total)? room, Exception cause)
    {
        string free = room is { } known ? $", {Format(known.Free)} of {Format(known.Total)} are free" : "";
        return new($"{device}: no room for {Format(bytes)} of {owner}{free}. Held now: {this}. {Advice(owner)}", cause);
    }

    // The settings of the owner that holds most, and of the one that asks.
    string Advice(string asking)
    {
        string largest = byOwner.Count == 0 ? asking : byOwner.MaxBy(x => x.Value).Key;
        return string.Join(' ', new[] { largest, asking }.Distinct().Select(owner => owner switch
        {
            "weights" => "Weights: turn on load_in_4bit.",
            "optimizer" => "Optimizer: set optimizer to adamw_8bit, or lower lora_r.",
            "adapters" or "gradients" => "Adapters and gradients: lower lora_r.",
            "kv cache" => "KV cache: ask for fewer new tokens or fewer sequences at once, or shorten the prompt.",
            _ => "Activations: lower micro_batch_size or sequence_len, or turn on gradient_checkpointing.",
        }).Distinct());
    }

    internal void Add(string owner, Slice slice, long bytes)
    {
        allocations.Add(slice.Address, (owner, slice, bytes));
        byOwner[owner] = byOwner.GetValueOrDefault(owner) + bytes;
        Live += bytes;
        Peak = Math.Max(Peak, Live);
        Allocations++;
    }

    internal void Remove(Slice slice)
    {
        // An address comes back after it was freed: only the same length and type tell a second free of the old allocation from a first one of the new.
        if (!allocations.TryGetValue(slice.Address, out var held) || held.Slice != slice)
        {
            throw new InvalidOperationException($"Backend.Free: {slice.Length} elements of {slice.Type} at 0x{slice.Address:x} are not held. Free each allocation once, and not a range of it.");
        }

        allocations.Remove(slice.Address);
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
