using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using CsCheck;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class BitsAndBytesTests
{
    const string Linear = "model.layers.0.self_attn.q_proj", State = Linear + ".weight.quant_state.bitsandbytes__nf4";

    [Fact]
    public void Read_a_bitsandbytes_checkpoint_dequantises_bit_equal()
    {
        using var files = WeightFiles.Open(TestAssets.Path("assets/golden-bnb-nf4/model_bnb_nf4_dq.safetensors"));
        using var expected = Safetensors.Open(TestAssets.Path("assets/golden-bnb-nf4/dequantized.safetensors"));
        string[] linears = Linears(files);
        Assert.Equal(35, linears.Length);
        foreach (string linear in linears)
        {
            var tensor = BitsAndBytes.Read(files, linear);
            var weights = new float[tensor.Count];
            tensor.Dequantize(weights);
            Assert.Equal([tensor.Rows, tensor.Columns], expected.Find(linear + ".weight")!.Shape);
            Assert.True(expected.Bytes(linear + ".weight").SequenceEqual(MemoryMarshal.AsBytes<float>(weights)), linear);
        }
    }

    [Fact]
    public void Write_a_model_quantised_here_gives_the_bytes_of_the_bitsandbytes_checkpoint()
    {
        string golden = TestAssets.Path("assets/golden-bnb-nf4/model_bnb_nf4_dq.safetensors");
        using var folder = new TempFolder();
        using var model = WeightFiles.Open(TestAssets.Path("assets/stories260k-hf"));
        using var files = WeightFiles.Open(golden);
        var tensors = new List<TensorSource>();
        foreach (var info in files.Tensors.Where(info => !BitsAndBytes.IsPart(info.Name)))
        {
            string linear = info.Name[..^".weight".Length];
            if (!BitsAndBytes.IsQuantized(files, linear))
            {
                tensors.Add(TensorSource.Copy(model, info));
                continue;
            }

            var shape = model.Find(info.Name)!.Shape;
            var weights = new float[shape[0] * shape[1]];
            model.Read(info.Name, weights);
            tensors.AddRange(BitsAndBytes.Write(linear, Nf4Tensor.Quantize(weights, (int)shape[0], (int)shape[1], true, DType.F32)));
        }

        string written = folder.File("model.safetensors");
        SafetensorsWriter.Write(written, tensors);
        Assert.True(File.ReadAllBytes(golden).AsSpan().SequenceEqual(File.ReadAllBytes(written)));
    }

    [Theory]
    [InlineData(true, DType.BF16)]
    [InlineData(false, DType.F16)]
    [InlineData(false, DType.F32)]
    public void Write_then_read_keeps_every_part(bool doubleQuant, DType original)
    {
        using var folder = new TempFolder();
        var tensor = Sample(33, 21, doubleQuant, original);
        using var files = Save(folder, [.. BitsAndBytes.Write(Linear, tensor)]);
        var read = BitsAndBytes.Read(files, Linear);
        AssertSame(tensor, read);
        Assert.True(BitsAndBytes.IsQuantized(files, Linear));
        Assert.False(BitsAndBytes.IsQuantized(files, "model.norm"));
        Assert.Equal(doubleQuant ? 6 : 4, files.Tensors.Count);
        Assert.Equal(files.Tensors.Count - 1, files.Tensors.Count(info => BitsAndBytes.IsPart(info.Name)));
    }

    [Fact]
    public void Write_of_matrices_quantised_in_turn_gives_the_same_file_and_holds_one_at_a_time()
    {
        using var folder = new TempFolder();
        string[] linears = ["a", "b", "c"];
        SafetensorsWriter.Write(folder.File("whole"), [.. linears.SelectMany((linear, i) => BitsAndBytes.Write(linear, Sample(33 + i, 21, true, DType.F32)))]);
        List<WeakReference> made = [];
        List<int> alive = [];
        SafetensorsWriter.Write(folder.File("lazy"), [.. linears.SelectMany((linear, i) => BitsAndBytes.Write(linear, () => Make(i)))]);

        Assert.Equal(File.ReadAllBytes(folder.File("whole")), File.ReadAllBytes(folder.File("lazy")));
        Assert.Equal(6, made.Count);
        Assert.All(alive, count => Assert.InRange(count, 0, 1)); // the last one may still be on the writer's stack

        Nf4Tensor Make(int i)
        {
            GC.Collect();
            alive.Add(made.Count(tensor => tensor.IsAlive));
            var tensor = Sample(33 + i, 21, true, DType.F32);
            made.Add(new WeakReference(tensor));
            return tensor;
        }
    }

    [Fact]
    public void Read_other_block_sizes_from_the_file()
    {
        using var folder = new TempFolder();
        float[] weights = [.. Enumerable.Range(0, 512).Select(i => MathF.Sin(i))];
        var packed = new byte[256];
        var absMax = new float[4];
        Nf4.Quantize(weights, packed, absMax, 128);
        using var files = Save(folder, [.. BitsAndBytes.Write(Linear, new Nf4Tensor(8, 64, 128, DType.F32, packed, absMax, null))]);
        var read = BitsAndBytes.Read(files, Linear);
        Assert.Equal(128, read.BlockSize);
        var restored = new float[512];
        read.Dequantize(restored);
        var expected = new float[512];
        Nf4.Dequantize(packed, absMax, expected, 128);
        Assert.Equal(expected, restored);
    }

    [Theory]
    [InlineData("BF16", 2)]
    [InlineData("F32", 4)]
    public void Read_packed_weights_stored_as_another_type(string storage, int size)
    {
        using var folder = new TempFolder();
        var tensor = Sample(16, 16, true, DType.BF16);
        var tensors = BitsAndBytes.Write(Linear, tensor).ToList();
        tensors[0] = TensorSource.OfBytes(new TensorInfo(Linear + ".weight", storage, [tensor.Packed.Length / size, 1]), tensor.Packed);
        using var files = Save(folder, tensors);
        AssertSame(tensor, BitsAndBytes.Read(files, Linear));
    }

    [Theory]
    [InlineData("\"quant_type\": \"nf4\"", "\"quant_type\": \"fp4\"", "quant_type is fp4, expected nf4")]
    [InlineData("\"blocksize\": 64", "\"blocksize\": 48", "blocksize is 48")]
    [InlineData("\"blocksize\": 64", "\"blocksize\": \"64\"", "expected a 32-bit integer")]
    [InlineData("\"dtype\": \"float32\", \"shape\"", "\"dtype\": \"int8\", \"shape\"", "dtype is int8")]
    [InlineData("[16, 16]", "[16, 16, 1]", "shape is not")]
    [InlineData("[16, 16]", "[-16, -16]", "shape is not")]
    [InlineData("[16, 16]", "[2000000000, 2000000000]", "shape is not")]
    [InlineData("[16, 16]", "[16, 17]", "has 128 bytes, expected 136")]
    [InlineData("\"nested_blocksize\": 256", "\"nested_blocksize\": 128", "blocksize 128")]
    [InlineData("\"nested_offset\"", "\"nested_offse\"", "nested_offset is absent")]
    [InlineData("{\"quant", "[\"quant", "not valid JSON")]
    public void Read_a_wrong_quant_state_is_refused_by_name(string from, string to, string message)
    {
        using var folder = new TempFolder();
        var tensors = BitsAndBytes.Write(Linear, Sample(16, 16, true, DType.F32)).ToList();
        string text = StateText(tensors);
        Assert.Contains(from, text);
        byte[] changed = Encoding.UTF8.GetBytes(text.Replace(from, to));
        tensors[^1] = TensorSource.OfBytes(new TensorInfo(State, DType.U8, changed.Length), changed);
        using var files = Save(folder, tensors);
        Assert.Contains(message, Assert.Throws<CheckpointException>(() => BitsAndBytes.Read(files, Linear)).Message);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    public void Read_a_group_without_one_of_its_tensors_names_it(int missing)
    {
        using var folder = new TempFolder();
        var tensors = BitsAndBytes.Write(Linear, Sample(16, 16, true, DType.F32)).ToList();
        string name = tensors[missing].Info.Name;
        tensors.RemoveAt(missing);
        using var files = Save(folder, tensors);
        Assert.Contains($"{name}: is missing", Assert.Throws<CheckpointException>(() => BitsAndBytes.Read(files, Linear)).Message);
    }

    [Fact]
    public void Read_fp4_and_foreign_tables_are_refused()
    {
        using var folder = new TempFolder();
        var tensors = BitsAndBytes.Write(Linear, Sample(16, 16, true, DType.F32)).ToList();
        var fp4 = tensors.ToList();
        fp4[^1] = fp4[^1] with { Info = fp4[^1].Info with { Name = State.Replace("nf4", "fp4") } };
        using (var files = Save(folder, fp4))
        {
            Assert.Contains("is quantised as fp4, expected nf4", Assert.Throws<CheckpointException>(() => BitsAndBytes.Read(files, Linear)).Message);
        }

        var table = Nf4.Codes.ToArray();
        table[3] = MathF.BitIncrement(table[3]);
        tensors[2] = TensorSource.OfFloats(tensors[2].Info, () => table);
        using (var files = Save(folder, tensors))
        {
            Assert.Contains("quant_map: is not the NF4 table", Assert.Throws<CheckpointException>(() => BitsAndBytes.Read(files, Linear)).Message);
        }
    }

    [Theory]
    [InlineData(0.5005341172218323, "0.5005341172218323")]
    [InlineData(1, "1.0")]
    [InlineData(1e-5, "9.999999747378752e-06")]
    [InlineData(0.0001, "9.999999747378752e-05")]
    public void Write_prints_the_offset_as_Python_does(double offset, string expected)
    {
        var sample = Sample(16, 16, true, DType.F32);
        var tensor = sample with { Nested = sample.Nested! with { Offset = (float)offset } };
        Assert.EndsWith($"\"nested_offset\": {expected}}}", StateText([.. BitsAndBytes.Write(Linear, tensor)]));
    }

    [Fact]
    public void Config_of_the_bitsandbytes_checkpoint_reads_and_writes_the_same_json()
    {
        string file = TestAssets.Path("assets/golden-bnb-nf4/config.json");
        using var document = JsonDocument.Parse(File.ReadAllBytes(file));
        var config = BitsAndBytesConfig.Parse(document.RootElement, file)!;
        Assert.Equal(new BitsAndBytesConfig(true, DType.F32), config);
        string expected = JsonSerializer.Serialize(document.RootElement.GetProperty("quantization_config"));
        Assert.Equal(expected, config.ToJson().ToJsonString().Replace("6,", "6.0,"));
    }

    [Fact]
    public void Config_keeps_the_skipped_modules_and_is_null_where_absent()
    {
        var config = new BitsAndBytesConfig(false, DType.BF16, ["lm_head", "model.layers.3.mlp"]);
        using var document = JsonDocument.Parse($"{{\"quantization_config\": {config.ToJson().ToJsonString()}}}");
        var read = BitsAndBytesConfig.Parse(document.RootElement, "config.json")!;
        Assert.Equal((config.DoubleQuant, config.ComputeType), (read.DoubleQuant, read.ComputeType));
        Assert.Equal(config.SkipModules, read.SkipModules);
        using var plain = JsonDocument.Parse("{\"quantization_config\": null}");
        Assert.Null(BitsAndBytesConfig.Parse(plain.RootElement, "config.json"));
    }

    [Theory]
    [InlineData("{\"quant_method\": \"gptq\"}", "quant_method is gptq")]
    [InlineData("{\"quant_method\": \"bitsandbytes\", \"load_in_8bit\": true}", "not a 4-bit")]
    [InlineData("{\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true}", "bnb_4bit_quant_type is fp4")]
    [InlineData("{\"load_in_4bit\": true, \"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_compute_dtype\": \"int8\"}", "bnb_4bit_compute_dtype is int8")]
    [InlineData("{\"load_in_4bit\": 1}", "expected true or false")]
    [InlineData("[]", "expected an object")]
    public void Config_of_another_quantisation_is_refused_by_name(string section, string message)
    {
        using var document = JsonDocument.Parse($"{{\"quantization_config\": {section}}}");
        Assert.Contains(message, Assert.Throws<CheckpointException>(() => BitsAndBytesConfig.Parse(document.RootElement, "config.json")).Message);
    }

    [Fact]
    public void Quantize_refuses_sizes_that_disagree() =>
        Assert.Contains("there are 15 values", Assert.Throws<ArgumentException>(() => Nf4Tensor.Quantize(new float[15], 4, 4, false, DType.F32)).Message);

    [Fact]
    public void Read_with_any_bytes_changed_never_fails_with_anything_but_CheckpointException()
    {
        using var folder = new TempFolder();
        string file = folder.File("model.safetensors");
        SafetensorsWriter.Write(file, [.. BitsAndBytes.Write(Linear, Sample(8, 8, true, DType.F32))]);
        byte[] valid = File.ReadAllBytes(file);
        int stateStart = valid.AsSpan().LastIndexOf("{\"quant_type\""u8);
        int refused = 0;
        // Half of the changes hit the JSON text of the quantisation state, which random positions would rarely reach.
        var position = Gen.OneOf(Gen.Int[0, valid.Length - 1], Gen.Int[stateStart, valid.Length - 1]);
        Gen.Select(position, Gen.Byte).Array[1, 4].Sample(changes =>
        {
            byte[] bytes = [.. valid];
            foreach (var (index, value) in changes)
            {
                bytes[index] = value;
            }

            string path = folder.File($"{Guid.NewGuid():N}.safetensors");
            File.WriteAllBytes(path, bytes);
            try
            {
                using var files = WeightFiles.Open(path);
                var tensor = BitsAndBytes.Read(files, Linear);
                tensor.Dequantize(new float[tensor.Count]);
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
        Assert.InRange(refused, 250, 1000);
    }

    static Nf4Tensor Sample(int rows, int columns, bool doubleQuant, DType original) =>
        Nf4Tensor.Quantize([.. Enumerable.Range(0, rows * columns).Select(i => MathF.Sin(i * i))], rows, columns, doubleQuant, original);

    static string StateText(List<TensorSource> tensors)
    {
        using var stream = new MemoryStream();
        tensors[^1].Write(stream);
        return Encoding.UTF8.GetString(stream.ToArray());
    }

    static WeightFiles Save(TempFolder folder, List<TensorSource> tensors)
    {
        string file = folder.File("model.safetensors");
        SafetensorsWriter.Write(file, tensors);
        return WeightFiles.Open(folder.Path);
    }

    static void AssertSame(Nf4Tensor expected, Nf4Tensor actual)
    {
        Assert.Equal((expected.Rows, expected.Columns, expected.BlockSize, expected.Original), (actual.Rows, actual.Columns, actual.BlockSize, actual.Original));
        Assert.Equal(expected.Packed, actual.Packed);
        Assert.Equal(expected.AbsMax, actual.AbsMax);
        Assert.Equal(expected.Nested?.Codes, actual.Nested?.Codes);
        Assert.Equal(expected.Nested?.Scales, actual.Nested?.Scales);
        Assert.Equal(expected.Nested?.Map, actual.Nested?.Map);
        Assert.Equal(expected.Nested?.Offset, actual.Nested?.Offset);
    }

    static string[] Linears(WeightFiles files)
    {
        const string suffix = ".weight.quant_state.bitsandbytes__nf4";
        return [.. files.Tensors.Select(info => info.Name).Where(name => name.EndsWith(suffix)).Select(name => name[..^suffix.Length])];
    }
}
