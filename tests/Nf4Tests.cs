using System.Runtime.InteropServices;
using System.Text.Json;
using CsCheck;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class Nf4Tests
{
    static readonly Lazy<JsonElement> Golden = new(() =>
        JsonDocument.Parse(File.ReadAllBytes(TestAssets.Path("assets/golden-bnb-nf4/golden.json"))).RootElement);

    [Fact]
    public void Codes_are_bitsandbytes_table() => Assert.Equal(Floats(Golden.Value.GetProperty("nf4_table")), Nf4.Codes.ToArray());

    [Fact]
    public void NestedMap_is_bitsandbytes_dynamic_map() =>
        Assert.Equal(Floats(Golden.Value.GetProperty("dynamic_map_signed_8bit")), Nf4.NestedMap.ToArray());

    [Fact]
    public void Quantize_200_weights_with_a_short_last_block_gives_bitsandbytes_bytes()
    {
        var small = Golden.Value.GetProperty("small");
        float[] values = Floats(small.GetProperty("values"));
        var (packed, absMax) = Quantize(values);
        Assert.Equal(Bytes(small.GetProperty("nf4").GetProperty("packed")), packed);
        Assert.Equal(Floats(small.GetProperty("nf4").GetProperty("absmax")), absMax);
        Assert.Equal(Floats(small.GetProperty("nf4").GetProperty("dequant")), Dequantize(packed, absMax, values.Length));
    }

    [Fact]
    public void DynamicMap_quantises_each_block_to_bitsandbytes_codes()
    {
        var small = Golden.Value.GetProperty("small");
        float[] values = Floats(small.GetProperty("values"));
        var codes = new byte[values.Length];
        var absMax = new List<float>();
        for (int start = 0; start < values.Length; start += 64)
        {
            int length = Math.Min(64, values.Length - start);
            absMax.Add(DynamicMap.QuantizeBlock(values.AsSpan(start, length), codes.AsSpan(start)));
        }

        Assert.Equal(Bytes(small.GetProperty("dyn8").GetProperty("q")), codes);
        Assert.Equal(Floats(small.GetProperty("dyn8").GetProperty("absmax")), absMax);
    }

    [Fact]
    public void Quantize_a_whole_model_gives_the_bytes_of_the_torch_reference()
    {
        using var model = WeightFiles.Open(TestAssets.Path("golden/cases/qlora_nf4/model"));
        using var expected = Safetensors.Open(TestAssets.Path("golden/cases/qlora_nf4/nf4.safetensors"));
        const string suffix = ".packed";
        string[] names = [.. expected.Tensors.Select(info => info.Name).Where(name => name.EndsWith(suffix)).Select(name => name["nf4.".Length..^suffix.Length])];
        Assert.Equal(21, names.Length);
        foreach (string name in names)
        {
            var weights = new float[model.Find(name)!.Count];
            model.Read(name, weights);
            var (packed, absMax) = Quantize(weights);
            Assert.True(expected.Bytes($"nf4.{name}.packed").SequenceEqual(packed), name);
            Assert.True(expected.Bytes($"nf4.{name}.absmax").SequenceEqual(MemoryMarshal.AsBytes<float>(absMax)), name);
        }
    }

    [Theory]
    [InlineData(31)] // too short for vectors: one weight at a time
    [InlineData(64)]
    public void Quantize_a_weight_on_a_threshold_takes_the_lower_code_and_the_next_float_the_upper(int count)
    {
        float[] thresholds = Nf4.Thresholds.ToArray();
        float[] weights = [1, .. thresholds, .. thresholds.Select(MathF.BitIncrement), .. Enumerable.Range(0, count - 31).Select(i => thresholds[i % 15])]; // fills every lane
        byte[] codes = Unpack(Quantize(weights).Packed, count);
        byte[] ascending = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        Assert.Equal(15, codes[0]);
        Assert.Equal(ascending[..15], codes[1..16]);
        Assert.Equal(ascending[1..], codes[16..31]);
        Assert.All(codes.Skip(31).Select((code, i) => (code, i)), pair => Assert.Equal(pair.i % 15, pair.code));
        Assert.Equal(ascending, Unpack(Quantize(Nf4.Codes.ToArray()).Packed, 16));
    }

    [Fact]
    public void Quantize_zeros_gives_code_7_and_scale_0()
    {
        var (packed, absMax) = Quantize(new float[65]);
        Assert.All(packed, two => Assert.Equal(0x77, two));
        Assert.Equal([0f, 0f], absMax);
        Assert.All(Dequantize(packed, absMax, 65), value => Assert.Equal(0f, value));
    }

    [Fact]
    public void Quantize_subnormal_and_huge_weights_stay_finite()
    {
        float[] weights = [float.Epsilon, -1e-42f, 0, .. new float[61], float.MaxValue, -float.MaxValue / 2, 1];
        var (packed, absMax) = Quantize(weights);
        Assert.All(Dequantize(packed, absMax, weights.Length), value => Assert.True(float.IsFinite(value)));
        Assert.Equal(float.MaxValue, absMax[1]);
    }

    [Theory]
    [InlineData(float.NaN, 70)]
    [InlineData(float.PositiveInfinity, 3)]
    [InlineData(float.NegativeInfinity, 129)]
    public void Quantize_a_weight_that_is_not_finite_is_named(float value, int index)
    {
        var weights = new float[130];
        weights[index] = value;
        Assert.Contains($"weight {index} is {value}", Assert.Throws<ArgumentException>(() => Quantize(weights)).Message);
    }

    [Fact]
    public void Quantize_and_Dequantize_refuse_wrong_lengths_and_block_sizes()
    {
        Assert.Contains("packed has 31 bytes, expected 32", Assert.Throws<ArgumentException>(() => Nf4.Quantize(new float[64], new byte[31], new float[1])).Message);
        Assert.Contains("absMax has 2 scales, expected 1", Assert.Throws<ArgumentException>(() => Nf4.Dequantize(new byte[32], new float[2], new float[64])).Message);
        Assert.Contains("blockSize is 48", Assert.Throws<ArgumentException>(() => Nf4.Quantize(new float[64], new byte[32], new float[2], 48)).Message);
        Assert.Contains("nestedAbsMax has 2", Assert.Throws<ArgumentException>(() => Nf4.DoubleQuantize(new float[256], new byte[256], new float[2])).Message);
        Assert.Throws<ArgumentException>(() => Nf4.DoubleQuantize([], [], []));
    }

    [Fact]
    public void Quantize_equals_the_definition_for_any_length_and_block_size() =>
        Gen.Select(Gen.Float[-3, 3].Array[0, 700], Gen.Int[5, 8].Select(power => 1 << power)).Sample((weights, blockSize) =>
        {
            var (packed, absMax) = Quantize(weights, blockSize);
            for (int i = 0; i < weights.Length; i++)
            {
                float scale = weights.AsSpan(i / blockSize * blockSize, Math.Min(blockSize, weights.Length - i / blockSize * blockSize)).ToArray().Max(MathF.Abs);
                float normalised = weights[i] * (1 / MathF.Max(scale, 1e-38f));
                int code = Nf4.Thresholds.ToArray().Count(threshold => normalised > threshold);
                Assert.Equal(scale, absMax[i / blockSize]);
                Assert.Equal(code, Unpack(packed, weights.Length)[i]);
            }

            if (weights.Length % 2 == 1)
            {
                Assert.Equal(7, packed[^1] & 15);
            }
        }, iter: 60);

    [Fact]
    public void Dequantize_any_bytes_is_table_times_scale_and_requantises_to_a_fixed_point() =>
        Gen.Select(Gen.Byte.Array[1, 400], Gen.Int[0, 1]).Sample((packed, odd) =>
        {
            int count = packed.Length * 2 - odd;
            float[] absMax = [.. Enumerable.Range(0, Nf4.BlockCount(count, 64)).Select(i => 0.25f + i)];
            float[] values = Dequantize(packed, absMax, count);
            byte[] codes = Unpack(packed, count);
            for (int i = 0; i < count; i++)
            {
                Assert.Equal(Nf4.Codes[codes[i]] * absMax[i / 64], values[i]);
            }

            // A block without its largest code has a smaller scale the second time; one more round changes nothing.
            var (packed1, absMax1) = Quantize(values);
            float[] once = Dequantize(packed1, absMax1, count);
            var (packed2, absMax2) = Quantize(once);
            Assert.Equal(packed1, packed2);
            Assert.Equal(absMax1, absMax2);
        }, iter: 200);

    [Fact]
    public void Roundtrip_error_is_within_half_the_widest_gap_of_the_block_scale() =>
        Gen.Float[-100, 100].Array[1, 300].Sample(weights =>
        {
            var (packed, absMax) = Quantize(weights);
            float[] restored = Dequantize(packed, absMax, weights.Length);
            float halfGap = (Nf4.Codes[1] - Nf4.Codes[0]) / 2;
            for (int i = 0; i < weights.Length; i++)
            {
                // bitsandbytes divides by no less than 1e-38, so a block that is smaller still rounds towards zero.
                float scale = absMax[i / 64];
                Assert.InRange(MathF.Abs(weights[i] - restored[i]), 0, scale < 1e-38f ? scale : halfGap * scale * 1.00001f);
            }
        }, iter: 200);

    [Theory]
    [InlineData(32)]
    [InlineData(64)]
    [InlineData(128)]
    [InlineData(256)]
    [InlineData(512)]
    [InlineData(1024)]
    [InlineData(2048)]
    [InlineData(4096)]
    public void Errors_on_normal_weights_match_the_published_statistics(int blockSize)
    {
        using var stats = JsonDocument.Parse(File.ReadAllBytes(TestAssets.Path("assets/golden-bnb-nf4/published_error_stats.json")));
        var (mean, deviation) = Published(stats, "err", blockSize);
        var (relativeMean, relativeDeviation) = Published(stats, "rel_err", blockSize);
        var key = new RandomKey(42, 0, 0);
        var weights = new float[1024 * 1024];
        for (int i = 0; i < weights.Length; i++)
        {
            weights[i] = (float)key.Normal((ulong)i);
        }

        var (packed, absMax) = Quantize(weights, blockSize);
        float[] restored = Dequantize(packed, absMax, weights.Length, blockSize);
        double error = weights.Zip(restored, (w, r) => Math.Abs((double)w - r)).Average();
        double relative = weights.Zip(restored, (w, r) => Math.Abs((double)w - r) / (Math.Abs((double)w) + 1e-8)).Average();
        Assert.InRange(error, mean - 7 * deviation, mean + 7 * deviation);
        Assert.InRange(relative, relativeMean - 7 * relativeDeviation, relativeMean + 7 * relativeDeviation);
    }

    [Fact]
    public void DoubleQuantize_restores_scales_within_the_map_and_exactly_where_all_are_equal()
    {
        float[] absMax = [.. Enumerable.Range(0, 1000).Select(i => 0.5f + 0.4f * MathF.Sin(i))];
        var codes = new byte[1000];
        var nested = new float[4];
        var restored = new float[1000];
        float offset = Nf4.DoubleQuantize(absMax, codes, nested);
        Nf4.RestoreAbsMax(codes, nested, Nf4.NestedMap, offset, restored);
        Assert.Equal(absMax.Average(value => (double)value), offset, 1e-6);
        for (int i = 0; i < absMax.Length; i++)
        {
            Assert.InRange(MathF.Abs(absMax[i] - restored[i]), 0, 0.0075f * nested[i / 256]); // the map's widest gap is 1 − 0.993 at its end, 0.014 elsewhere
        }

        Array.Fill(absMax, 0.3f);
        offset = Nf4.DoubleQuantize(absMax, codes, nested);
        Nf4.RestoreAbsMax(codes, nested, Nf4.NestedMap, offset, restored);
        Assert.All(restored, value => Assert.Equal(0.3f, value, 1e-7f));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(7)]
    [InlineData(33)]
    [InlineData(4096)]
    [InlineData(100_003)]
    [InlineData(1_000_000)]
    public void CascadeSum_is_close_to_the_double_sum(int count)
    {
        var key = new RandomKey(7, 0, 0);
        float[] x = [.. Enumerable.Range(0, count).Select(i => key.Uniform((ulong)i))];
        double expected = x.Sum(value => (double)value);
        Assert.Equal(expected, CascadeSum.Sum(x), 1e-6 * expected);
    }

    [Fact]
    public void Quantize_and_Dequantize_give_the_same_bits_for_any_number_of_threads()
    {
        var key = new RandomKey(3, 0, 0);
        float[] weights = [.. Enumerable.Range(0, 300_001).Select(i => key.Uniform((ulong)i) - 0.5f)];
        int before = Workers.Count;
        Workers.Count = 1;
        var (packed, absMax) = Quantize(weights);
        float[] restored = Dequantize(packed, absMax, weights.Length);
        try
        {
            foreach (int threads in (ReadOnlySpan<int>)[2, 3, 7])
            {
                Workers.Count = threads;
                var (again, scales) = Quantize(weights);
                Assert.Equal(packed, again);
                Assert.Equal(absMax, scales);
                Assert.Equal(restored, Dequantize(again, scales, weights.Length));
            }
        }
        finally
        {
            Workers.Count = before;
        }

        // Pieces small enough for one task: the whole is the concatenation.
        const int piece = 64 * 1000;
        for (int start = 0; start < weights.Length; start += piece)
        {
            int length = Math.Min(piece, weights.Length - start);
            Assert.Equal(packed[(start / 2)..((start + length + 1) / 2)], Quantize(weights[start..(start + length)]).Packed);
        }
    }

    static (byte[] Packed, float[] AbsMax) Quantize(float[] weights, int blockSize = 64)
    {
        var packed = new byte[Nf4.PackedLength(weights.Length)];
        var absMax = new float[Nf4.BlockCount(weights.Length, blockSize)];
        Nf4.Quantize(weights, packed, absMax, blockSize);
        return (packed, absMax);
    }

    static float[] Dequantize(byte[] packed, float[] absMax, int count, int blockSize = 64)
    {
        var weights = new float[count];
        Nf4.Dequantize(packed, absMax, weights, blockSize);
        return weights;
    }

    static byte[] Unpack(byte[] packed, int count) =>
        [.. Enumerable.Range(0, count).Select(i => (byte)(i % 2 == 0 ? packed[i / 2] >> 4 : packed[i / 2] & 15))];

    static (double Mean, double Deviation) Published(JsonDocument stats, string kind, int blockSize)
    {
        var pair = stats.RootElement.GetProperty(kind).GetProperty("nf4").GetProperty(blockSize.ToString());
        return (pair[0].GetDouble(), pair[1].GetDouble());
    }

    static float[] Floats(JsonElement array) => [.. array.EnumerateArray().Select(value => (float)value.GetDouble())];

    static byte[] Bytes(JsonElement array) => [.. array.EnumerateArray().Select(value => value.GetByte())];
}
