using System.Numerics;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>A comparison of two numbers, and of vectors of them (all bits or none); false where one of them is no number.</summary>
interface IComparison
{
    static abstract bool Of<T>(T a, T b) where T : unmanaged, INumber<T>;

    static abstract Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T>;
}

readonly struct IsEqual : IComparison
{
    public static bool Of<T>(T a, T b) where T : unmanaged, INumber<T> => a == b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.Equals(a, b);
}

readonly struct IsLess : IComparison
{
    public static bool Of<T>(T a, T b) where T : unmanaged, INumber<T> => a < b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.LessThan(a, b);
}

readonly struct IsLessOrEqual : IComparison
{
    public static bool Of<T>(T a, T b) where T : unmanaged, INumber<T> => a <= b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.LessThanOrEqual(a, b);
}

/// <summary>Less or greater: false for two equal numbers and where one is no number.</summary>
readonly struct IsDifferent : IComparison
{
    public static bool Of<T>(T a, T b) where T : unmanaged, INumber<T> => a < b || a > b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.LessThan(a, b) | Vector256.GreaterThan(a, b);
}

readonly struct AreNumbers : IComparison
{
    public static bool Of<T>(T a, T b) where T : unmanaged, INumber<T> => !T.IsNaN(a) && !T.IsNaN(b);

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.Equals(a, a) & Vector256.Equals(b, b);
}

/// <summary>How a comparison and a further predicate make the result of `setp`.</summary>
enum Combine { None, And, Or, Xor }

/// <summary>`setp`: compares lanes into a predicate, optionally combined with another, and optionally also its opposite.</summary>
sealed unsafe class SetPredicate<T, TComparison>(
    Register p, Register? q, Register a, Register b, bool opposite, Combine combine, Register? with, bool withNegated) : Instruction
    where T : unmanaged, INumber<T> where TComparison : IComparison
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        T* x = (T*)(warp.Registers + a.Slot), y = (T*)(warp.Registers + b.Slot);
        uint result = 0;
        if (Vector256<T>.IsSupported)
            for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
                result |= TComparison.Of(Vector256.LoadAligned(x + i), Vector256.LoadAligned(y + i)).ExtractMostSignificantBits() << i;
        else
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                result |= TComparison.Of(x[lane], y[lane]) ? 1u << lane : 0;
        if (opposite)
            result = ~result;
        uint other = with == null ? 0 : *(uint*)(warp.Registers + with.Slot);
        if (withNegated)
            other = ~other;
        Set(warp, p, Join(result, other), mask);
        if (q != null)
            Set(warp, q, Join(~result, other), mask);
    }

    uint Join(uint result, uint other) => combine switch
    {
        Combine.And => result & other,
        Combine.Or => result | other,
        Combine.Xor => result ^ other,
        _ => result,
    };

    static void Set(EmulatedWarp warp, Register register, uint value, uint mask)
    {
        uint* to = (uint*)(warp.Registers + register.Slot);
        *to = (*to & ~mask) | (value & mask);
    }
}

/// <summary>`testp`: a property of a floating point number.</summary>
sealed unsafe class TestProperty<T>(Register p, Register a, Func<T, bool> property) : Instruction where T : unmanaged
{
    public override InstructionClass Class => InstructionClass.Float;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        T* x = (T*)(warp.Registers + a.Slot);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            RegisterLanes.Write(warp.Registers + p.Slot, 0, lane, property(x[lane]) ? 1u : 0);
        }
    }
}

/// <summary>`selp`: one of two values, by a predicate.</summary>
sealed unsafe class Select<T>(Register d, Register a, Register b, Register p, bool negated) : Instruction where T : unmanaged
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        T* to = (T*)(warp.Registers + d.Slot), x = (T*)(warp.Registers + a.Slot), y = (T*)(warp.Registers + b.Slot);
        uint choice = *(uint*)(warp.Registers + p.Slot);
        if (negated)
            choice = ~choice;
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
        {
            var chosen = Vector256.ConditionalSelect(Vectors.Lanes<T>(choice >> i), Vector256.LoadAligned(x + i), Vector256.LoadAligned(y + i));
            Vectors.Store(to, i, chosen, mask);
        }
    }
}
