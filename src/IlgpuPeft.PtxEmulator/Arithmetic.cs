using System.Numerics;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

readonly struct Add : INumberOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, INumber<T> => a + b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => a + b;
}

readonly struct Subtract : INumberOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, INumber<T> => a - b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => a - b;
}

/// <summary>The low half of a product of integers, the product of floating point numbers.</summary>
readonly struct Multiply : INumberOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, INumber<T> => a * b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => a * b;
}

/// <summary>The smaller; of a number and a NaN the number, as PTX has it.</summary>
readonly struct Minimum : INumberOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, INumber<T> => T.MinNumber(a, b);

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.MinNumber(a, b);
}

/// <summary>The larger; of a number and a NaN the number.</summary>
readonly struct Maximum : INumberOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, INumber<T> => T.MaxNumber(a, b);

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, INumber<T> => Vector256.MaxNumber(a, b);
}

readonly struct And : IBitOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, IBinaryInteger<T> => a & b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, IBinaryInteger<T> => a & b;
}

readonly struct Or : IBitOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, IBinaryInteger<T> => a | b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, IBinaryInteger<T> => a | b;
}

readonly struct Xor : IBitOperation
{
    public static T Of<T>(T a, T b) where T : unmanaged, IBinaryInteger<T> => a ^ b;

    public static Vector256<T> Of<T>(Vector256<T> a, Vector256<T> b) where T : unmanaged, IBinaryInteger<T> => a ^ b;
}

/// <summary>Integer operations that C# does not have in PTX's form.</summary>
static class Integers
{
    /// <summary>Division by zero gives all ones, as the hardware's does; the most negative number by -1 gives itself.</summary>
    public static T Divide<T>(T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        if (T.IsZero(b))
            return T.AllBitsSet;
        return IsMinusOne(b) ? T.Zero - a : a / b;
    }

    public static T Remainder<T>(T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        if (T.IsZero(b))
            return a;
        return IsMinusOne(b) ? T.Zero : a % b;
    }

    /// <summary>The high half of a product.</summary>
    public static T MultiplyHigh<T>(T a, T b) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = a.GetByteCount() * 8;
        return T.CreateTruncating((Int128.CreateTruncating(a) * Int128.CreateTruncating(b)) >> bits);
    }

    public static T ShiftLeft<T>(T a, uint count) where T : unmanaged, IBinaryInteger<T> =>
        count >= a.GetByteCount() * 8 ? T.Zero : a << (int)count;

    /// <summary>Right shift, by the sign if the type has one.</summary>
    public static T ShiftRight<T>(T a, uint count) where T : unmanaged, IBinaryInteger<T>
    {
        uint bits = (uint)a.GetByteCount() * 8;
        if (count >= bits)
            return T.IsNegative(a) ? T.AllBitsSet : T.Zero;
        return a >> (int)count;
    }

    /// <summary>`bfe`: the bits [start, start + length), extended by the top one if the type has a sign.</summary>
    public static T ExtractBits<T>(T a, uint start, uint length) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = a.GetByteCount() * 8;
        start &= 0xFF;
        length &= 0xFF;
        if (length == 0)
            return T.Zero;
        // Past the top a signed field repeats the sign, an unsigned one zeros: that is what a right shift brings in.
        T field = ShiftRight(a, start);
        if (length >= bits)
            return field;
        int unused = bits - (int)length;
        return (field << unused) >> unused;
    }

    /// <summary>`bfi`: puts the low bits of one number into another.</summary>
    public static T InsertBits<T>(T field, T into, uint start, uint length) where T : unmanaged, IBinaryInteger<T>
    {
        int bits = field.GetByteCount() * 8;
        start &= 0xFF;
        length &= 0xFF;
        if (length == 0 || start >= bits)
            return into;
        T mask = (length >= bits ? T.AllBitsSet : (T.One << (int)length) - T.One) << (int)start;
        return (into & ~mask) | ((field << (int)start) & mask);
    }

    public static T Reverse<T>(T a) where T : unmanaged, IBinaryInteger<T>
    {
        T result = T.Zero;
        for (int i = 0; i < a.GetByteCount() * 8; i++)
        {
            result = (result << 1) | (a & T.One);
            a >>= 1;
        }
        return result;
    }

    /// <summary>`lop3`: any function of three bits, given as its table of 8 results.</summary>
    public static uint Lookup3(uint a, uint b, uint c, uint table)
    {
        uint result = 0;
        for (int row = 0; row < 8; row++)
            if ((table >> row & 1) != 0)
                result |= ((row & 4) != 0 ? a : ~a) & ((row & 2) != 0 ? b : ~b) & ((row & 1) != 0 ? c : ~c);
        return result;
    }

    /// <summary>`prmt`: picks four of the eight bytes of two words; bit 3 of a selector repeats the byte's sign instead.</summary>
    public static uint Permute(uint low, uint high, uint selectors)
    {
        ulong bytes = low | ((ulong)high << 32);
        uint result = 0;
        for (int i = 0; i < 4; i++)
        {
            uint selector = selectors >> (4 * i) & 15;
            byte value = (byte)(bytes >> (int)(8 * (selector & 7)));
            if ((selector & 8) != 0)
                value = (byte)((value & 0x80) != 0 ? 0xFF : 0);
            result |= (uint)value << (8 * i);
        }
        return result;
    }

    static bool IsMinusOne<T>(T b) where T : unmanaged, IBinaryInteger<T> => T.IsNegative(b) && b == T.AllBitsSet;
}
