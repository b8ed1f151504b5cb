using System.Buffers;
using System.Buffers.Binary;
using System.Text.Encodings.Web;
using System.Text.Json;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>One tensor of a file to be written, whose bytes are produced only when its turn comes.</summary>
/// <param name="Info">Name, element type and shape.</param>
/// <param name="Write">Puts exactly <see cref="TensorInfo.Bytes"/> bytes into the stream.</param>
public sealed record TensorSource(TensorInfo Info, Action<Stream> Write)
{
    const int PieceElements = 1 << 16;

    /// <summary>A tensor whose bytes are at hand.</summary>
    public static TensorSource OfBytes(TensorInfo info, ReadOnlyMemory<byte> bytes) => new(info, stream => stream.Write(bytes.Span));

    /// <summary>A tensor of a floating type, converted piece by piece from <paramref name="values"/>, which is called when its turn comes.</summary>
    public static TensorSource OfFloats(TensorInfo info, Func<ReadOnlyMemory<float>> values) => new(info, stream =>
    {
        var type = info.Type ?? throw new ArgumentException($"TensorSource: {info.Name} is {info.TypeName}, expected a floating type.");
        var source = values().Span;
        Span<byte> piece = new byte[Math.Min(PieceElements, source.Length) * type.Size()];
        for (int done = 0; done < source.Length; done += PieceElements)
        {
            var part = source.Slice(done, Math.Min(PieceElements, source.Length - done));
            var bytes = piece[..(part.Length * type.Size())];
            FloatCodec.Encode(type, part, bytes);
            stream.Write(bytes);
        }
    });

    /// <summary>A tensor read from a device slice of as many elements, piece by piece, and converted there where <paramref name="info"/> has another floating type.</summary>
    /// <exception cref="ArgumentException">The lengths differ, or types differ that are not both floating.</exception>
    public static TensorSource OfDevice(Backend backend, TensorInfo info, Slice source)
    {
        if (info.Count != source.Length || info.Type is not { } type || (type != source.Type && !(FloatCodec.IsFloat(type) && FloatCodec.IsFloat(source.Type))))
        {
            throw new ArgumentException($"TensorSource: {info.Name} is {info.TypeName} {info.ShapeText}, expected what {source.Length} elements of {source.Type} convert to.", nameof(source));
        }

        return new(info, stream => DeviceTransfer.Download(backend, source, type, stream));
    }

    /// <summary>A floating tensor of an open checkpoint, converted piece by piece; the checkpoint must stay open until it has been written.</summary>
    /// <exception cref="ArgumentException">One of the types is not floating.</exception>
    public static TensorSource Convert(WeightFiles files, TensorInfo info, DType type)
    {
        if (!FloatCodec.IsFloat(info.Type) || !FloatCodec.IsFloat(type))
        {
            throw new ArgumentException($"TensorSource: {info.Name} is {info.TypeName}, to become {type}; expected two floating types.", nameof(info));
        }

        return new(info with { TypeName = type.ToString() }, stream =>
        {
            int room = (int)Math.Min(PieceElements, info.Count);
            var (values, bytes) = (new float[room], new byte[room * type.Size()]);
            foreach (var (first, count) in Transfers.Pieces(info.Count, PieceElements))
            {
                files.Read(info.Name, values.AsSpan(0, count), first);
                FloatCodec.Encode(type, values.AsSpan(0, count), bytes.AsSpan(0, count * type.Size()));
                stream.Write(bytes, 0, count * type.Size());
            }
        });
    }

    /// <summary>A tensor copied unchanged from an open checkpoint, which must stay open until it has been written.</summary>
    public static TensorSource Copy(WeightFiles files, TensorInfo info) => new(info, stream =>
    {
        const int piece = 1 << 24;
        for (long done = 0; done < info.Bytes; done += piece)
        {
            stream.Write(files.Bytes(info.Name, done, Math.Min(piece, info.Bytes - done)));
        }
    });
}

/// <summary>Writes safetensors files: atomically, one tensor at a time, in the order given.</summary>
public static class SafetensorsWriter
{
    static readonly IReadOnlyDictionary<string, string> PyTorch = new Dictionary<string, string> { ["format"] = "pt" };

    /// <summary>Writes <paramref name="tensors"/> to <paramref name="path"/>. Memory in use is that of the largest single tensor's source.</summary>
    /// <param name="path">The file to create or replace; on any failure an earlier file stays as it was.</param>
    /// <param name="tensors">In file order.</param>
    /// <param name="metadata">Free-form text entries; by default <c>format = pt</c>, without which transformers refuses the file.</param>
    /// <exception cref="ArgumentException">Two tensors have one name, a name is reserved, or a source wrote a wrong number of bytes.</exception>
    /// <exception cref="IOException">The file system refused; see <see cref="AtomicFile.Write"/>.</exception>
    public static void Write(string path, IReadOnlyList<TensorSource> tensors, IReadOnlyDictionary<string, string>? metadata = null)
    {
        byte[] header = Header(tensors, metadata ?? PyTorch);
        AtomicFile.Write(path, stream =>
        {
            Span<byte> length = stackalloc byte[8];
            BinaryPrimitives.WriteUInt64LittleEndian(length, (ulong)header.Length);
            stream.Write(length);
            stream.Write(header);
            foreach (var (info, write) in tensors)
            {
                long before = stream.Position;
                write(stream);
                if (stream.Position - before != info.Bytes)
                {
                    throw new ArgumentException(
                        $"SafetensorsWriter: {info.Name} wrote {stream.Position - before} bytes, expected {info.Bytes} for {info.TypeName} {info.ShapeText}.",
                        nameof(tensors));
                }
            }
        }, size: 8 + header.Length + tensors.Sum(tensor => tensor.Info.Bytes));
    }

    static byte[] Header(IReadOnlyList<TensorSource> tensors, IReadOnlyDictionary<string, string> metadata)
    {
        var buffer = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            if (metadata.Count > 0)
            {
                json.WriteStartObject("__metadata__");
                foreach (var (key, value) in metadata)
                {
                    json.WriteString(key, value);
                }

                json.WriteEndObject();
            }

            var names = new HashSet<string> { "__metadata__" };
            long offset = 0;
            foreach (var info in tensors.Select(tensor => tensor.Info))
            {
                if (!names.Add(info.Name))
                {
                    throw new ArgumentException($"SafetensorsWriter: the name {info.Name} occurs twice or is reserved, expected distinct names.", nameof(tensors));
                }

                json.WriteStartObject(info.Name);
                json.WriteString("dtype", info.TypeName);
                WriteIntegers(json, "shape", info.Shape);
                WriteIntegers(json, "data_offsets", [offset, offset + info.Bytes]);
                json.WriteEndObject();
                offset += info.Bytes;
            }

            json.WriteEndObject();
        }

        // Spaces up to a multiple of 8, so that the data starts aligned.
        int padded = (buffer.WrittenCount + 7) / 8 * 8;
        var header = new byte[padded];
        header.AsSpan().Fill((byte)' ');
        buffer.WrittenSpan.CopyTo(header);
        return header;
    }

    static void WriteIntegers(Utf8JsonWriter json, string name, IReadOnlyList<long> values)
    {
        json.WriteStartArray(name);
        foreach (long value in values)
        {
            json.WriteNumberValue(value);
        }

        json.WriteEndArray();
    }
}
