using IlgpuPeft.Kernels;

namespace IlgpuPeft.Models;

/// <summary>Keys (after RoPE) and values of the tokens generated so far: per layer [sequences · capacity, G · C], reserved once.</summary>
public sealed class KvCache : IDisposable
{
    readonly Backend backend;
    readonly int[] lengths;
    readonly (Slice Keys, Slice Values)[] layers;

    /// <summary>Reserves room for <paramref name="sequences"/> sequences of up to <paramref name="capacity"/> tokens.</summary>
    public KvCache(Backend backend, ModelConfig config, int sequences, int capacity)
    {
        this.backend = backend;
        Capacity = capacity;
        lengths = new int[sequences];
        long length = (long)sequences * capacity * config.KeyValueHeads * config.HeadWidth;
        layers = new (Slice, Slice)[config.Layers];
        try
        {
            for (int i = 0; i < layers.Length; i++)
            {
                layers[i].Keys = backend.Allocate(backend.Activation, length, "kv cache");
                layers[i].Values = backend.Allocate(backend.Activation, length, "kv cache");
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Tokens that each sequence has room for.</summary>
    public int Capacity { get; }

    /// <summary>Tokens that each sequence holds.</summary>
    public ReadOnlySpan<int> Lengths => lengths;

    /// <summary>Keys and values of one layer.</summary>
    public (Slice Keys, Slice Values) this[int layer] => layers[layer];

    /// <summary>Forgets all but the first <paramref name="length"/> tokens of a sequence.</summary>
    public void Rewind(int sequence, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, lengths[sequence]);
        lengths[sequence] = length;
    }

    /// <inheritdoc />
    public void Dispose()
    {
        foreach (var (keys, values) in layers)
        {
            backend.Free(keys);
            backend.Free(values);
        }

        Array.Clear(layers);
    }

    /// <summary>Makes room for <paramref name="count"/> more tokens and returns how many there were.</summary>
    internal int Extend(int sequence, int count)
    {
        int before = lengths[sequence];
        if (before + count > Capacity)
        {
            throw new ArgumentException($"KvCache: sequence {sequence} would hold {before + count} tokens, expected at most {Capacity}. Shorten the prompt or ask for fewer new tokens.");
        }

        lengths[sequence] = before + count;
        return before;
    }
}
