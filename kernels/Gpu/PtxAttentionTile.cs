using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Values;
using static IlgpuPeft.Kernels.PtxBlock;

namespace IlgpuPeft.Kernels;

/// <summary>The PTX of <see cref="AttentionTile"/>. Each generator appends a block of text with registers of its own; loops here are the unrolled loops of the kernel.</summary>
static partial class PtxAttentionTile
{
    public static void Multiply(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        int width = Constant(call[2]), rowBlocks = Constant(call[3]);
        string[] left = Names(generator, call[0]), right = Names(generator, call[1]);
        generator.Allocate(value);
        string[] sums = Names(generator, value);
        int tiles = sums.Length / 4 / rowBlocks;
        var layout = new TileLayout(width);
        using var text = new PtxBlock(generator);
        text.Line($".reg .b32 a<{4 * rowBlocks}>, b<4>;");
        TileLayout.Chunks(text, "l", left, layout.Pairs, 2);
        TileLayout.Chunks(text, "r", right, layout.Pairs, 2);
        foreach (string sum in sums)
        {
            text.Line($"mov.f32 {sum}, 0f00000000;");
        }

        for (int step = 0; step < width / 16; step++)
        {
            for (int block = 0; block < rowBlocks; block++)
            {
                text.Line($"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {List("a", 4 * block, 4)}, [{layout.At("l", 2 * step, 16 * block)}];");
            }

            for (int tile = 0; tile < tiles; tile += 2)
            {
                text.Line($"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {List("b", 0, 4)}, [{layout.At("r", 2 * step, 8 * tile)}];");
                TwoColumnTiles(text, sums, tile, rowBlocks);
            }
        }
    }

    public static void MultiplyAdd(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        int rowBlocks = Constant(call[3]);
        string[] p = Names(generator, call[1]), right = Names(generator, call[2]), sums = InPlace(generator, value);
        int tiles = sums.Length / 4 / rowBlocks, steps = p.Length / 8 / rowBlocks;
        var layout = new TileLayout(8 * tiles);
        using var text = new PtxBlock(generator);
        text.Line($".reg .b32 a<{4 * rowBlocks}>, b<4>;");
        TileLayout.Chunks(text, "r", right, layout.Pairs, 2);
        for (int step = 0; step < steps; step++)
        {
            // Two neighbouring score fragments are the left operand of a multiply over 16 columns, lane for lane.
            for (int i = 0; i < 4 * rowBlocks; i++)
            {
                int at = 8 * (i / 4 * steps + step) + 2 * (i % 4);
                text.Line($"cvt.rn.bf16x2.f32 a{i}, {p[at + 1]}, {p[at]};");
            }

            for (int tile = 0; tile < tiles; tile += 2)
            {
                text.Line($"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {List("b", 0, 4)}, [{layout.At("r", tile, 16 * step)}];");
                TwoColumnTiles(text, sums, tile, rowBlocks);
            }
        }
    }

    public static void Store(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        int rowBlocks = Constant(call[2]);
        string[] elements = Names(generator, call[0]), row = Names(generator, call[1]);
        int tiles = elements.Length / 4 / rowBlocks;
        var layout = new TileLayout(8 * tiles);
        using var text = new PtxBlock(generator);
        text.Line(".reg .b32 pair;");
        TileLayout.Chunks(text, "d", row, layout.Mask + 1, 1);
        for (int i = 0; i < elements.Length; i += 2)
        {
            text.Line($"cvt.rn.bf16x2.f32 pair, {elements[i + 1]}, {elements[i]};");
            text.Line($"st.shared.b32 [{layout.At("d", i / 4 % tiles, 8 * Row(i, elements.Length, 2 * rowBlocks), 1)}], pair;");
        }
    }

    public static void StoreRows(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] rows = Names(generator, call[0]);
        string address = Register(generator, call[1]);
        using var text = new PtxBlock(generator);
        for (int i = 0; i < rows.Length; i++)
        {
            text.Line($"st.shared.f32 [{address}+{32 * i}], {rows[i]};");
        }
    }

    /// <summary>Multiplies fragments a of every row block with the two right operands that one ldmatrix gave, column tiles <paramref name="tile"/> and the next.</summary>
    static void TwoColumnTiles(PtxBlock text, string[] sums, int tile, int rowBlocks)
    {
        int tiles = sums.Length / 4 / rowBlocks;
        for (int block = 0; block < rowBlocks; block++)
        {
            for (int half = 0; half < 2; half++)
            {
                string sum = $"{{{string.Join(", ", sums.AsSpan(4 * (block * tiles + tile + half), 4).ToArray())}}}";
                text.Line($"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {sum}, {List("a", 4 * block, 4)}, {List("b", 2 * half, 2)}, {sum};");
            }
        }
    }

    /// <summary>Which of the lane's rows an element is of.</summary>
    static int Row(int element, int elements, int rows) => element / (elements / (rows / 2)) * 2 + element % 4 / 2;

    static string List(string name, int from, int count) => $"{{{string.Join(", ", Enumerable.Range(from, count).Select(i => name + i))}}}";

    /// <summary>Names the addresses of a lane's chunks in a swizzled tile of this width.</summary>
    readonly struct TileLayout(int width)
    {
        public int Mask { get; } = SharedRows.SwizzleMask(width);

        /// <summary>Different addresses that a lane has for pairs of chunks: whatever the swizzle leaves alone is added as a constant.</summary>
        public int Pairs => (Mask + 1) / 2;

        /// <summary>Computes the lane's first address of each of <paramref name="count"/> kinds, for chunks <paramref name="step"/> apart.</summary>
        public static void Chunks(PtxBlock text, string name, string[] row, int count, int step)
        {
            text.Line($".reg .b32 {name}<{count}>;");
            for (int i = 0; i < count; i++)
            {
                text.Line($"xor.b32 {name}{i}, {row[1]}, {16 * step * i};");
                text.Line($"add.u32 {name}{i}, {name}{i}, {row[0]};");
            }
        }

        /// <summary>The address of a chunk, <paramref name="rows"/> below the lane's row.</summary>
        public string At(string name, int chunk, int rows, int step = 2) => $"{name}{(chunk & Mask) / step}+{16 * (chunk & ~Mask) + 2 * width * rows}";
    }
}
