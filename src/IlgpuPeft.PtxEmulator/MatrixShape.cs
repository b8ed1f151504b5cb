namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// `mma.sync` of any shape that sm_80 has: D [M, 8] = A [M, K] B [K, 8] + C [M, 8], M 16 or 8, with the fragments spread over the warp as
/// the PTX manual has it. With g = lane / 4, t = lane mod 4 and e elements in a register, element j of register i is
/// A[g + 8 (i mod 2), e t + j + 4 e (i / 2)] (of M = 8: A[g, e t + j]), B[e t + j + 4 e i, g], and in C and D with two elements to a
/// pair [g + 8 p, 2 t + q], where q counts within a pair and p the pairs.
/// Floating point sums are made in double precision, with C, and rounded once; a GPU's own order and intermediate rounding are not
/// specified. Integer sums are exact, and wrap or with `.satfinite` saturate.
/// </summary>
sealed unsafe class MatrixShape(MatrixShape.Layout layout, Register[] d, Register[] a, Register[] b, Register[] c) : Instruction
{
    /// <summary>Rows M, depth K, the element types, and whether integer sums saturate.</summary>
    public sealed record Layout(int Rows, int Depth, string Left, string Right, string Sum, bool Saturates)
    {
        /// <summary>Bits of an element of A and B.</summary>
        public int Bits => Left switch { "f64" => 64, "tf32" => 32, "f16" or "bf16" => 16, _ => 8 };

        public int RegisterSize => Left == "f64" ? 8 : 4;

        /// <summary>Elements in one register of A and B, and of C and D.</summary>
        public int PerRegister => 8 * RegisterSize / Bits;

        public int SumsPerRegister => Sum == "f16" ? 2 : 1;

        public int LeftRegisters => Rows * Depth / (EmulatedWarp.Size * PerRegister);

        public int RightRegisters => 8 * Depth / (EmulatedWarp.Size * PerRegister);

        public int SumRegisters => Rows * 8 / (EmulatedWarp.Size * SumsPerRegister);
    }

    public override InstructionClass Class => InstructionClass.TensorCore;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (mask != uint.MaxValue)
            throw warp.Fault("mma needs all 32 lanes of the warp", mask);
        int depth = layout.Depth, per = layout.PerRegister, halves = layout.Rows / 8;
        double* left = stackalloc double[16 * depth], right = stackalloc double[8 * depth], sums = stackalloc double[16 * 8];
        for (int lane = 0; lane < EmulatedWarp.Size; lane++)
        {
            int g = lane / 4, t = lane % 4;
            for (int i = 0; i < a.Length; i++)
                for (int j = 0; j < per; j++)
                    left[((g + (8 * (i % halves))) * depth) + (per * t) + j + (4 * per * (i / halves))] = Element(warp, a[i], lane, j, layout.Left);
            for (int i = 0; i < b.Length; i++)
                for (int j = 0; j < per; j++)
                    right[(g * depth) + (per * t) + j + (4 * per * i)] = Element(warp, b[i], lane, j, layout.Right);
            for (int n = 0; n < 2 * halves; n++)
                sums[((g + (8 * (n / 2))) * 8) + (2 * t) + (n % 2)] = Element(warp, c[n / layout.SumsPerRegister], lane, n % layout.SumsPerRegister, layout.Sum);
        }
        for (int row = 0; row < layout.Rows; row++)
            for (int column = 0; column < 8; column++)
            {
                // The small products first, as C may be large.
                double sum = 0;
                for (int k = 0; k < depth; k++)
                    sum += left[(row * depth) + k] * right[(column * depth) + k];
                sums[(row * 8) + column] += sum;
            }
        for (int lane = 0; lane < EmulatedWarp.Size; lane++)
        {
            int g = lane / 4, t = lane % 4;
            for (int i = 0; i < d.Length; i++)
            {
                ulong bits = 0;
                for (int j = layout.SumsPerRegister - 1; j >= 0; j--)
                {
                    int n = (i * layout.SumsPerRegister) + j;
                    bits = (bits << 16) | Pattern(sums[((g + (8 * (n / 2))) * 8) + (2 * t) + (n % 2)]);
                }
                RegisterLanes.Write(warp.Registers + d[i].Slot, d[i].LaneSize, lane, bits);
            }
        }
        warp.Counters.MatrixMultiplies++;
    }

    ulong Pattern(double sum) => layout.Sum switch
    {
        "f64" => FloatFormat.F64.FromDouble(sum, Rounding.Nearest),
        "f32" => FloatFormat.F32.FromDouble(sum, Rounding.Nearest),
        "f16" => FloatFormat.F16.FromDouble(sum, Rounding.Nearest),
        _ => (uint)(layout.Saturates ? int.CreateSaturating(sum) : (int)(long)sum),
    };

    static double Element(EmulatedWarp warp, Register register, int lane, int index, string type)
    {
        ulong bits = RegisterLanes.Read(warp.Registers + register.Slot, register.LaneSize, lane);
        return type switch
        {
            "f64" => BitConverter.UInt64BitsToDouble(bits),
            "f32" => BitConverter.UInt32BitsToSingle((uint)bits),
            // The low 13 bits of a float are not read.
            "tf32" => BitConverter.UInt32BitsToSingle((uint)bits & 0xFFFF_E000),
            "bf16" => Floats.FromBf16((ushort)(bits >> (16 * index))),
            "f16" => (double)BitConverter.UInt16BitsToHalf((ushort)(bits >> (16 * index))),
            "s8" => (sbyte)(bits >> (8 * index)),
            "u8" => (byte)(bits >> (8 * index)),
            _ => (int)bits,
        };
    }
}

/// <summary>`movmatrix`: transposes an 8x8 matrix of 16-bit values that is spread over the warp as `ldmatrix` loads one.</summary>
sealed unsafe class TransposeMatrix(Register d, Register a) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (mask != uint.MaxValue)
            throw warp.Fault("movmatrix needs all 32 lanes of the warp", mask);
        ushort* from = (ushort*)(warp.Registers + a.Slot), to = (ushort*)(warp.Registers + d.Slot);
        ushort* matrix = stackalloc ushort[64];
        // In this order of lanes and halves the registers are the matrix, row by row.
        new ReadOnlySpan<ushort>(from, 64).CopyTo(new Span<ushort>(matrix, 64));
        for (int row = 0; row < 8; row++)
            for (int column = 0; column < 8; column++)
                to[(8 * row) + column] = matrix[(8 * column) + row];
    }
}
