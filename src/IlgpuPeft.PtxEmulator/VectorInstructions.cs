using System.Numerics;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>d = a · b (+ c), with 32-bit factors and a 64-bit result.</summary>
sealed unsafe class MultiplyWide(bool signed, Register d, Register a, Register b, Register? c) : Instruction
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers;
        uint* x = (uint*)(r + a.Slot), y = (uint*)(r + b.Slot);
        ulong* to = (ulong*)(r + d.Slot), addend = c == null ? null : (ulong*)(r + c.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<ulong>.Count)
        {
            var product = Vectors.Widen(x + i, signed) * Vectors.Widen(y + i, signed);
            Vectors.Store(to, i, addend == null ? product : product + Vector256.LoadAligned(addend + i), mask);
        }
    }
}

/// <summary>A 32-bit integer as a 64-bit one, times a power of two: `cvt`, and `mul.wide` by the size of an array's elements.</summary>
sealed unsafe class WidenInteger(InstructionClass kind, bool signed, Register d, Register a, int shift) : Instruction
{
    public override InstructionClass Class => kind;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        uint* from = (uint*)(warp.Registers + a.Slot);
        ulong* to = (ulong*)(warp.Registers + d.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<ulong>.Count)
            Vectors.Store(to, i, Vectors.Widen(from + i, signed) << shift, mask);
    }
}

/// <summary>`cvt` from a 64-bit to a 32-bit integer: its low half.</summary>
sealed unsafe class NarrowInteger(Register d, Register a) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        ulong* from = (ulong*)(warp.Registers + a.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<uint>.Count)
            Vectors.Store(
                (uint*)(warp.Registers + d.Slot), i, Vector256.Narrow(Vector256.LoadAligned(from + i), Vector256.LoadAligned(from + i + 4)), mask);
    }
}

/// <summary>`mad.lo`.</summary>
sealed unsafe class MultiplyAdd<T>(Register d, Register a, Register b, Register c) : Instruction where T : unmanaged, IBinaryInteger<T>
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers;
        T* to = (T*)(r + d.Slot), x = (T*)(r + a.Slot), y = (T*)(r + b.Slot), z = (T*)(r + c.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
            Vectors.Store(to, i, (Vector256.LoadAligned(x + i) * Vector256.LoadAligned(y + i)) + Vector256.LoadAligned(z + i), mask);
    }
}

/// <summary>`shl` and `shr` by a literal number of bits, less than the type has. A right shift repeats the sign, if the type has one.</summary>
sealed unsafe class ShiftBy<T>(bool left, Register d, Register a, int count) : Instruction where T : unmanaged, IBinaryInteger<T>
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        T* to = (T*)(warp.Registers + d.Slot), from = (T*)(warp.Registers + a.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
        {
            var x = Vector256.LoadAligned(from + i);
            Vectors.Store(to, i, left ? x << count : x >> count, mask);
        }
    }
}

/// <summary>`fma.rn.f32`. Which NaN a result is, only the general instruction knows: it runs instead where there may be one.</summary>
sealed unsafe class FusedMultiplyAdd(Instruction general, Register d, Register a, Register b, Register c) : Instruction
{
    public override InstructionClass Class => general.Class;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers;
        float* to = (float*)(r + d.Slot), x = (float*)(r + a.Slot), y = (float*)(r + b.Slot), z = (float*)(r + c.Slot);
        Vector256<float> r0 = Of(x, y, z), r1 = Of(x + 8, y + 8, z + 8), r2 = Of(x + 16, y + 16, z + 16), r3 = Of(x + 24, y + 24, z + 24);
        // A sum is a NaN if a part is, or if infinities of both signs meet; then the general instruction looks lane by lane.
        var all = (r0 + r1) + (r2 + r3);
        if (!Vector256.EqualsAll(all, all))
        {
            general.Execute(warp, mask);
            return;
        }
        Vectors.Store(to, 0, r0, mask);
        Vectors.Store(to, 8, r1, mask);
        Vectors.Store(to, 16, r2, mask);
        Vectors.Store(to, 24, r3, mask);
    }

    static Vector256<float> Of(float* x, float* y, float* z) =>
        Vector256.FusedMultiplyAdd(Vector256.LoadAligned(x), Vector256.LoadAligned(y), Vector256.LoadAligned(z));
}

/// <summary>`cvt.rn.bf16x2.f32 d, high, low`: both to the nearest bfloat16, ties to even; a NaN becomes 0x7FFF.</summary>
sealed unsafe class ConvertToBf16Pair(Register d, Register high, Register low) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        uint* h = (uint*)(warp.Registers + high.Slot), l = (uint*)(warp.Registers + low.Slot), to = (uint*)(warp.Registers + d.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<uint>.Count)
        {
            var upper = Round(Vector256.LoadAligned(h + i)) & Vector256.Create(0xFFFF_0000u);
            Vectors.Store(to, i, upper | (Round(Vector256.LoadAligned(l + i)) >> 16), mask);
        }
    }

    /// <summary>The rounded number in the upper half; below it is rubbish.</summary>
    static Vector256<uint> Round(Vector256<uint> bits)
    {
        var rounded = bits + Vector256.Create(0x7FFFu) + ((bits >> 16) & Vector256<uint>.One);
        var number = bits.AsSingle();
        return Vector256.ConditionalSelect(Vector256.Equals(number, number).AsUInt32(), rounded, Vector256.Create(0x7FFF_0000u));
    }
}
