using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

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
        var shape = warp.Block.Shape(this);
        shape.Fit(addresses, rows, RowBytes);
        Allocation? none = null;
        MemoryAccess.Check(warp, Space.Shared, shape, addresses, rows, RowBytes, ref none);
        MemoryAccess.Count(warp, Space.Shared, shape, addresses, rows, RowBytes, store: false);
        var shared = warp.Block.Shared;
        if (shape.Words is not { } words || !shared.Read(warp, shape, words))
            for (int row = 0; row < 8 * values.Length; row++)
                if (shared.Read(warp, row, addresses[row], RowBytes) is { } problem)
                    throw PtxEmulatorException.At(warp, row, problem, addresses[row]);
        for (int m = 0; m < values.Length; m++)
        {
            // The lanes of a register are the matrix itself, row after row.
            var to = (ushort*)(warp.Registers + values[m].Slot);
            for (int i = 0; i < 8; i++)
            {
                var row = (ushort*)(shared.Data + addresses[(8 * m) + i]);
                if (transpose)
                    for (int j = 0; j < 8; j++)
                        to[(8 * j) + i] = row[j];
                else
                    Vector128.Load(row).StoreAligned(to + (8 * i));
            }
        }
    }
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

    [SkipLocalsInit]
    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (mask != uint.MaxValue)
            throw warp.Fault("mma needs all 32 lanes of the warp", mask);
        // The 64 values of a register of A are an 8x8 part of it, row after row: rows 0-7 or 8-15, columns 0-7 or 8-15. Those of B are a part
        // of its transpose.
        double* left = stackalloc double[16 * 16], right = stackalloc double[16 * 8], result = stackalloc double[16 * 8];
        double* column = stackalloc double[8];
        for (int i = 0; i < 4; i++)
            for (int row = 0; row < 8; row++)
                Widen((ushort*)(warp.Registers + a[i].Slot) + (8 * row), left + (16 * (row + (8 * (i % 2)))) + (8 * (i / 2)));
        for (int i = 0; i < 2; i++)
            for (int n = 0; n < 8; n++)
            {
                Widen((ushort*)(warp.Registers + b[i].Slot) + (8 * n), column);
                for (int k = 0; k < 8; k++)
                    right[(8 * (k + (8 * i))) + n] = column[k];
            }
        for (int row = 0; row < 16; row++)
        {
            Vector512<double> sum = default;
            for (int k = 0; k < 16; k++)
                sum += Vector512.Create(left[(16 * row) + k]) * Vector512.Load(right + (8 * k));
            sum.Store(result + (8 * row));
        }
        // Registers 0 and 1 of C hold its upper eight rows in turns, 2 and 3 the lower. All of C before any of D: they may be the same
        // registers in another order.
        for (int i = 0; i < 4; i++)
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                result[(64 * (i / 2)) + (2 * lane) + (i % 2)] += ((float*)(warp.Registers + c[i].Slot))[lane];
        for (int i = 0; i < 4; i++)
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                ((float*)(warp.Registers + d[i].Slot))[lane] = (float)result[(64 * (i / 2)) + (2 * lane) + (i % 2)];
        warp.Counters.MatrixMultiplies++;
    }

    /// <summary>Eight values in double precision, which holds their products exactly.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    void Widen(ushort* from, double* to)
    {
        Vector256<float> values;
        if (brain)
            values = (Vector256.WidenLower(Vector256.Create(Vector128.LoadAligned(from), default)) << 16).AsSingle();
        else
            values = Vector256.Create(
                Half(from[0]), Half(from[1]), Half(from[2]), Half(from[3]), Half(from[4]), Half(from[5]), Half(from[6]), Half(from[7]));
        var (lower, upper) = Vector256.Widen(values);
        lower.Store(to);
        upper.Store(to + 4);
    }

    static float Half(ushort bits) => (float)BitConverter.UInt16BitsToHalf(bits);
}
