using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Checkpoints;

/// <summary>
/// The group of tensors in which bitsandbytes stores one 4-bit linear layer <c>P</c>: <c>P.weight</c> (packed codes), and under
/// <c>P.weight.</c> the block scales <c>absmax</c>, the tables <c>quant_map</c>, <c>nested_absmax</c> and <c>nested_quant_map</c>,
/// and a small JSON text, <c>quant_state.bitsandbytes__nf4</c>, stored as bytes.
/// </summary>
public static class BitsAndBytes
{
    const string StateNf4 = ".quant_state.bitsandbytes__nf4", StateFp4 = ".quant_state.bitsandbytes__fp4";
    static readonly string[] Parts = ["absmax", "quant_map", "nested_absmax", "nested_quant_map", StateNf4[1..], StateFp4[1..]];

    /// <summary>Whether the weight of <paramref name="linear"/> (for example <c>model.layers.0.mlp.up_proj</c>) is stored in 4 bits.</summary>
    public static bool IsQuantized(WeightFiles files, string linear) =>
        files.Find(linear + ".weight" + StateNf4) is not null || files.Find(linear + ".weight" + StateFp4) is not null;

    /// <summary>Whether <paramref name="tensor"/> is one of the extra tensors beside a 4-bit weight, rather than a tensor of the model.</summary>
    public static bool IsPart(string tensor) => Parts.Any(part => tensor.EndsWith(".weight." + part, StringComparison.Ordinal));

    /// <summary>Reads the 4-bit weight of <paramref name="linear"/>.</summary>
    /// <exception cref="CheckpointException">A tensor of the group is missing or has a wrong size, or the weight is not NF4.</exception>
    public static Nf4Tensor Read(WeightFiles files, string linear)
    {
        string weight = linear + ".weight";
        if (files.Find(weight + StateFp4) is not null)
        {
            throw new CheckpointException(files.FileOf(weight), weight, "is quantised as fp4, expected nf4. Start from the 16-bit model, or quantise it as nf4.");
        }

        var state = QuantState.Parse(StateBytes(files, weight + StateNf4), files.FileOf(weight), weight + StateNf4);
        int count = state.Rows * state.Columns, blocks = Nf4.BlockCount(count, state.BlockSize);
        byte[] packed = Bytes(files, weight, Nf4.PackedLength(count));
        var map = Floats(files, weight + ".quant_map", 16);
        if (!map.AsSpan().SequenceEqual(Nf4.Codes))
        {
            throw new CheckpointException(files.FileOf(weight), weight + ".quant_map", "is not the NF4 table, expected its 16 values. The weights are of another 4-bit type.");
        }

        if (state.NestedOffset is not { } offset)
        {
            return new Nf4Tensor(state.Rows, state.Columns, state.BlockSize, state.Original, packed, Floats(files, weight + ".absmax", blocks), null);
        }

        var nested = new NestedAbsMax(
            Bytes(files, weight + ".absmax", blocks),
            Floats(files, weight + ".nested_absmax", Nf4.BlockCount(blocks, Nf4.NestedBlockSize)),
            Floats(files, weight + ".nested_quant_map", 256),
            offset);
        return new Nf4Tensor(state.Rows, state.Columns, state.BlockSize, state.Original, packed, null, nested);
    }

    /// <summary>The tensors that store <paramref name="tensor"/> as the weight of <paramref name="linear"/>, in bitsandbytes' order.</summary>
    public static IReadOnlyList<TensorSource> Write(string linear, Nf4Tensor tensor) => Write(linear, () => tensor);

    /// <summary>
    /// The same for a matrix that is quantised when its turn comes, so that a file of many needs the memory of one. <paramref name="quantize"/> is called now, because the
    /// length of the state's text depends on the values, and again when the first tensor of the group is written; after the last, the matrix is let go.
    /// </summary>
    internal static IReadOnlyList<TensorSource> Write(string linear, Func<Nf4Tensor> quantize)
    {
        string weight = linear + ".weight";
        var first = quantize();
        byte[] state = Encoding.UTF8.GetBytes(QuantState.Text(first));
        Nf4Tensor? current = null;
        List<TensorSource> sources = [OfBytes("", first.Packed, tensor => tensor.Packed, 1)];
        if (first.Nested is { } nested)
        {
            sources.Add(OfBytes(".absmax", nested.Codes, tensor => tensor.Nested!.Codes));
            sources.Add(OfFloats(".quant_map", 16, _ => Nf4.Codes.ToArray()));
            sources.Add(OfFloats(".nested_absmax", nested.Scales.Length, tensor => tensor.Nested!.Scales));
            sources.Add(OfFloats(".nested_quant_map", nested.Map.Length, tensor => tensor.Nested!.Map));
        }
        else
        {
            sources.Add(OfFloats(".absmax", first.AbsMax!.Length, tensor => tensor.AbsMax!));
            sources.Add(OfFloats(".quant_map", 16, _ => Nf4.Codes.ToArray()));
        }

        sources.Add(new TensorSource(new TensorInfo(weight + StateNf4, DType.U8, state.Length), stream =>
        {
            stream.Write(state);
            current = null;
        }));
        return sources;

        Nf4Tensor Current() => current ??= quantize();

        TensorSource OfBytes(string part, byte[] sample, Func<Nf4Tensor, byte[]> bytes, params long[] columns) =>
            new(new TensorInfo(weight + part, DType.U8, [sample.Length, .. columns]), stream => stream.Write(bytes(Current())));

        TensorSource OfFloats(string part, int count, Func<Nf4Tensor, float[]> values) =>
            TensorSource.OfFloats(new TensorInfo(weight + part, DType.F32, count), () => values(Current()));
    }

    /// <summary>The name Python's libraries give a floating type, or null for another type.</summary>
    internal static string? TorchName(DType type) => type switch
    {
        DType.F32 => "float32",
        DType.F16 => "float16",
        DType.BF16 => "bfloat16",
        _ => null,
    };

    /// <summary>The floating type of this name, or null.</summary>
    internal static DType? FromTorchName(string? name) => name switch
    {
        "float32" => DType.F32,
        "float16" => DType.F16,
        "bfloat16" => DType.BF16,
        _ => null,
    };

    /// <summary>The bytes of a tensor of any element type: packed weights may be declared as floats to suit a sharding scheme.</summary>
    static byte[] Bytes(WeightFiles files, string name, int expected)
    {
        var info = files.Find(name) ?? throw Missing(files, name);
        return info.Bytes == expected
            ? files.Bytes(name).ToArray()
            : throw new CheckpointException(files.FileOf(name), name, $"has {info.Bytes} bytes, expected {expected}.");
    }

    static byte[] StateBytes(WeightFiles files, string name)
    {
        const int limit = 4096; // real ones have under 200
        var info = files.Find(name) ?? throw Missing(files, name);
        return info.Bytes <= limit
            ? files.Bytes(name).ToArray()
            : throw new CheckpointException(files.FileOf(name), name, $"has {info.Bytes} bytes, expected at most {limit} of JSON.");
    }

    static float[] Floats(WeightFiles files, string name, int count)
    {
        var info = files.Find(name) ?? throw Missing(files, name);
        if (info.Type != DType.F32 || info.Count != count)
        {
            throw new CheckpointException(files.FileOf(name), name, $"is {info.TypeName} {info.ShapeText}, expected F32 [{count}].");
        }

        return MemoryMarshal.Cast<byte, float>(files.Bytes(name)).ToArray();
    }

    static CheckpointException Missing(WeightFiles files, string name) =>
        new(files.Path, name, "is missing, expected it beside a bitsandbytes 4-bit weight. The checkpoint is incomplete; fetch it again.");

    /// <summary>The JSON text of one weight. <paramref name="NestedOffset"/> is null without double quantisation.</summary>
    sealed record QuantState(int Rows, int Columns, int BlockSize, DType Original, float? NestedOffset)
    {
        public static QuantState Parse(byte[] json, string file, string tensor)
        {
            var fields = new JsonFields(JsonFile.ParseObject(json, file, tensor), file, tensor);
            CheckpointException Wrong(string problem) => new(file, tensor, problem);

            string? type = fields.String("quant_type");
            int blockSize = fields.Int("blocksize", 0), nestedBlockSize = fields.Int("nested_blocksize", 0);
            string? original = fields.String("dtype");
            if (type != "nf4")
            {
                throw Wrong($"quant_type is {type ?? "absent"}, expected nf4.");
            }

            if (!Nf4.IsBlockSize(blockSize))
            {
                throw Wrong($"blocksize is {blockSize}, expected a power of two from 32 to 4096.");
            }

            if (fields.Ints("shape") is not [int rows and > 0, int columns and > 0] || (long)rows * columns > Array.MaxLength)
            {
                throw Wrong("shape is not two positive extents of a matrix below 2^31 weights.");
            }

            var dtype = FromTorchName(original) ?? throw Wrong($"dtype is {original ?? "absent"}, expected float32, float16 or bfloat16.");
            if (nestedBlockSize == 0)
            {
                return new QuantState(rows, columns, blockSize, dtype, null);
            }

            if (nestedBlockSize != Nf4.NestedBlockSize || fields.String("nested_dtype") != "float32")
            {
                throw Wrong($"nested scales have blocksize {nestedBlockSize} and dtype {fields.String("nested_dtype")}, expected {Nf4.NestedBlockSize} and float32.");
            }

            float offset = (float)fields.Number("nested_offset", double.NaN);
            return float.IsFinite(offset) ? new QuantState(rows, columns, blockSize, dtype, offset) : throw Wrong("nested_offset is absent or not finite, expected the mean of the block scales.");
        }

        public static string Text(Nf4Tensor tensor)
        {
            string nested = tensor.Nested is { } n
                ? $", \"nested_blocksize\": {Nf4.NestedBlockSize}, \"nested_dtype\": \"float32\", \"nested_offset\": {PythonText(n.Offset)}"
                : "";
            string dtype = TorchName(tensor.Original) ?? throw new ArgumentException($"BitsAndBytes: original type is {tensor.Original}, expected F32, F16 or BF16.", nameof(tensor));
            return $"{{\"quant_type\": \"nf4\", \"blocksize\": {tensor.BlockSize}, \"dtype\": \"{dtype}\", \"shape\": [{tensor.Rows}, {tensor.Columns}]{nested}}}";
        }

        /// <summary>The float as Python prints it: the shortest text of its double, which always has a point or an exponent.</summary>
        static string PythonText(float value)
        {
            string text = ((double)value).ToString("R", CultureInfo.InvariantCulture).ToLowerInvariant();
            return text.Contains('.') || text.Contains('e') ? text : text + ".0";
        }
    }
}
