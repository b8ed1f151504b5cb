using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Integer instructions beyond plain arithmetic: saturating, 24-bit, with carry, sums of differences and of products.</summary>
static class IntegerDecoder
{
    /// <summary>Whether an add, sub or mad takes part in a chain of carries: `.cc` writes the carry, an opcode in c reads it.</summary>
    public static bool Carries(DecodeContext c) => c.Statement.Parts.Contains("cc") || c.Operation is "addc" or "subc" or "madc";

    /// <summary>`add.sat.s32` and `sub.sat.s32`.</summary>
    public static Instruction Saturating(DecodeContext c)
    {
        bool add = c.Operation == "add";
        c.Take("sat");
        return c.TakeType() == PtxType.S32
            ? Three<int, int, int>(c, (a, b, _) => int.CreateSaturating(add ? (long)a + b : (long)a - b), operands: 2)
            : throw c.Unknown();
    }

    /// <summary>`add{c}{.cc}`, `sub{c}{.cc}`, `mad{c}.lo|hi{.cc}`, for numbers wider than a register.</summary>
    public static Instruction WithCarry(DecodeContext c)
    {
        bool reads = c.Operation[^1] == 'c', writes = c.Take("cc"), multiplies = c.Operation.StartsWith("mad", StringComparison.Ordinal);
        string? part = multiplies ? c.TakeAny("lo", "hi") ?? throw c.Unknown() : null;
        return c.TakeType() switch
        {
            PtxType.U32 => Chain<uint>(),
            PtxType.S32 => Chain<int>(),
            PtxType.U64 => Chain<ulong>(),
            PtxType.S64 => Chain<long>(),
            _ => throw c.Unknown(),
        };

        CarryChain<T> Chain<T>() where T : unmanaged, IBinaryInteger<T>
        {
            int size = T.Zero.GetByteCount();
            Func<T, T, T> product = part switch { "lo" => (x, y) => x * y, "hi" => Integers.MultiplyHigh, _ => (x, _) => x };
            Register d = c.Destination(0, size), a = c.Source(1, size), b = c.Source(2, size);
            var addend = multiplies ? c.Source(3, size) : b;
            return new CarryChain<T>(d, a, b, addend, product, c.Module.Registers.Carry, reads, writes, c.Operation.StartsWith("sub", StringComparison.Ordinal));
        }
    }

    /// <summary>`mul24`, `mad24`: bits of the 48-bit product of the low 24 bits.</summary>
    public static Instruction Multiply24(DecodeContext c)
    {
        int drop = c.TakeAny("lo", "hi") switch { "lo" => 0, "hi" => 16, _ => throw c.Unknown() };
        int operands = c.Operation == "mad24" ? 3 : 2;
        return c.TakeType() switch
        {
            PtxType.U32 => Three<uint, uint, uint>(c, (a, b, s) =>
                (uint)(((ulong)(a & 0xFF_FFFF) * (b & 0xFF_FFFF)) >> drop) + (operands == 3 ? s : 0), operands),
            PtxType.S32 => Three<int, int, int>(c, (a, b, s) =>
                (int)(((long)(a << 8 >> 8) * (b << 8 >> 8)) >> drop) + (operands == 3 ? s : 0), operands),
            _ => throw c.Unknown(),
        };
    }

    /// <summary>`sad`: c + |a - b|.</summary>
    public static Instruction SumOfDifferences(DecodeContext c) => c.TakeType() switch
    {
        PtxType.U16 => Three<ushort, ushort, ushort>(c, (a, b, s) => (ushort)(s + Math.Abs(a - b))),
        PtxType.S16 => Three<short, short, short>(c, (a, b, s) => (short)(s + Math.Abs(a - b))),
        PtxType.U32 => Three<uint, uint, uint>(c, (a, b, s) => s + Math.Max(a, b) - Math.Min(a, b)),
        PtxType.S32 => Three<int, int, int>(c, (a, b, s) => s + Math.Max(a, b) - Math.Min(a, b)),
        PtxType.U64 => Three<ulong, ulong, ulong>(c, (a, b, s) => s + Math.Max(a, b) - Math.Min(a, b)),
        PtxType.S64 => Three<long, long, long>(c, (a, b, s) => s + Math.Max(a, b) - Math.Min(a, b)),
        _ => throw c.Unknown(),
    };

    /// <summary>`dp4a` and `dp2a`: c + the dot product of four bytes with four, or of two 16-bit numbers with the low or high two bytes.</summary>
    public static Instruction DotProduct(DecodeContext c)
    {
        bool four = c.Operation == "dp4a";
        int start = four ? 0 : c.TakeAny("lo", "hi") switch { "lo" => 0, "hi" => 2, _ => throw c.Unknown() };
        var (right, left) = (c.TakeType(), c.TakeType());
        if (left is not (PtxType.U32 or PtxType.S32) || right is not (PtxType.U32 or PtxType.S32))
            throw c.Unknown();
        bool signedLeft = left == PtxType.S32, signedRight = right == PtxType.S32;
        int width = four ? 8 : 16;
        return Three<uint, uint, uint>(c, (a, b, s) =>
        {
            for (int i = 0; i < (four ? 4 : 2); i++)
                s += (uint)(Part(a, i, width, signedLeft) * Part(b, start + i, 8, signedRight));
            return s;
        });

        static int Part(uint word, int index, int width, bool signed)
        {
            uint top = word << (32 - (width * (index + 1)));
            return signed ? (int)top >> (32 - width) : (int)(top >> (32 - width));
        }
    }

    static unsafe Map<TA, TB, TA, TTo> Three<TA, TB, TTo>(DecodeContext c, Func<TA, TB, TA, TTo> function, int operands = 3)
        where TA : unmanaged where TB : unmanaged where TTo : unmanaged
    {
        Register d = c.Destination(0, sizeof(TTo)), a = c.Source(1, sizeof(TA)), b = c.Source(2, sizeof(TB));
        return new(InstructionClass.Integer, d, a, b, operands == 3 ? c.Source(3, sizeof(TA)) : a, function);
    }
}

/// <summary>d = product(a, b) + addend + carry, or a - b - carry; the carry of every lane is a bit of one hidden predicate.</summary>
sealed unsafe class CarryChain<T>(
    Register d, Register a, Register b, Register addend, Func<T, T, T> product, Register carry, bool reads, bool writes, bool subtract) : Instruction
    where T : unmanaged, IBinaryInteger<T>
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers;
        int bits = 8 * sizeof(T);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            Int128 x = Unsigned(product(((T*)(r + a.Slot))[lane], ((T*)(r + b.Slot))[lane])), y = Unsigned(((T*)(r + addend.Slot))[lane]);
            Int128 given = reads ? (int)(*(uint*)(r + carry.Slot) >> lane & 1) : 0;
            Int128 result = subtract ? x - y - given : x + y + given;
            ((T*)(r + d.Slot))[lane] = T.CreateTruncating(result);
            if (writes)
                RegisterLanes.Write(r + carry.Slot, 0, lane, (result >> bits & 1) != 0 ? 1u : 0);
        }

        Int128 Unsigned(T value) => Int128.CreateTruncating(value) & ((Int128.One << bits) - 1);
    }
}
