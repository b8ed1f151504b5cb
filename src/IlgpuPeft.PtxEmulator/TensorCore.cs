namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// `ldmatrix`: loads 8x8 matrices of 16-bit values, whose rows are 16 bytes at the addresses of lanes 8m..8m+7 for matrix m. Lane l
/// receives of each matrix row l / 4 the values 2 (l mod 4) and the next; transposed, of each column.
/// </summary>
sealed unsafe class LoadMatrix(Register[] values, Register start, long offset, bool transpose) : Instruction
{
    const int RowBytes = 16;

    public override InstructionClass Class => InstructionClass.Memory;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (mask != uint.MaxValue)
            throw warp.Fault("ldmatrix needs all 32 lanes of the warp", mask);
        ulong* addresses = stackalloc ulong[EmulatedWarp.Size];
        MemoryAccess.Addresses(warp, start, offset, addresses);
        uint rows = values.Length == 4 ? uint.MaxValue : (1u << (8 * values.Length)) - 1;
        Allocation? last = null;
        MemoryAccess.Check(warp, Space.Shared, addresses, rows, RowBytes, ref last);
        MemoryAccess.Count(warp, Space.Shared, addresses, rows, RowBytes, store: false);
        var shared = warp.Block.Shared;
        for (int row = 0; row < 8 * values.Length; row++)
            if (shared.Read(warp, row, addresses[row], RowBytes) is { } problem)
                throw PtxEmulatorException.At(warp, row, problem, addresses[row]);
        for (int m = 0; m < values.Length; m++)
        {
            uint* to = (uint*)(warp.Registers + values[m].Slot);
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
            {
                int i = lane / 4, j = 2 * (lane % 4);
                to[lane] = transpose
                    ? Value(shared, addresses[(8 * m) + j], i) | ((uint)Value(shared, addresses[(8 * m) + j + 1], i) << 16)
                    : Value(shared, addresses[(8 * m) + i], j) | ((uint)Value(shared, addresses[(8 * m) + i], j + 1) << 16);
            }
        }
    }

    static ushort Value(BlockMemory shared, ulong row, int column) => ((ushort*)(shared.Data + row))[column];
}

/// <summary>
/// `mma.sync.m16n8k16`: D [16, 8] = A [16, 16] B [16, 8] + C [16, 8] with the fragments spread over the warp as the PTX manual has it:
/// with g = lane / 4 and t = lane mod 4, A registers hold rows g, g + 8, g, g + 8 and columns 2t, 2t, 2t + 8, 2t + 8 (and the next),
/// B registers rows 2t and 2t + 8 (and the next) of column g, C and D rows g, g, g + 8, g + 8 and columns 2t, 2t + 1, 2t, 2t + 1.
/// Each element is the sum of its 16 exact products and C in double precision, rounded to float once; a GPU's own order and
/// intermediate rounding are not specified.
/// </summary>
sealed unsafe class MatrixMultiply(bool brain, Register[] d, Register[] a, Register[] b, Register[] c) : Instruction
{
    public override InstructionClass Class => InstructionClass.TensorCore;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (mask != uint.MaxValue)
            throw warp.Fault("mma needs all 32 lanes of the warp", mask);
        float* left = stackalloc float[16 * 16], right = stackalloc float[8 * 16], sums = stackalloc float[16 * 8];
        for (int lane = 0; lane < EmulatedWarp.Size; lane++)
        {
            int g = lane / 4, t = 2 * (lane % 4);
            for (int i = 0; i < 4; i++)
                Split(Lane(warp, a[i], lane), left + ((g + (8 * (i % 2))) * 16) + t + (8 * (i / 2)));
            for (int i = 0; i < 2; i++)
                Split(Lane(warp, b[i], lane), right + (g * 16) + t + (8 * i));
            for (int i = 0; i < 4; i++)
                sums[((g + (8 * (i / 2))) * 8) + t + (i % 2)] = BitConverter.UInt32BitsToSingle(Lane(warp, c[i], lane));
        }
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++)
            {
                double sum = 0;
                for (int k = 0; k < 16; k++)
                    sum += (double)left[(row * 16) + k] * right[(column * 16) + k];
                sums[(row * 8) + column] = (float)(sum + sums[(row * 8) + column]);
            }
        for (int lane = 0; lane < EmulatedWarp.Size; lane++)
        {
            int g = lane / 4, t = 2 * (lane % 4);
            for (int i = 0; i < 4; i++)
                ((float*)(warp.Registers + d[i].Slot))[lane] = sums[((g + (8 * (i / 2))) * 8) + t + (i % 2)];
        }
        warp.Counters.MatrixMultiplies++;
    }

    void Split(uint pair, float* to)
    {
        to[0] = brain ? Floats.FromBf16((ushort)pair) : (float)BitConverter.UInt16BitsToHalf((ushort)pair);
        to[1] = brain ? Floats.FromBf16((ushort)(pair >> 16)) : (float)BitConverter.UInt16BitsToHalf((ushort)(pair >> 16));
    }

    static uint Lane(EmulatedWarp warp, Register register, int lane) => ((uint*)(warp.Registers + register.Slot))[lane];
}
