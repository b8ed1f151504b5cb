using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Logic, shifts, bit counts and bit fields.</summary>
static class BitDecoder
{
    public static Instruction Bits<TOperation>(DecodeContext c) where TOperation : IBitOperation
    {
        var type = c.TakeType();
        if (type == PtxType.Pred)
        {
            var (a, negateA) = c.Predicate(1);
            var (b, negateB) = c.Predicate(2);
            return new PredicateLogic(c.Destination(0, 0), a, b, (x, y) => TOperation.Of(negateA ? ~x : x, negateB ? ~y : y));
        }
        int size = type.Size();
        var (d, left, right) = (c.Destination(0, size), c.Source(1, size), c.Source(2, size));
        return size switch
        {
            2 => new Binary<ushort, OfBits<ushort, TOperation>>(InstructionClass.Integer, d, left, right),
            4 => new Binary<uint, OfBits<uint, TOperation>>(InstructionClass.Integer, d, left, right),
            8 => new Binary<ulong, OfBits<ulong, TOperation>>(InstructionClass.Integer, d, left, right),
            _ => throw c.Unknown(),
        };
    }

    public static Instruction Not(DecodeContext c) => c.TakeType() switch
    {
        PtxType.Pred => new PredicateLogic(c.Destination(0, 0), c.Source(1, 0), c.Source(1, 0), (x, _) => ~x),
        PtxType.U16 => Unary<ushort, ushort>(c, x => (ushort)~x),
        PtxType.U32 => Unary<uint, uint>(c, x => ~x),
        PtxType.U64 => Unary<ulong, ulong>(c, x => ~x),
        _ => throw c.Unknown(),
    };

    public static Instruction ShiftLeft(DecodeContext c) => c.TakeType().Size() switch
    {
        2 => Shift<ushort>(c, Integers.ShiftLeft),
        4 => Shift<uint>(c, Integers.ShiftLeft),
        8 => Shift<ulong>(c, Integers.ShiftLeft),
        _ => throw c.Unknown(),
    };

    public static Instruction ShiftRight(DecodeContext c) => c.TakeType() switch
    {
        PtxType.U16 => Shift<ushort>(c, Integers.ShiftRight),
        PtxType.S16 => Shift<short>(c, Integers.ShiftRight),
        PtxType.U32 => Shift<uint>(c, Integers.ShiftRight),
        PtxType.S32 => Shift<int>(c, Integers.ShiftRight),
        PtxType.U64 => Shift<ulong>(c, Integers.ShiftRight),
        PtxType.S64 => Shift<long>(c, Integers.ShiftRight),
        _ => throw c.Unknown(),
    };

    public static Instruction PopCount(DecodeContext c) => c.TakeType().Size() switch
    {
        4 => Unary<uint, uint>(c, x => (uint)BitOperations.PopCount(x)),
        8 => Unary<ulong, uint>(c, x => (uint)BitOperations.PopCount(x)),
        _ => throw c.Unknown(),
    };

    public static Instruction LeadingZeros(DecodeContext c) => c.TakeType().Size() switch
    {
        4 => Unary<uint, uint>(c, x => (uint)BitOperations.LeadingZeroCount(x)),
        8 => Unary<ulong, uint>(c, x => (uint)BitOperations.LeadingZeroCount(x)),
        _ => throw c.Unknown(),
    };

    public static Instruction Reverse(DecodeContext c) => c.TakeType().Size() switch
    {
        4 => Unary<uint, uint>(c, Integers.Reverse),
        8 => Unary<ulong, ulong>(c, Integers.Reverse),
        _ => throw c.Unknown(),
    };

    public static Instruction ExtractBits(DecodeContext c) => c.TakeType() switch
    {
        PtxType.U32 => Field<uint>(c, Integers.ExtractBits),
        PtxType.S32 => Field<int>(c, Integers.ExtractBits),
        PtxType.U64 => Field<ulong>(c, Integers.ExtractBits),
        PtxType.S64 => Field<long>(c, Integers.ExtractBits),
        _ => throw c.Unknown(),
    };

    public static Instruction InsertBits(DecodeContext c)
    {
        int size = c.TakeType().Size();
        var (d, field, into, start, length) = (c.Destination(0, size), c.Source(1, size), c.Source(2, size), c.Source(3, 4), c.Source(4, 4));
        return size switch
        {
            4 => new InsertBits<uint>(d, field, into, start, length),
            8 => new InsertBits<ulong>(d, field, into, start, length),
            _ => throw c.Unknown(),
        };
    }

    public static Instruction Lookup3(DecodeContext c)
    {
        if (c.TakeType() != PtxType.U32)
            throw c.Unknown();
        uint table = (uint)c.Literal(4);
        return new Map<uint, uint, uint, uint>(
            InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), c.Source(3, 4), (x, y, z) => Integers.Lookup3(x, y, z, table));
    }

    /// <summary>`prmt`: without a mode four selectors pick a byte each; the modes make the selectors from the low bits of one number.</summary>
    public static Instruction Permute(DecodeContext c)
    {
        Func<uint, uint, uint>? selector = c.TakeAny("f4e", "b4e", "rc8", "ecl", "ecr", "rc16") switch
        {
            "f4e" => (by, i) => by + i,
            "b4e" => (by, i) => (by - i) & 7,
            "rc8" => (by, _) => by,
            "ecl" => Math.Max,
            "ecr" => Math.Min,
            "rc16" => (by, i) => (2 * (by & 1)) + (i & 1),
            _ => null,
        };
        if (c.TakeType() != PtxType.U32)
            throw c.Unknown();
        uint Selectors(uint by) => selector == null
            ? by
            : selector(by & 3, 0) | (selector(by & 3, 1) << 4) | (selector(by & 3, 2) << 8) | (selector(by & 3, 3) << 12);

        return new Map<uint, uint, uint, uint>(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), c.Source(3, 4), (low, high, by) =>
            Integers.Permute(low, high, Selectors(by)));
    }

    static unsafe Map<T, TTo> Unary<T, TTo>(DecodeContext c, Func<T, TTo> function) where T : unmanaged where TTo : unmanaged =>
        new(InstructionClass.Integer, c.Destination(0, sizeof(TTo)), c.Source(1, sizeof(T)), function);

    static unsafe Map<T, uint, T> Shift<T>(DecodeContext c, Func<T, uint, T> function) where T : unmanaged =>
        new(InstructionClass.Integer, c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), c.Source(2, 4), function);

    static unsafe Map<T, uint, uint, T> Field<T>(DecodeContext c, Func<T, uint, uint, T> function) where T : unmanaged =>
        new(InstructionClass.Integer, c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), c.Source(2, 4), c.Source(3, 4), function);
}

/// <summary>Logic on predicates: all 32 lanes are the bits of one word.</summary>
sealed unsafe class PredicateLogic(Register d, Register a, Register b, Func<uint, uint, uint> function) : Instruction
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        uint value = function(*(uint*)(warp.Registers + a.Slot), *(uint*)(warp.Registers + b.Slot));
        uint* to = (uint*)(warp.Registers + d.Slot);
        *to = (*to & ~mask) | (value & mask);
    }
}

/// <summary>`bfi`, the one instruction with four operands.</summary>
sealed unsafe class InsertBits<T>(Register d, Register field, Register into, Register start, Register length) : Instruction
    where T : unmanaged, IBinaryInteger<T>
{
    public override InstructionClass Class => InstructionClass.Integer;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            ((T*)(r + d.Slot))[lane] = Integers.InsertBits(
                ((T*)(r + field.Slot))[lane], ((T*)(r + into.Slot))[lane], ((uint*)(r + start.Slot))[lane], ((uint*)(r + length.Slot))[lane]);
        }
    }
}
