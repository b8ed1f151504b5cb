using System.Text.Json;

namespace IlgpuPeft.Checkpoints;

/// <summary>The weights of a model folder, whether they lie in one safetensors file or in shards with an index.</summary>
public sealed class WeightFiles : IDisposable
{
    const string SingleName = "model.safetensors", IndexName = "model.safetensors.index.json";

    readonly List<Safetensors> shards = [];
    readonly Dictionary<string, Safetensors> shardOf = [];
    readonly List<TensorInfo> tensors = [];

    WeightFiles(string path) => Path = path;

    /// <summary>The path it was opened with.</summary>
    public string Path { get; }

    /// <summary>Every tensor: shard after shard, in the order of the data.</summary>
    public IReadOnlyList<TensorInfo> Tensors => tensors;

    /// <summary>Opens a model folder, or one safetensors file.</summary>
    /// <exception cref="CheckpointException">There are no safetensors weights, a file is damaged, or the index and the shards disagree.</exception>
    public static WeightFiles Open(string path)
    {
        var files = new WeightFiles(path);
        try
        {
            string single = System.IO.Path.Combine(path, SingleName), index = System.IO.Path.Combine(path, IndexName);
            if (!Directory.Exists(path))
            {
                files.AddWhole(path);
            }
            else if (File.Exists(single))
            {
                files.AddWhole(single);
            }
            else if (File.Exists(index))
            {
                files.AddShards(path, index);
            }
            else
            {
                string advice = Directory.EnumerateFiles(path, "*.bin").Any()
                    ? "It has PyTorch .bin files, which can run code when opened; convert them with transformers' save_pretrained(safe_serialization=True)."
                    : "Check the path, and that the download is complete.";
                throw new CheckpointException(path, null, $"has neither {SingleName} nor {IndexName}. {advice}");
            }

            return files;
        }
        catch
        {
            files.Dispose();
            throw;
        }
    }

    /// <summary>The tensor of this name, or null.</summary>
    public TensorInfo? Find(string name) => shardOf.TryGetValue(name, out var shard) ? shard.Find(name) : null;

    /// <summary>Path of the file that holds tensor <paramref name="name"/>, for messages; the folder if there is no such tensor.</summary>
    public string FileOf(string name) => shardOf.TryGetValue(name, out var shard) ? shard.Path : Path;

    /// <summary>The bytes of a tensor, as <see cref="Safetensors.Bytes"/>.</summary>
    public ReadOnlySpan<byte> Bytes(string name, long offset = 0, long length = -1) => Shard(name).Bytes(name, offset, length);

    /// <summary>Reads a floating tensor, as <see cref="Safetensors.Read"/>.</summary>
    public void Read(string name, Span<float> destination, long first = 0) => Shard(name).Read(name, destination, first);

    /// <summary>Lets the system take back a tensor's memory, as <see cref="Safetensors.Release"/>.</summary>
    public void Release(string name) => Shard(name).Release(name);

    /// <summary>Unmaps every file.</summary>
    public void Dispose()
    {
        foreach (var shard in shards)
        {
            shard.Dispose();
        }
    }

    /// <summary>The file that holds tensor <paramref name="name"/>.</summary>
    internal Safetensors Shard(string name) =>
        shardOf.TryGetValue(name, out var shard) ? shard : throw new CheckpointException(Path, name, "no such tensor in this checkpoint.");

    void AddWhole(string file)
    {
        var shard = OpenShard(file);
        foreach (var info in shard.Tensors)
        {
            shardOf.Add(info.Name, shard);
            tensors.Add(info);
        }
    }

    void AddShards(string folder, string index)
    {
        if (!JsonFile.ReadObject(index).TryGetProperty("weight_map", out var map) || map.ValueKind != JsonValueKind.Object)
        {
            throw new CheckpointException(index, null, "has no weight_map object. The file is damaged; fetch it again.");
        }

        var byFile = new Dictionary<string, Safetensors>();
        foreach (var entry in map.EnumerateObject())
        {
            string file = ShardName(index, entry);
            if (!byFile.TryGetValue(file, out var shard))
            {
                byFile.Add(file, shard = OpenShard(System.IO.Path.Combine(folder, file)));
            }

            if (shard.Find(entry.Name) is null)
            {
                throw new CheckpointException(index, entry.Name, $"is said to be in {file}, which has no such tensor. The folder mixes two checkpoints; fetch it again.");
            }

            shardOf.Add(entry.Name, shard);
        }

        foreach (var (_, shard) in byFile.OrderBy(pair => pair.Key, StringComparer.Ordinal))
        {
            tensors.AddRange(shard.Tensors.Where(info => shardOf.TryGetValue(info.Name, out var owner) && owner == shard));
        }
    }

    /// <summary>The file an index entry names: a plain name, so that an index cannot reach outside its folder.</summary>
    static string ShardName(string index, JsonProperty entry)
    {
        string? file = entry.Value.ValueKind == JsonValueKind.String ? entry.Value.GetString() : null;
        if (file is null || !file.EndsWith(".safetensors", StringComparison.Ordinal) || file.AsSpan().IndexOfAny('/', '\\', ':') >= 0)
        {
            throw new CheckpointException(index, entry.Name, $"is mapped to {entry.Value.GetRawText()}, expected the name of a .safetensors file in the same folder.");
        }

        return file;
    }

    Safetensors OpenShard(string file)
    {
        var shard = Safetensors.Open(file);
        shards.Add(shard);
        return shard;
    }
}
