using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>`mma.sync` in every shape, `ldmatrix` and `movmatrix`, against plain matrices laid out lane by lane as the PTX manual says.</summary>
public sealed class PtxEmulatorTensorTests
{
    delegate (int Row, int Column) Place(int group, int thread, int element);

    /// <summary>Where element i of a lane's fragments lies, with group = lane / 4 and thread = lane mod 4.</summary>
    sealed record Fragments(int Rows, int Depth, int A, int B, int C, Place OfA, Place OfB, Place OfC);

    static readonly Place Sums16 = (g, t, i) => (i < 2 ? g : g + 8, (2 * t) + (i & 1)), Sums8 = (g, t, i) => (g, (2 * t) + i);

    static Fragments Layout(string shape, string type) => (shape, type) switch
    {
        ("m16n8k8", "f16" or "bf16") => new(16, 8, 4, 2, 4, (g, t, i) => (i < 2 ? g : g + 8, (2 * t) + (i & 1)), (g, t, i) => ((2 * t) + i, g), Sums16),
        ("m16n8k16", "f16" or "bf16") => new(16, 16, 8, 4, 4,
            (g, t, i) => (i is 0 or 1 or 4 or 5 ? g : g + 8, (2 * t) + (i & 1) + (i < 4 ? 0 : 8)), (g, t, i) => ((2 * t) + (i & 1) + (i < 2 ? 0 : 8), g), Sums16),
        ("m16n8k4", _) => new(16, 4, 2, 1, 4, (g, t, i) => (g + (8 * i), t), (g, t, _) => (t, g), Sums16),
        ("m16n8k8", _) => new(16, 8, 4, 2, 4, (g, t, i) => (i is 0 or 2 ? g : g + 8, i < 2 ? t : t + 4), (g, t, i) => (t + (4 * i), g), Sums16),
        ("m8n8k16", _) => new(8, 16, 4, 4, 2, (g, t, i) => (g, (4 * t) + i), (g, t, i) => ((4 * t) + i, g), Sums8),
        ("m16n8k16", _) => new(16, 16, 8, 4, 4, (g, t, i) => (i < 4 ? g : g + 8, (4 * t) + (i & 3)), (g, t, i) => ((4 * t) + i, g), Sums16),
        ("m16n8k32", _) => new(16, 32, 16, 8, 4,
            (g, t, i) => (i is < 4 or (>= 8 and < 12) ? g : g + 8, (4 * t) + (i & 3) + (i < 8 ? 0 : 16)),
            (g, t, i) => ((4 * t) + (i & 3) + (i < 4 ? 0 : 16), g), Sums16),
        _ => new(8, 4, 1, 1, 2, (g, t, _) => (g, t), (g, t, _) => (t, g), Sums8),
    };

    static int Width(string type) => type switch { "f64" => 64, "f16" or "bf16" => 16, "s8" or "u8" => 8, _ => 32 };

    /// <summary>Small numbers that every format holds; their products and sums are exact.</summary>
    static double[,] Matrix(int rows, int columns, string type, Random random)
    {
        var matrix = new double[rows, columns];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                matrix[i, j] = type switch { "s8" => random.Next(-128, 128), "u8" => random.Next(256), "s32" => random.Next(-9999, 9999), _ => random.Next(-8, 9) / 4.0 };
        return matrix;
    }

    static ulong Pattern(double x, string type) => type switch
    {
        "f64" => BitConverter.DoubleToUInt64Bits(x),
        "f16" => BitConverter.HalfToUInt16Bits((Half)x),
        "bf16" => BitConverter.SingleToUInt32Bits((float)x) >> 16,
        // Bits below the tenth are noise that must not matter.
        "tf32" => BitConverter.SingleToUInt32Bits((float)x) | 0x1FFF,
        "f32" => BitConverter.SingleToUInt32Bits((float)x),
        "s8" or "u8" => (byte)(int)x,
        _ => (uint)(int)x,
    };

    static double Value(ulong bits, string type) => type switch
    {
        "f64" => BitConverter.UInt64BitsToDouble(bits),
        "f16" => (double)BitConverter.UInt16BitsToHalf((ushort)bits),
        "f32" => BitConverter.UInt32BitsToSingle((uint)bits),
        _ => (int)bits,
    };

    /// <summary>A lane's elements packed into 32-bit words, the first lowest.</summary>
    static uint[] Pack(double[,] matrix, Place place, int count, int lane, string type)
    {
        int width = Width(type);
        var words = new uint[count * width / 32];
        for (int i = 0; i < count; i++)
        {
            var (row, column) = place(lane / 4, lane % 4, i);
            ulong bits = Pattern(matrix[row, column], type);
            for (int part = 0; part < Math.Max(1, width / 32); part++)
                words[(i * width / 32) + part] |= (uint)(bits >> (32 * part)) << (i * width % 32);
        }
        return words;
    }

    [Theory]
    [InlineData("m16n8k16", "bf16", "bf16", "f32", "")]
    [InlineData("m16n8k16", "f16", "f16", "f32", "")]
    [InlineData("m16n8k16", "f16", "f16", "f16", "")]
    [InlineData("m16n8k8", "bf16", "bf16", "f32", "")]
    [InlineData("m16n8k8", "f16", "f16", "f32", "")]
    [InlineData("m16n8k8", "f16", "f16", "f16", "")]
    [InlineData("m16n8k8", "tf32", "tf32", "f32", "")]
    [InlineData("m16n8k4", "tf32", "tf32", "f32", "")]
    [InlineData("m8n8k16", "s8", "s8", "s32", "")]
    [InlineData("m16n8k16", "s8", "u8", "s32", "")]
    [InlineData("m16n8k32", "s8", "s8", "s32", "")]
    [InlineData("m16n8k32", "u8", "s8", "s32", ".satfinite")]
    [InlineData("m8n8k4", "f64", "f64", "f64", "")]
    public void Fragments_multiply_as_matrices(string shape, string left, string right, string sum, string saturation)
    {
        var layout = Layout(shape, left);
        var random = new Random(shape.Length + left.Length);
        double[,] a = Matrix(layout.Rows, layout.Depth, left, random), b = Matrix(layout.Depth, 8, right, random), c = Matrix(layout.Rows, 8, sum, random);
        if (saturation.Length > 0)
            c[3, 5] = int.MaxValue;
        bool wide = left == "f64";
        int per = wide ? 2 : 1;
        uint[][] lanes = [.. Enumerable.Range(0, 32).Select(lane => (uint[])
        [
            .. Pack(a, layout.OfA, layout.A, lane, left), .. Pack(b, layout.OfB, layout.B, lane, right), .. Pack(c, layout.OfC, layout.C, lane, sum),
        ])];
        int registers = lanes[0].Length / per, results = layout.C * Width(sum) / 32 / per, nA = layout.A * Width(left) / 32 / per, nB = layout.B * Width(right) / 32 / per;
        string r = wide ? "%fd" : "%r", load = wide ? "b64" : "b32";
        string s = sum == "f32" ? "%f" : r;
        string loads = string.Concat(Enumerable.Range(0, registers).Select(i => $"ld.global.{load} {(i < nA + nB ? r : s)}{i}, [%rd0+{4 * per * i}]; "));
        string List(string prefix, int first, int count) => "{" + string.Join(", ", Enumerable.Range(first, count).Select(i => prefix + i)) + "}";
        int d = sum == "f32" ? 0 : registers;
        string stores = string.Concat(Enumerable.Range(0, results).Select(i => $"st.global.{load} [%rd1+{4 * per * i}], {s}{d + i}; "));
        uint[] memory = PtxText.Run(
            $"ld.param.u64 %rd0, [p]; mov.b32 %r30, %tid.x; mad.wide.u32 %rd1, %r30, {4 * per * results}, %rd0; add.u64 %rd1, %rd1, {128 * per * registers}; "
            + $"mad.wide.u32 %rd0, %r30, {4 * per * registers}, %rd0; {loads}"
            + $"mma.sync.aligned.{shape}.row.col{saturation}.{sum}.{left}.{right}.{sum} "
            + $"{List(s, d, results)}, {List(r, 0, nA)}, {List(r, nA, nB)}, {List(s, nA + nB, results)}; {stores} ret;",
            32, 0, [.. lanes.SelectMany(lane => lane), .. new uint[32 * per * results]]);
        for (int lane = 0; lane < 32; lane++)
            for (int i = 0; i < layout.C; i++)
            {
                var (row, column) = layout.OfC(lane / 4, lane % 4, i);
                double expected = c[row, column];
                for (int k = 0; k < layout.Depth; k++)
                    expected += a[row, k] * b[k, column];
                if (saturation.Length > 0)
                    expected = Math.Clamp(expected, int.MinValue, int.MaxValue);
                int at = (32 * per * registers) + (lane * per * results) + (i * Width(sum) / 32);
                ulong bits = wide ? memory[at] | ((ulong)memory[at + 1] << 32) : memory[at] >> (i * Width(sum) % 32) & (Width(sum) == 16 ? 0xFFFF : 0xFFFF_FFFF);
                Assert.Equal(expected, Value(bits, sum));
            }
    }

    [Theory]
    [InlineData(2048, 2056)]
    [InlineData(2047, 2056)]
    [InlineData(2045, 2052)]
    [InlineData(65504, 65504)]
    public void Sums_of_halves_are_rounded_once_to_even(double c, double expected)
    {
        // Rows of eight 2s times columns of eight halves make 8; above 2048 every second whole number is a half.
        static uint Pair(double x) => (uint)BitConverter.HalfToUInt16Bits((Half)x) * 0x10001;
        uint[] result = PtxText.Run(
            $"ld.param.u64 %rd0, [p]; mov.b32 %r0, {Pair(2)}; mov.b32 %r1, {Pair(0.5)}; mov.b32 %r2, {Pair(c)}; "
            + "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r4, %r5}, {%r0, %r0}, {%r1}, {%r2, %r2}; st.global.b32 [%rd0], %r4; ret;", 32, 0);
        Assert.Equal(expected, (double)BitConverter.UInt16BitsToHalf((ushort)result[0]));
    }

    [Theory]
    [InlineData(1, false)]
    [InlineData(2, false)]
    [InlineData(4, false)]
    [InlineData(1, true)]
    [InlineData(2, true)]
    [InlineData(4, true)]
    public void Ldmatrix_hands_each_lane_its_pair_of_every_matrix(int count, bool transpose)
    {
        // Row n of all 32 lies at 48 n bytes, in reverse order; value j of row i of matrix m is 64 m + 8 i + j.
        string fill = string.Concat(Enumerable.Range(0, 4).Select(i => $"add.u32 %r4, %r3, {0x00010000 + (0x00020002 * i)}; st.shared.b32 [%r1+{4 * i}], %r4; "));
        string d = string.Join(", ", Enumerable.Range(10, count).Select(i => $"%r{i}"));
        string stores = string.Concat(Enumerable.Range(0, count).Select(i => $"st.global.b32 [%rd1+{4 * i}], %r{10 + i}; "));
        uint[] result = PtxText.Run(
            "ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; sub.u32 %r1, 31, %r0; mul.lo.u32 %r1, %r1, 48; mul.lo.u32 %r3, %r0, 0x00080008; "
            + fill + $"bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x{count}{(transpose ? ".trans" : "")}.shared.b16 {{{d}}}, [%r1]; "
            + $"mad.wide.u32 %rd1, %r0, {4 * count}, %rd0; {stores} ret;", 32, 32 * 48);
        for (int lane = 0; lane < 32; lane++)
            for (int m = 0; m < count; m++)
            {
                int i = lane / 4, j = 2 * (lane % 4);
                uint low = (uint)((64 * m) + (transpose ? (8 * j) + i : (8 * i) + j)), high = (uint)((64 * m) + (transpose ? (8 * (j + 1)) + i : (8 * i) + j + 1));
                Assert.Equal(low | (high << 16), result[(lane * count) + m]);
            }
    }

    [Fact]
    public void Movmatrix_transposes_between_lanes()
    {
        uint[] result = PtxText.Run(
            "ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; mad.lo.u32 %r1, %r0, 0x00020002, 0x00010000; movmatrix.sync.aligned.m8n8.trans.b16 %r2, %r1; "
            + "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.b32 [%rd1], %r2; ret;", 32, 0);
        for (int lane = 0; lane < 32; lane++)
        {
            int row = lane / 4, column = 2 * (lane % 4);
            Assert.Equal((uint)((8 * column) + row) | ((uint)((8 * (column + 1)) + row) << 16), result[lane]);
        }
    }

    [Theory]
    [InlineData("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%f0}, {%r0}, {%r1}, {%f1};")]
    [InlineData("mma.sync.aligned.m16n8k16.row.col.f32.bf16.f16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1, %r2, %r3}, {%r4, %r5}, {%f0, %f1, %f2, %f3};")]
    [InlineData("mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0}, {%r0}, {%r1}, {%f1}, %r2, 0;")]
    [InlineData("mma.sync.aligned.m16n8k8.row.col.satfinite.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1}, {%r4}, {%f0, %f1, %f2, %f3};")]
    [InlineData("wgmma.fence.sync.aligned;")]
    [InlineData("ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r0, %r1, %r2}, [%r3];")]
    [InlineData("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r3], {%r0};")]
    public void Shapes_that_sm_80_lacks_are_refused(string instruction) =>
        Assert.Contains("not known", Assert.Throws<PtxEmulator.PtxSyntaxException>(() => PtxEmulator.PtxProgram.Parse(PtxText.Kernel(instruction))).Message);

    [Fact]
    public void Half_a_warp_cannot_multiply() => Assert.Contains("all 32 lanes", PtxText.Fails(
        "mov.b32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 16; @%p0 mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%r4, %r5}, {%r0, %r0}, {%r1}, {%r2, %r2}; ret;").Message);
}
