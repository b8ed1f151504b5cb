using System.Text;
using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Values;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The PTX of <see cref="WarpTileIntrinsics"/>. Fragment (i, j) of a tile, 16 rows by 8 columns, is four consecutive registers; fragments are numbered row by row. Of 16 x 16 values in
/// shared memory lane l addresses row l mod 16, chunk l / 16, for either operand and either order; which matrix belongs where then follows from operand and order.
/// </summary>
static class PtxWarpTile
{
    const int Steps = WarpTileIntrinsics.Depth / 16;

    public static void MultiplyAdd(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] sums = InPlace(generator, value);
        var (rows, columns) = Extents(sums.Length);
        var text = generator.Builder;
        text.AppendLine("\t{");
        var a = new Fragments(text, "a", rows, Operand(generator, call[1]), Operand(generator, call[2]), Constant(call[5]).Int1Value);
        var b = new Fragments(text, "b", columns, Operand(generator, call[3]), Operand(generator, call[4]), Constant(call[6]).Int1Value);
        a.Load(0);
        b.Load(0);
        for (int step = 0; step < Steps; step++)
        {
            if (step + 1 < Steps)
            {
                a.Load(step + 1); // ahead of the multiplies that hide it; two steps' fragments fit beside the sums
                b.Load(step + 1);
            }

            for (int i = 0; i < rows / 16; i++)
            {
                for (int j = 0; j < columns / 8; j++)
                {
                    string target = string.Join(", ", sums.AsSpan(4 * (i * columns / 8 + j), 4).ToArray());
                    text.AppendLine($"\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{target}}}, {{{a.Rows16(step, i)}}}, {{{b.Columns8(step, j)}}}, {{{target}}};");
                }
            }
        }

        text.AppendLine("\t}");
    }

    public static void Scale(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        string factor = Operand(generator, ((MethodCall)value)[1]);
        foreach (string sum in InPlace(generator, value))
        {
            generator.Builder.AppendLine($"\tmul.rn.f32 {sum}, {sum}, {factor};");
        }
    }

    public static void StoreRows(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] sums = [.. PtxIntrinsics.Registers(generator, call[0]).Select(PtxIntrinsics.Name)];
        string band = Operand(generator, call[1]), shared = Operand(generator, call[2]);
        var (rows, columns) = Extents(sums.Length);
        int pitch = 4 * (columns + WarpTileIntrinsics.BandPadding);
        var text = generator.Builder;
        text.AppendLine("\t{").AppendLine("\t.reg .pred chosen;");
        for (int i = 0; i < rows / 16; i++)
        {
            text.AppendLine($"\tsetp.eq.s32 chosen, {band}, {i};");
            for (int j = 0; j < columns / 8; j++)
            {
                int sum = 4 * (i * columns / 8 + j);
                text.AppendLine($"\t@chosen st.shared.v2.f32 [{shared}+{32 * j}], {{{sums[sum]}, {sums[sum + 1]}}};");
                text.AppendLine($"\t@chosen st.shared.v2.f32 [{shared}+{8 * pitch + 32 * j}], {{{sums[sum + 2]}, {sums[sum + 3]}}};");
            }
        }

        text.AppendLine("\t}");
    }

    public static void CopyRowsAsync(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string shared = Operand(generator, call[0]), step = Operand(generator, call[2]), rows = Operand(generator, call[3]), bytes = Operand(generator, call[4]);
        string global = PtxIntrinsics.Name(PtxIntrinsics.Address(generator, call[1], MemoryAddressSpace.Global));
        int count = Constant(call[5]).Int32Value, rowStep = Constant(call[6]).Int32Value, sharedStep = Constant(call[7]).Int32Value;
        var text = generator.Builder;
        text.AppendLine("\t{").AppendLine("\t.reg .pred exists;").AppendLine("\t.reg .b32 used;").AppendLine("\t.reg .b64 from;").AppendLine($"\tmov.b64 from, {global};");
        for (int i = 0; i < count; i++)
        {
            text.AppendLine($"\tsetp.gt.s32 exists, {rows}, {i * rowStep};").AppendLine($"\tselp.b32 used, {bytes}, 0, exists;");
            text.AppendLine($"\tcp.async.cg.shared.global [{shared}+{i * sharedStep}], [from], 16, used;").AppendLine($"\tadd.s64 from, from, {step};");
        }

        text.AppendLine("\t}");
    }

    /// <summary>Lets the result of a call live in the registers of its first operand, and names them.</summary>
    static string[] InPlace(PTXCodeGenerator generator, Value value)
    {
        generator.Bind(value, generator.Load(((MethodCall)value)[0]));
        return [.. generator.LoadAs<PTXCodeGenerator.CompoundRegister>(value).Children.Select(child => PtxIntrinsics.Name((PTXCodeGenerator.PrimitiveRegister)child))];
    }

    static string Operand(PTXCodeGenerator generator, Value value) => PtxIntrinsics.Name(PtxIntrinsics.Hardware(generator, generator.LoadPrimitive(value)));

    static PrimitiveValue Constant(Value value) => value.Resolve() as PrimitiveValue ?? throw new NotSupportedException($"PtxWarpTile: an operand is {value.Resolve()}, expected a constant.");

    static (int Rows, int Columns) Extents(int registers) => registers switch { 32 => (32, 32), 64 => (64, 32), _ => (64, 64) };

    /// <summary>
    /// The fragments of one operand, in registers of its name. Of a tile stored [extent, depth] the next 16 rows lie at a fixed distance, and steps differ in the bits that the swizzle
    /// exchanges; by depth, the other way round. Matrices of 16 x 16 values come as (rows 0-7, chunk 0), (rows 8-15, chunk 0), (rows 0-7, chunk 1), (rows 8-15, chunk 1).
    /// </summary>
    sealed class Fragments
    {
        readonly StringBuilder text;
        readonly string name, tile, offset;
        readonly int count, pitch;
        readonly bool byDepth;

        public Fragments(StringBuilder text, string name, int extent, string tile, string offset, bool byDepth)
        {
            this.text = text;
            this.name = name;
            this.tile = tile;
            this.offset = offset;
            this.byDepth = byDepth;
            count = extent / 16;
            pitch = byDepth ? 4 * extent : 2 * WarpTileIntrinsics.Depth;
            text.AppendLine($"\t.reg .b32 {name}<{4 * Steps * count}>, {name}place;");
        }

        /// <summary>Loads all blocks of 16 x 16 values of a step.</summary>
        public void Load(int step)
        {
            for (int block = 0; block < count; block++)
            {
                var (chunk, row) = byDepth ? (block, step) : (step, block);
                if (byDepth || block == 0)
                {
                    text.AppendLine($"\txor.b32 {name}place, {offset}, {32 * chunk};").AppendLine($"\tadd.u32 {name}place, {name}place, {tile};");
                }

                text.AppendLine($"\tldmatrix.sync.aligned.m8n8.x4{(byDepth ? ".trans" : "")}.shared.b16 {{{Matrices(step, block, 0, 1, 2, 3)}}}, [{name}place+{16 * pitch * row}];");
            }
        }

        /// <summary>The left operand of a multiply: (rows 0-7, depth 0-7), (rows 8-15, depth 0-7), (rows 0-7, depth 8-15), (rows 8-15, depth 8-15).</summary>
        public string Rows16(int step, int block) => byDepth ? Matrices(step, block, 0, 2, 1, 3) : Matrices(step, block, 0, 1, 2, 3);

        /// <summary>The right operand of a multiply: depth 0-7 and depth 8-15 of eight columns.</summary>
        public string Columns8(int step, int eight) => byDepth
            ? Matrices(step, eight / 2, eight % 2 * 2, eight % 2 * 2 + 1)
            : Matrices(step, eight / 2, eight % 2, eight % 2 + 2);

        string Matrices(int step, int block, params int[] matrices) => string.Join(", ", matrices.Select(i => $"{name}{4 * (step * count + block) + i}"));
    }
}
