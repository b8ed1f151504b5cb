using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using CsCheck;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

public class SafetensorsTests
{
    [Fact]
    public void Open_a_transformers_checkpoint_lists_every_tensor()
    {
        using var file = Safetensors.Open(TestAssets.Path("assets/stories260k-hf/model.safetensors"));
        Assert.Equal("pt", file.Metadata["format"]);
        Assert.Equal(5 * 9 + 2, file.Tensors.Count);
        var embedding = file.Find("model.embed_tokens.weight")!;
        Assert.Equal(DType.F32, embedding.Type);
        Assert.Equal([512, 64], embedding.Shape);
        Assert.Equal(512 * 64 * 4, embedding.Bytes);
        Assert.Null(file.Find("lm_head.weight"));
    }

    [Theory]
    [InlineData("assets/stories260k-hf/model.safetensors")]
    [InlineData("assets/capp-gpt2/model.safetensors")]
    [InlineData("assets/golden-bnb-nf4/dequantized.safetensors")]
    [InlineData("golden/cases/lora/adapter/adapter_model.safetensors")]
    public void Write_what_was_read_gives_the_same_data_and_order(string asset)
    {
        using var folder = new TempFolder();
        using var files = WeightFiles.Open(TestAssets.Path(asset));
        string copy = folder.File("copy.safetensors");
        SafetensorsWriter.Write(copy, [.. files.Tensors.Select(info => TensorSource.Copy(files, info))]);
        using var read = Safetensors.Open(copy);
        Assert.Equal(files.Tensors.Select(info => (info.Name, info.TypeName, info.ShapeText)), read.Tensors.Select(info => (info.Name, info.TypeName, info.ShapeText)));
        foreach (var info in files.Tensors)
        {
            Assert.True(files.Bytes(info.Name).SequenceEqual(read.Bytes(info.Name)), info.Name);
        }
    }

    [Fact]
    public void Write_lays_out_header_padding_and_data_as_the_format_says()
    {
        using var folder = new TempFolder();
        string path = folder.File("a.safetensors");
        SafetensorsWriter.Write(path, [Bytes("b", [3], 1, 2, 3), Bytes("a", [], 9)]);
        byte[] file = File.ReadAllBytes(path);
        const string header = """{"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"a":{"dtype":"U8","shape":[],"data_offsets":[3,4]}}""";
        int padded = (header.Length + 7) / 8 * 8;
        Assert.Equal((ulong)padded, BinaryPrimitives.ReadUInt64LittleEndian(file));
        Assert.Equal(header.PadRight(padded), Encoding.UTF8.GetString(file, 8, padded));
        Assert.Equal([1, 2, 3, 9], file[(8 + padded)..]);
    }

    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.F64)]
    [InlineData(DType.F16)]
    [InlineData(DType.BF16)]
    public void Read_returns_the_floats_rounded_to_the_stored_type(DType type)
    {
        using var folder = new TempFolder();
        float[] values = [0, -0f, 1, -1.5f, 3.14159274f, 65504, 1e-3f, 0.1f, float.PositiveInfinity, float.NegativeInfinity, float.NaN, .. Enumerable.Range(0, 60).Select(i => MathF.Sin(i))];
        string path = folder.File("a.safetensors");
        SafetensorsWriter.Write(path, [TensorSource.OfFloats(new TensorInfo("x", type, values.Length), () => values)]);
        using var file = Safetensors.Open(path);
        var read = new float[values.Length];
        file.Read("x", read);
        Assert.Equal(values.Select(value => Rounded(type, value)), read);
        Assert.True(float.IsNegative(read[1]));

        var part = new float[5];
        file.Read("x", part, first: 20);
        Assert.Equal(read[20..25], part);
        Assert.Throws<ArgumentOutOfRangeException>(() => file.Read("x", part, first: values.Length - 4));
        Assert.Throws<ArgumentOutOfRangeException>(() => file.Bytes("x", -1));
    }

    [Fact]
    public void FloatCodec_rounds_bfloat16_to_nearest_even()
    {
        uint[] bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800001, 0xFFFFFFFF, 0x00008001];
        ushort[] expected = [0x3F80, 0x3F82, 0x3F81, 0x7F80, 0x7FC0, 0xFFFF, 0x0001];
        var encoded = new ushort[bits.Length];
        FloatCodec.Encode(DType.BF16, MemoryMarshal.Cast<uint, float>(bits), MemoryMarshal.AsBytes(encoded.AsSpan()));
        Assert.Equal(expected, encoded);
    }

    [Fact]
    public void Read_a_tensor_that_is_absent_or_not_floating_is_refused()
    {
        using var folder = new TempFolder();
        string path = folder.File("a.safetensors");
        SafetensorsWriter.Write(path, [Bytes("x", [2], 1, 2)]);
        using var file = Safetensors.Open(path);
        Assert.Contains("x: is U8, expected F32", Assert.Throws<CheckpointException>(() => file.Read("x", new float[2])).Message);
        Assert.Contains("y: no such tensor", Assert.Throws<CheckpointException>(() => file.Bytes("y").Length).Message);
    }

    [Theory]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 7, "has 7 bytes of data, expected the 8")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}""", 9, "has 9 bytes of data, expected the 8")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}""", 4, "expected 8 bytes for F32 [2]")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}""", 8, "expected 8 bytes")]
    [InlineData("""{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}""", 8, "all non-negative")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}""", 8, "all non-negative")]
    [InlineData("""{"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}}""", 8, "all non-negative")]
    [InlineData("""{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}""", 8, "all non-negative")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}}""", 8, "two data_offsets")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}""", 8, "all non-negative")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999]}}""", 8, "all non-negative")]
    [InlineData("""{"a":{"dtype":"F32","shape":[2]}}""", 8, "without dtype, shape and two data_offsets")]
    [InlineData("""{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}}""", 8, "element type Q4, which is not supported")]
    [InlineData("""{"a":{"dtype":"0","shape":[2],"data_offsets":[0,8]}}""", 8, "element type 0, which is not supported")]
    [InlineData("""{"a":{"dtype":7,"shape":[2],"data_offsets":[0,8]}}""", 8, "without dtype")]
    [InlineData("""{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}""", 0, "exceeds 64 bits")]
    [InlineData("""{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}}""", 0, "exceeds 64 bits")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}""", 4, "not valid JSON")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""", 3, "b: starts at byte 1 of the data, expected 2")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}""", 5, "b: starts at byte 3 of the data, expected 2")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}""", 3, "a: starts at byte 1 of the data, expected 0")]
    [InlineData("""{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}""", 2, "not valid JSON")]
    [InlineData("""{"a\ud800":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}""", 2, "not valid JSON")]
    [InlineData("""{"a":{"dtype":"\ud800","shape":[2],"data_offsets":[0,2]}}""", 2, "not valid JSON")]
    [InlineData("""["a"]""", 0, "holds a JSON Array, expected an object")]
    [InlineData("""{"a":1}""", 0, "without dtype")]
    [InlineData("""{"__metadata__":{"format":1}}""", 0, "metadata format that is a JSON Number")]
    [InlineData("""{"__metadata__":"pt"}""", 0, "__metadata__ that is a JSON String")]
    public void Open_a_header_that_does_not_hold_is_refused_by_name(string header, int dataBytes, string message)
    {
        using var folder = new TempFolder();
        string path = folder.File("hostile.safetensors");
        File.WriteAllBytes(path, [.. Length(header.Length), .. Encoding.UTF8.GetBytes(header), .. new byte[dataBytes]]);
        var exception = Assert.Throws<CheckpointException>(() => Safetensors.Open(path));
        Assert.Contains(message, exception.Message);
        Assert.Equal(path, exception.File);
    }

    [Fact]
    public void Open_a_file_without_a_whole_header_is_refused()
    {
        using var folder = new TempFolder();
        string path = folder.File("hostile.safetensors");
        foreach (var (bytes, message) in new (byte[], string)[]
        {
            ([], "has 0 bytes, expected at least the 8"),
            ([1, 2, 3], "has 3 bytes, expected at least the 8"),
            ([.. Length(3), .. "{}"u8], "says its header has 3 bytes, but only 2 follow"),
            ([.. Length(100_000_001), .. "{}"u8], "expected at most 100000000"),
            ([.. Length(-1), .. "{}"u8], "expected at most 100000000"),
            ([.. Length(0)], "not valid JSON"),
            ([.. Length(4), (byte)'"', 0xFF, 0xFE, (byte)'"'], "not valid UTF-8"),
            ([.. Length(200), .. Enumerable.Repeat((byte)'[', 200)], "not valid JSON"),
        })
        {
            File.WriteAllBytes(path, bytes);
            Assert.Contains(message, Assert.Throws<CheckpointException>(() => Safetensors.Open(path)).Message);
        }

        Assert.Contains("no such file", Assert.Throws<CheckpointException>(() => Safetensors.Open(folder.File("absent"))).Message);
    }

    [Fact]
    public void Open_any_mutated_or_truncated_file_works_or_throws_CheckpointException()
    {
        using var folder = new TempFolder();
        string valid = folder.File("valid.safetensors");
        SafetensorsWriter.Write(valid,
        [
            TensorSource.OfFloats(new TensorInfo("layer.weight", DType.BF16, 4, 3), () => new float[12]),
            Bytes("layer.mask", [2, 0]),
            Bytes("schlüssel", [3], 1, 2, 3),
        ]);
        byte[] bytes = File.ReadAllBytes(valid);
        int refused = 0;
        Gen.Select(Gen.Select(Gen.Int[0, bytes.Length - 1], Gen.Byte).Array[0, 5], Gen.OneOf(Gen.Const(bytes.Length), Gen.Int[0, bytes.Length])).Sample((changes, length) =>
        {
            byte[] changed = [.. bytes];
            foreach (var (index, value) in changes)
            {
                changed[index] = value;
            }

            string path = folder.File($"{Guid.NewGuid():N}.safetensors");
            File.WriteAllBytes(path, changed[..length]);
            try
            {
                using var file = Safetensors.Open(path);
                Assert.Equal(length, bytes.Length);
                foreach (var info in file.Tensors)
                {
                    Assert.Equal(info.Bytes, file.Bytes(info.Name).Length);
                }
            }
            catch (CheckpointException)
            {
                Interlocked.Increment(ref refused);
            }
            finally
            {
                File.Delete(path);
            }
        }, iter: 1000);
        Assert.InRange(refused, 300, 1000);
    }

    [Fact]
    public void Write_random_tensors_then_read_gives_them_back()
    {
        using var folder = new TempFolder();
        var tensor = Gen.Select(Gen.String[0, 12], Gen.Int[0, 4], Gen.Int[0, 5], Gen.Byte);
        tensor.Array[0, 8].Sample(parts =>
        {
            // Lone surrogates cannot be text in any file.
            var unique = parts.Where(part => part.Item1 != "__metadata__" && !part.Item1.Any(char.IsSurrogate)).DistinctBy(part => part.Item1).ToArray();
            string path = folder.File($"{Guid.NewGuid():N}.safetensors");
            SafetensorsWriter.Write(path, [.. unique.Select(p => Bytes(p.Item1, [p.Item2, p.Item3], [.. Enumerable.Repeat(p.Item4, p.Item2 * p.Item3)]))]);
            using var file = Safetensors.Open(path);
            Assert.Equal(unique.Length, file.Tensors.Count);
            foreach (var (name, rows, columns, value) in unique)
            {
                Assert.Equal([rows, columns], file.Find(name)!.Shape);
                Assert.True(file.Bytes(name).SequenceEqual(Enumerable.Repeat(value, rows * columns).ToArray()));
            }
        }, iter: 200);
    }

    [Fact]
    public void Write_refuses_doubled_and_reserved_names_and_sources_of_another_size()
    {
        using var folder = new TempFolder();
        string path = folder.File("a.safetensors");
        Assert.Contains("the name x occurs twice", Assert.Throws<ArgumentException>(() => SafetensorsWriter.Write(path, [Bytes("x", [1], 1), Bytes("x", [1], 1)])).Message);
        Assert.Contains("__metadata__ occurs twice or is reserved", Assert.Throws<ArgumentException>(() => SafetensorsWriter.Write(path, [Bytes("__metadata__", [1], 1)])).Message);
        Assert.Contains("x wrote 1 bytes, expected 2", Assert.Throws<ArgumentException>(() => SafetensorsWriter.Write(path, [Bytes("x", [2], 1)])).Message);
        Assert.Empty(Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public void Write_that_fails_in_the_middle_leaves_the_old_file_and_no_other()
    {
        using var folder = new TempFolder();
        string path = folder.File("a.safetensors");
        SafetensorsWriter.Write(path, [Bytes("x", [2], 1, 2)]);
        byte[] old = File.ReadAllBytes(path);
        var full = new TensorSource(new TensorInfo("y", DType.U8, 1), _ => throw new IOException("No space left on device"));
        var exception = Assert.Throws<IOException>(() => SafetensorsWriter.Write(path, [Bytes("x", [2], 3, 4), full]));
        Assert.Contains(path, exception.Message);
        Assert.Contains("No space left on device", exception.Message);
        Assert.Throws<InvalidOperationException>(() => AtomicFile.Write(path, _ => throw new InvalidOperationException()));
        Assert.Equal(old, File.ReadAllBytes(path));
        Assert.Equal([path], Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public void AtomicFile_creates_the_folder_replaces_the_file_and_names_a_path_it_cannot_write()
    {
        using var folder = new TempFolder();
        string path = folder.File("new/deeper/text.json");
        AtomicFile.WriteText(path, "one");
        AtomicFile.WriteText(path, "zwei ü");
        Assert.Equal("zwei ü"u8.ToArray(), File.ReadAllBytes(path));
        Assert.Single(Directory.EnumerateFileSystemEntries(folder.File("new/deeper")));

        string below = Path.Combine(path, "file-as-folder.json");
        Assert.Contains(below, Assert.Throws<IOException>(() => AtomicFile.WriteText(below, "x")).Message);
        string taken = folder.File("new"); // a folder of that name: the rename fails after the contents were written
        Assert.Contains(taken, Assert.Throws<IOException>(() => AtomicFile.WriteText(taken, "x")).Message);
        Assert.Equal([taken], Directory.EnumerateFileSystemEntries(folder.Path));
    }

    [Fact]
    public void AtomicFile_in_a_folder_without_permission_says_so()
    {
        if (OperatingSystem.IsWindows() || Environment.IsPrivilegedProcess)
        {
            Assert.Skip("needs a Unix user whom folder permissions bind");
            return;
        }

        using var folder = new TempFolder();
        File.SetUnixFileMode(folder.Path, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        try
        {
            Assert.Contains("no permission", Assert.Throws<IOException>(() => AtomicFile.WriteText(folder.File("x"), "x")).Message);
        }
        finally
        {
            File.SetUnixFileMode(folder.Path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    [Fact]
    public void WeightFiles_open_shards_by_their_index_like_one_file()
    {
        using var folder = new TempFolder();
        SafetensorsWriter.Write(folder.File("model-00002-of-00002.safetensors"), [Bytes("c", [1], 3)]);
        SafetensorsWriter.Write(folder.File("model-00001-of-00002.safetensors"), [Bytes("a", [1], 1), Bytes("unlisted", [1], 9), Bytes("b", [1], 2)]);
        Index(folder, """{"c":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors"}""");
        using var files = WeightFiles.Open(folder.Path);
        Assert.Equal(["a", "b", "c"], files.Tensors.Select(info => info.Name));
        Assert.Equal([1, 2, 3], files.Tensors.Select(info => files.Bytes(info.Name)[0]));
        Assert.EndsWith("model-00002-of-00002.safetensors", files.FileOf("c"));
        Assert.Null(files.Find("unlisted"));
        Assert.Throws<CheckpointException>(() => files.Bytes("unlisted").Length);
    }

    [Theory]
    [InlineData("""{"x":"one.safetensors"}""", "one.safetensors, which has no such tensor")]
    [InlineData("""{"a":"two.safetensors"}""", "two.safetensors: no such file")]
    [InlineData("""{"a":"../one.safetensors"}""", "expected the name of a .safetensors file in the same folder")]
    [InlineData("""{"a":"/etc/passwd"}""", "expected the name of a .safetensors file in the same folder")]
    [InlineData("""{"a":3}""", "expected the name of a .safetensors file in the same folder")]
    [InlineData("[]", "has no weight_map object")]
    public void WeightFiles_refuse_an_index_that_disagrees_with_the_folder(string map, string message)
    {
        using var folder = new TempFolder();
        SafetensorsWriter.Write(folder.File("one.safetensors"), [Bytes("a", [1], 1)]);
        Index(folder, map);
        Assert.Contains(message, Assert.Throws<CheckpointException>(() => WeightFiles.Open(folder.Path)).Message);
    }

    [Fact]
    public void WeightFiles_say_what_a_folder_without_safetensors_has()
    {
        using var folder = new TempFolder();
        Assert.Contains("has neither model.safetensors nor", Assert.Throws<CheckpointException>(() => WeightFiles.Open(folder.Path)).Message);
        File.WriteAllText(folder.File("pytorch_model.bin"), "");
        Assert.Contains("safe_serialization=True", Assert.Throws<CheckpointException>(() => WeightFiles.Open(folder.Path)).Message);
        Assert.Contains("no such file", Assert.Throws<CheckpointException>(() => WeightFiles.Open(folder.File("absent"))).Message);
    }

    static void Index(TempFolder folder, string map) =>
        File.WriteAllText(folder.File("model.safetensors.index.json"), $$"""{"metadata":{"total_size":3},"weight_map":{{map}}}""");

    static TensorSource Bytes(string name, long[] shape, params byte[] bytes) => TensorSource.OfBytes(new TensorInfo(name, DType.U8, shape), bytes);

    static byte[] Length(long value) => BitConverter.GetBytes(value);

    static float Rounded(DType type, float value) => type switch
    {
        DType.F16 => (float)(Half)value,
        DType.BF16 when float.IsFinite(value) => BitConverter.UInt32BitsToSingle((uint)Math.Round(BitConverter.SingleToUInt32Bits(value) / 65536.0, MidpointRounding.ToEven) << 16),
        _ => value,
    };
}
