using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Values;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The PTX of <see cref="WarpTileIntrinsics"/>. Fragment (i, j) of a tile, 16 rows by 8 columns, is four consecutive registers; fragments are numbered row by row. Of 16 x 16 values in
/// shared memory lane l addresses row l mod 16, chunk l / 16, for either operand and either order; which of the four matrices is which fragment then follows from order and operand.
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
        text.AppendLine("\t{").AppendLine($"\t.reg .b32 place, a<{Steps * rows / 4}>, b<{Steps * columns / 4}>;");
        Load("a", rows, 1, Constant(call[5]).Int1Value);
        Load("b", columns, 3, Constant(call[6]).Int1Value);
        for (int step = 0; step < Steps; step++)
        {
            for (int i = 0; i < rows / 16; i++)
            {
                for (int j = 0; j < columns / 8; j++)
                {
                    Multiply(step, i, j);
                }
            }
        }

        text.AppendLine("\t}");

        // Of a tile stored [extent, depth] the rows of one step are at one offset from the next 16 rows, and steps differ in the bits that the swizzle exchanges; by depth, the other way round.
        void Load(string name, int extent, int operand, bool byDepth)
        {
            string tile = Operand(generator, call[operand]), offset = Operand(generator, call[operand + 1]);
            int count = extent / 16, pitch = byDepth ? 4 * extent : 2 * WarpTileIntrinsics.Depth, outer = byDepth ? count : Steps, inner = byDepth ? Steps : count;
            for (int chunk = 0; chunk < outer; chunk++)
            {
                text.AppendLine($"\txor.b32 place, {offset}, {32 * chunk};").AppendLine($"\tadd.u32 place, place, {tile};");
                for (int row = 0; row < inner; row++)
                {
                    int first = 4 * (byDepth ? row * count + chunk : chunk * count + row);
                    string target = string.Join(", ", Enumerable.Range(first, 4).Select(i => $"{name}{i}"));
                    text.AppendLine($"\tldmatrix.sync.aligned.m8n8.x4{(byDepth ? ".trans" : "")}.shared.b16 {{{target}}}, [place+{16 * pitch * row}];");
                }
            }
        }

        // Matrices of a 16 x 16 block, in the order loaded: (rows 0-7, chunk 0), (rows 8-15, chunk 0), (rows 0-7, chunk 1), (rows 8-15, chunk 1).
        void Multiply(int step, int i, int j)
        {
            bool aByDepth = Constant(call[5]).Int1Value, bByDepth = Constant(call[6]).Int1Value;
            int a = 4 * (step * rows / 16 + i), b = 4 * (step * columns / 16 + j / 2), sum = 4 * (i * columns / 8 + j);
            string left = aByDepth ? $"a{a}, a{a + 2}, a{a + 1}, a{a + 3}" : $"a{a}, a{a + 1}, a{a + 2}, a{a + 3}";
            string right = bByDepth ? $"b{b + j % 2 * 2}, b{b + j % 2 * 2 + 1}" : $"b{b + j % 2}, b{b + j % 2 + 2}";
            string target = string.Join(", ", sums[sum..(sum + 4)]);
            text.AppendLine($"\tmma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{{target}}}, {{{left}}}, {{{right}}}, {{{target}}};");
        }
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
}
