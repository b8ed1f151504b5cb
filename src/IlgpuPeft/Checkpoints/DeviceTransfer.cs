using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>Moves tensors of any size between files and a device, piece by piece: an embedding or an optimizer's moments may exceed what a span or an array holds.</summary>
static class DeviceTransfer
{
    /// <summary>Copies a whole tensor to a slice: unchanged if the types are the same, else as F32 to a slice of F32 or F64.</summary>
    /// <exception cref="CheckpointException">There is no such tensor, or it is not of the slice's length.</exception>
    public static void Upload(this WeightFiles files, string name, Backend backend, Slice destination, int piece = Transfers.PieceElements) =>
        files.Shard(name).Upload(name, backend, destination, piece);

    /// <inheritdoc cref="Upload(WeightFiles, string, Backend, Slice, int)" />
    public static void Upload(this Safetensors file, string name, Backend backend, Slice destination, int piece = Transfers.PieceElements)
    {
        var info = file.Find(name) ?? throw new CheckpointException(file.Path, name, "is missing.");
        if (info.Count != destination.Length)
        {
            throw new CheckpointException(file.Path, name, $"has shape {info.ShapeText}, expected {destination.Length} elements.");
        }

        int size = destination.Type.Size();
        var values = info.Type == destination.Type ? [] : new float[Math.Min(piece, info.Count)];
        foreach (var (first, count) in Transfers.Pieces(info.Count, piece))
        {
            var range = destination.Range(first, count);
            if (values.Length == 0)
            {
                backend.Upload(file.Bytes(name, first * size, (long)count * size), range);
                continue;
            }

            file.Read(name, values.AsSpan(0, count), first);
            backend.Write(values.AsSpan(0, count), range);
        }
    }

    /// <summary>Writes the elements of a slice to a stream as elements of <paramref name="type"/>, which the device rounds them to where it is not their own.</summary>
    public static void Download(Backend backend, Slice source, DType type, Stream stream, int piece = Transfers.PieceElements)
    {
        int room = (int)Math.Min(piece, source.Length);
        var bytes = new byte[room * type.Size()];
        var converted = source.Type == type ? default : backend.Allocate(type, room, "transfer");
        try
        {
            foreach (var (first, count) in Transfers.Pieces(source.Length, piece))
            {
                var range = source.Range(first, count);
                if (!converted.IsEmpty)
                {
                    backend.Copy(range, converted.Range(0, count));
                    range = converted.Range(0, count);
                }

                var part = bytes.AsSpan(0, count * type.Size());
                backend.Download(range, part);
                stream.Write(part);
            }
        }
        finally
        {
            backend.Free(converted);
        }
    }
}
