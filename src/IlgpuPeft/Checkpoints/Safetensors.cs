using System.Buffers.Binary;
using System.IO.MemoryMappedFiles;
using System.Text.Json;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>
/// One safetensors file, mapped into memory: 8 bytes of header length, a JSON header, then the tensors end to end.
/// Nothing is copied until a tensor is read. The file must not be changed while it is open.
/// </summary>
public sealed unsafe class Safetensors : IDisposable
{
    // The limit of the format's own reader.
    const long MaxHeaderBytes = 100_000_000;

    readonly MemoryMappedFile? file;
    readonly MemoryMappedViewAccessor? view;
    readonly Dictionary<string, (TensorInfo Info, long Offset)> byName = [];
    byte* start;

    Safetensors(string path)
    {
        Path = path;
        long length = new FileInfo(path).Length;
        if (length < 8)
        {
            throw Damaged($"has {length} bytes, expected at least the 8 of the header length");
        }

        try
        {
            file = MemoryMappedFile.CreateFromFile(path, FileMode.Open, null, 0, MemoryMappedFileAccess.Read);
            view = file.CreateViewAccessor(0, 0, MemoryMappedFileAccess.Read);
            view.SafeMemoryMappedViewHandle.AcquirePointer(ref start);
            ulong headerLength = BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(start, 8));
            if (headerLength > MaxHeaderBytes)
            {
                throw Damaged($"says its header has {headerLength} bytes, expected at most {MaxHeaderBytes}");
            }

            if ((long)headerLength > length - 8)
            {
                throw Damaged($"says its header has {headerLength} bytes, but only {length - 8} follow");
            }

            var header = JsonFile.ParseObject(new ReadOnlySpan<byte>(start + 8, (int)headerLength).ToArray(), path, null);
            (Tensors, Metadata) = ReadHeader(header, 8 + (long)headerLength, length);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>The path it was opened with.</summary>
    public string Path { get; }

    /// <summary>Every tensor in the order of its data.</summary>
    public IReadOnlyList<TensorInfo> Tensors { get; }

    /// <summary>The header's free-form text entries; transformers writes <c>format = pt</c>.</summary>
    public IReadOnlyDictionary<string, string> Metadata { get; }

    /// <summary>Opens a file and checks its whole header.</summary>
    /// <exception cref="CheckpointException">The file is missing, unreadable, truncated, or its header is not valid.</exception>
    public static Safetensors Open(string path)
    {
        if (!File.Exists(path))
        {
            throw new CheckpointException(path, null, "no such file.");
        }

        try
        {
            return new Safetensors(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CheckpointException(path, null, $"could not be read. {e.Message}", e);
        }
    }

    /// <summary>The tensor of this name, or null.</summary>
    public TensorInfo? Find(string name) => byName.TryGetValue(name, out var entry) ? entry.Info : null;

    /// <summary>
    /// The bytes of tensor <paramref name="name"/>, without a copy; valid until this is disposed. A span holds 2 GB:
    /// of larger tensors, take parts.
    /// </summary>
    /// <param name="name">The tensor.</param>
    /// <param name="offset">First byte.</param>
    /// <param name="length">How many bytes; −1 for all the rest.</param>
    /// <exception cref="CheckpointException">There is no such tensor.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The range leaves the tensor, or is 2 GB or more.</exception>
    public ReadOnlySpan<byte> Bytes(string name, long offset = 0, long length = -1)
    {
        ObjectDisposedException.ThrowIf(start is null, this);
        var (info, position) = Entry(name);
        length = length < 0 ? info.Bytes - offset : length;
        if (offset < 0 || length < 0 || offset > info.Bytes - length || length > int.MaxValue)
        {
            throw new ArgumentOutOfRangeException(nameof(length),
                $"Safetensors.Bytes: {name} has {info.Bytes} bytes, and [{offset}, {offset + length}) is outside or longer than a span can be.");
        }

        return new ReadOnlySpan<byte>(start + position + offset, (int)length);
    }

    /// <summary>Reads elements of a floating tensor as 32-bit floats, from element <paramref name="first"/> until <paramref name="destination"/> is full.</summary>
    /// <exception cref="CheckpointException">There is no such tensor, or it is not of a floating type.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The range leaves the tensor.</exception>
    public void Read(string name, Span<float> destination, long first = 0)
    {
        var info = Entry(name).Info;
        if (!FloatCodec.IsFloat(info.Type))
        {
            throw new CheckpointException(Path, name, $"is {info.TypeName}, expected F32, F16, BF16 or F64.");
        }

        int size = TensorInfo.SizeOf(info.TypeName)!.Value;
        const int piece = 1 << 26; // elements: keeps the byte count of an F64 piece within a span
        for (int done = 0; done < destination.Length;)
        {
            int count = Math.Min(piece, destination.Length - done);
            var bytes = Bytes(name, checked((first + done) * size), (long)count * size);
            FloatCodec.Decode(info.Type!.Value, bytes, destination.Slice(done, count));
            done += count;
        }
    }

    /// <summary>
    /// Lets the system take back the memory of a tensor's pages, which are clean copies of the file and come back when read again: without this, a loader's
    /// resident memory grows by the whole file. Does nothing where the system has no such call.
    /// </summary>
    public void Release(string name)
    {
        if (OperatingSystem.IsLinux())
        {
            var (info, position) = Entry(name);
            nint first = (nint)(start + position) / Environment.SystemPageSize * Environment.SystemPageSize;
            _ = Advise(first, (nuint)((nint)(start + position) + (nint)info.Bytes - first), DoNotNeed);
        }
    }

    const int DoNotNeed = 4; // MADV_DONTNEED

    [System.Runtime.InteropServices.DllImport("libc", EntryPoint = "madvise")]
    [System.Runtime.InteropServices.DefaultDllImportSearchPaths(System.Runtime.InteropServices.DllImportSearchPath.SafeDirectories)]
    static extern int Advise(nint address, nuint length, int advice);

    /// <summary>Unmaps the file. Spans that were taken from it are no longer valid.</summary>
    public void Dispose()
    {
        if (start is not null)
        {
            start = null;
            view!.SafeMemoryMappedViewHandle.ReleasePointer();
        }

        view?.Dispose();
        file?.Dispose();
    }

    (TensorInfo Info, long Offset) Entry(string name) =>
        byName.TryGetValue(name, out var entry) ? entry : throw new CheckpointException(Path, name, "no such tensor in this file.");

    (List<TensorInfo>, Dictionary<string, string>) ReadHeader(JsonElement header, long dataStart, long fileLength)
    {
        var metadata = new Dictionary<string, string>();
        var entries = new List<(TensorInfo Info, long Begin, long End)>();
        foreach (var property in header.EnumerateObject())
        {
            if (property.Name == "__metadata__")
            {
                ReadMetadata(property.Value, metadata);
            }
            else
            {
                entries.Add(ReadEntry(property.Name, property.Value));
            }
        }

        // Tensors lie end to end: no overlap, no gap in which data could hide, nothing after the last.
        entries.Sort((a, b) => (a.Begin, a.End).CompareTo((b.Begin, b.End)));
        long position = 0;
        foreach (var (info, begin, end) in entries)
        {
            if (begin != position)
            {
                throw Damaged($"starts at byte {begin} of the data, expected {position}, where the tensor before it ends", info.Name);
            }

            byName.Add(info.Name, (info, dataStart + begin));
            position = end;
        }

        if (position != fileLength - dataStart)
        {
            throw Damaged($"has {fileLength - dataStart} bytes of data, expected the {position} that its header describes");
        }

        return (entries.ConvertAll(entry => entry.Info), metadata);
    }

    void ReadMetadata(JsonElement value, Dictionary<string, string> metadata)
    {
        if (value.ValueKind != JsonValueKind.Object)
        {
            throw Damaged($"has a __metadata__ that is a JSON {value.ValueKind}, expected an object");
        }

        foreach (var property in value.EnumerateObject())
        {
            metadata[property.Name] = property.Value.ValueKind == JsonValueKind.String
                ? property.Value.GetString()!
                : throw Damaged($"has metadata {property.Name} that is a JSON {property.Value.ValueKind}, expected a string");
        }
    }

    (TensorInfo Info, long Begin, long End) ReadEntry(string name, JsonElement entry)
    {
        if (entry.ValueKind != JsonValueKind.Object
            || !entry.TryGetProperty("dtype", out var dtype) || dtype.ValueKind != JsonValueKind.String
            || !entry.TryGetProperty("shape", out var shape) || Integers(shape) is not { } extents
            || !entry.TryGetProperty("data_offsets", out var offsets) || Integers(offsets) is not [long begin, long end])
        {
            throw Damaged("has a header entry without dtype, shape and two data_offsets, all non-negative", name);
        }

        string typeName = dtype.GetString()!;
        if (TensorInfo.SizeOf(typeName) is null)
        {
            throw new CheckpointException(Path, name, $"has element type {typeName}, which is not supported. Convert the file to BF16 or F32.");
        }

        var info = new TensorInfo(name, typeName, extents);
        long bytes;
        try
        {
            bytes = info.Bytes;
        }
        catch (OverflowException)
        {
            throw Damaged($"has shape {info.ShapeText}, whose size exceeds 64 bits", name);
        }

        if (end < begin || end - begin != bytes)
        {
            throw Damaged($"has data_offsets [{begin}, {end}], expected {bytes} bytes for {typeName} {info.ShapeText}", name);
        }

        return (info, begin, end);
    }

    /// <summary>The elements of an array of non-negative integers, or null if it is anything else.</summary>
    static long[]? Integers(JsonElement array)
    {
        if (array.ValueKind != JsonValueKind.Array)
        {
            return null;
        }

        var values = new long[array.GetArrayLength()];
        int i = 0;
        foreach (var element in array.EnumerateArray())
        {
            if (element.ValueKind != JsonValueKind.Number || !element.TryGetInt64(out values[i]) || values[i++] < 0)
            {
                return null;
            }
        }

        return values;
    }

    CheckpointException Damaged(string problem, string? tensor = null) =>
        new(Path, tensor, $"{problem}. The file is damaged or incomplete; fetch it again.");
}
