using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Instructions that search, shift across two words, or extend and mask parts of a word.</summary>
static class FieldDecoder
{
    /// <summary>`bfind{.shiftamt}`: position of the highest bit that differs from the sign, or all ones; or how far left it could go.</summary>
    public static Instruction FindLeading(DecodeContext c)
    {
        bool shift = c.Take("shiftamt");
        return c.TakeType() switch
        {
            PtxType.U32 => Make<uint>(x => Find(x, 31)),
            PtxType.S32 => Make<int>(x => Find((uint)(x < 0 ? ~x : x), 31)),
            PtxType.U64 => Make<ulong>(x => Find(x, 63)),
            PtxType.S64 => Make<long>(x => Find((ulong)(x < 0 ? ~x : x), 63)),
            _ => throw c.Unknown(),
        };

        uint Find(ulong x, int top) => x == 0 ? uint.MaxValue : (uint)(shift ? top - BitOperations.Log2(x) : BitOperations.Log2(x));

        unsafe Map<T, uint> Make<T>(Func<T, uint> function) where T : unmanaged =>
            new(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, sizeof(T)), function);
    }

    /// <summary>`fns`: the bit that is `offset` set bits from `start`, upwards or downwards; all ones if there is none.</summary>
    public static Instruction FindNth(DecodeContext c)
    {
        if (c.TakeType() != PtxType.U32)
            throw c.Unknown();
        return new Map<uint, uint, int, uint>(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), c.Source(3, 4), (mask, start, offset) =>
        {
            int step = offset < 0 ? -1 : 1, left = Math.Max(Math.Abs(offset), 1);
            for (int bit = (int)start; bit is >= 0 and < 32; bit += step)
            {
                if ((mask >> bit & 1) == 0)
                {
                    if (offset == 0)
                        break;
                    continue;
                }
                if (--left == 0)
                    return (uint)bit;
            }
            return uint.MaxValue;
        });
    }

    /// <summary>`shf.l|r.clamp|wrap.b32 d, low, high, count`: one half of a 64-bit number that is shifted.</summary>
    public static Instruction Funnel(DecodeContext c)
    {
        bool left = c.TakeAny("l", "r") switch { "l" => true, "r" => false, _ => throw c.Unknown() };
        bool wrap = TakeWrap(c);
        if (c.TakeType() != PtxType.U32)
            throw c.Unknown();
        return new Map<uint, uint, uint, uint>(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), c.Source(3, 4), (low, high, count) =>
        {
            int by = (int)(wrap ? count & 31 : Math.Min(count, 32));
            ulong both = low | ((ulong)high << 32);
            return (uint)(left ? both << by >> 32 : both >> by);
        });
    }

    /// <summary>`cnot`: 1 of zero, 0 of anything else.</summary>
    public static Instruction LogicalNot(DecodeContext c) => c.TakeType().Size() switch
    {
        2 => new Map<ushort, ushort>(InstructionClass.Integer, c.Destination(0, 2), c.Source(1, 2), x => (ushort)(x == 0 ? 1 : 0)),
        4 => new Map<uint, uint>(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), x => x == 0 ? 1u : 0),
        8 => new Map<ulong, ulong>(InstructionClass.Integer, c.Destination(0, 8), c.Source(1, 8), x => x == 0 ? 1u : 0),
        _ => throw c.Unknown(),
    };

    /// <summary>`szext.clamp|wrap`: extends the low bits of a number by their sign or by zeros.</summary>
    public static Instruction Extend(DecodeContext c)
    {
        bool wrap = TakeWrap(c);
        bool signed = c.TakeType() switch { PtxType.S32 => true, PtxType.U32 => false, _ => throw c.Unknown() };
        return new Map<uint, uint, uint>(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), (x, width) =>
        {
            uint bits = wrap ? width & 31 : Math.Min(width, 32);
            return signed ? (uint)Integers.ExtractBits((int)x, 0, bits) : Integers.ExtractBits(x, 0, bits);
        });
    }

    /// <summary>`bmsk.clamp|wrap`: ones from a position on, so many.</summary>
    public static Instruction Mask(DecodeContext c)
    {
        bool wrap = TakeWrap(c);
        if (c.TakeType() != PtxType.U32)
            throw c.Unknown();
        return new Map<uint, uint, uint>(InstructionClass.Integer, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), (start, width) =>
        {
            int from = (int)(wrap ? start & 31 : Math.Min(start, 32)), count = (int)(wrap ? width & 31 : Math.Min(width, 32));
            return (uint)(((1UL << count) - 1) << from);
        });
    }

    static bool TakeWrap(DecodeContext c) => c.TakeAny("clamp", "wrap") switch { "wrap" => true, "clamp" => false, _ => throw c.Unknown() };
}
