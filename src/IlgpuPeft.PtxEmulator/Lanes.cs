using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>An operation on two numbers of one type, and on vectors of them.</summary>
interface INumberOperation
{
    static abstract T Of<T>(T a, T b) where T : unmanaged, INumber<T>;

    static abstract Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T>;
}

/// <summary>An operation on the bits of two integers, and on vectors of them.</summary>
interface IBitOperation
{
    static abstract T Of<T>(T a, T b) where T : unmanaged, IBinaryInteger<T>;

    static abstract Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, IBinaryInteger<T>;
}

/// <summary>What a vectorised instruction does with two lanes of type <typeparamref name="T"/>.</summary>
interface IBinary<T>
{
    static abstract T Of(T a, T b);

    static abstract Vector256<T> Of(Vector256<T> a, Vector256<T> b);
}

readonly struct OfNumbers<T, TOperation> : IBinary<T> where T : unmanaged, INumber<T> where TOperation : INumberOperation
{
    public static T Of(T a, T b) => TOperation.Of(a, b);

    public static Vector256<T> Of(Vector256<T> a, Vector256<T> b) => TOperation.Of(a, b);
}

/// <summary>As on a GPU, every result that is no number is the canonical NaN.</summary>
readonly struct OfFloats<TOperation> : IBinary<float> where TOperation : INumberOperation
{
    public static float Of(float a, float b) => Floats.Canonical(TOperation.Of(a, b));

    public static Vector256<float> Of(Vector256<float> a, Vector256<float> b)
    {
        var result = TOperation.Of(a, b);
        return Vector256.ConditionalSelect(Vector256.Equals(result, result), result, Vector256.Create(Floats.NaN));
    }
}

readonly struct OfBits<T, TOperation> : IBinary<T> where T : unmanaged, IBinaryInteger<T> where TOperation : IBitOperation
{
    public static T Of(T a, T b) => TOperation.Of(a, b);

    public static Vector256<T> Of(Vector256<T> a, Vector256<T> b) => TOperation.Of(a, b);
}

/// <summary>d = a op b, eight 32-bit lanes at a time.</summary>
sealed unsafe class Binary<T, TOperation>(InstructionClass kind, Register d, Register a, Register b) : Instruction
    where T : unmanaged where TOperation : IBinary<T>
{
    public override InstructionClass Class => kind;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        T* to = (T*)(warp.Registers + d.Slot), x = (T*)(warp.Registers + a.Slot), y = (T*)(warp.Registers + b.Slot);
        if (Vector256<T>.IsSupported)
        {
            for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
                Vectors.Store(to, i, TOperation.Of(Vector256.LoadAligned(x + i), Vector256.LoadAligned(y + i)), mask);
            return;
        }
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            to[lane] = TOperation.Of(x[lane], y[lane]);
        }
    }
}

/// <summary>d = f(a), lane by lane. A result wider than its register is cut, a narrower integer is extended by its sign.</summary>
sealed unsafe class Map<TFrom, TTo>(InstructionClass kind, Register d, Register a, Func<TFrom, TTo> function) : Instruction
    where TFrom : unmanaged where TTo : unmanaged
{
    public override InstructionClass Class => kind;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* to = warp.Registers + d.Slot, from = warp.Registers + a.Slot;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            TTo value = function(*(TFrom*)(from + (lane * a.LaneSize)));
            if (d.LaneSize == sizeof(TTo))
                *(TTo*)(to + (lane * d.LaneSize)) = value;
            else
                RegisterLanes.Write(to, d.LaneSize, lane, LaneValue.Extend(value));
        }
    }
}

/// <summary>d = f(a, b), lane by lane; the second operand may have another type, as shift amounts do.</summary>
sealed unsafe class Map<TA, TB, TTo>(InstructionClass kind, Register d, Register a, Register b, Func<TA, TB, TTo> function) : Instruction
    where TA : unmanaged where TB : unmanaged where TTo : unmanaged
{
    public override InstructionClass Class => kind;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        TTo* to = (TTo*)(warp.Registers + d.Slot);
        TA* x = (TA*)(warp.Registers + a.Slot);
        TB* y = (TB*)(warp.Registers + b.Slot);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            to[lane] = function(x[lane], y[lane]);
        }
    }
}

/// <summary>d = f(a, b, c), lane by lane.</summary>
sealed unsafe class Map<TA, TB, TC, TTo>(
    InstructionClass kind, Register d, Register a, Register b, Register c, Func<TA, TB, TC, TTo> function) : Instruction
    where TA : unmanaged where TB : unmanaged where TC : unmanaged where TTo : unmanaged
{
    public override InstructionClass Class => kind;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        TTo* to = (TTo*)(warp.Registers + d.Slot);
        TA* x = (TA*)(warp.Registers + a.Slot);
        TB* y = (TB*)(warp.Registers + b.Slot);
        TC* z = (TC*)(warp.Registers + c.Slot);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            to[lane] = function(x[lane], y[lane], z[lane]);
        }
    }
}

static class LaneValue
{
    /// <summary>The bits of an integer, extended to 64 by its sign if its type has one.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Extend<T>(T value) where T : unmanaged
    {
        if (typeof(T) == typeof(sbyte))
            return (ulong)(sbyte)(object)value;
        if (typeof(T) == typeof(short))
            return (ulong)(short)(object)value;
        if (typeof(T) == typeof(int))
            return (ulong)(int)(object)value;
        return Unsafe.SizeOf<T>() switch
        {
            1 => Unsafe.BitCast<T, byte>(value),
            2 => Unsafe.BitCast<T, ushort>(value),
            4 => Unsafe.BitCast<T, uint>(value),
            _ => Unsafe.BitCast<T, ulong>(value),
        };
    }
}
