using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Vectorised instructions for the forms that kernels mostly consist of. Each does, faster, what the general instruction does that the
/// decoder of its operation has made: that one knows every form, and has found this one to be well-formed.
/// </summary>
static class VectorDecoder
{
    /// <summary>The vectorised form of a decoded statement, or null if it has none.</summary>
    public static Instruction? Decode(DecodeContext c, Instruction general) => c.Statement.Opcode switch
    {
        "mul.wide.u32" => MultiplyWide(c, signed: false),
        "mul.wide.s32" => MultiplyWide(c, signed: true),
        "mad.wide.u32" => new MultiplyWide(signed: false, c.Destination(0, 8), c.Source(1, 4), c.Source(2, 4), c.Source(3, 8)),
        "mad.wide.s32" => new MultiplyWide(signed: true, c.Destination(0, 8), c.Source(1, 4), c.Source(2, 4), c.Source(3, 8)),
        "mad.lo.u32" or "mad.lo.s32" => MultiplyAdd<uint>(c),
        "mad.lo.u64" or "mad.lo.s64" => MultiplyAdd<ulong>(c),
        "shl.b32" => Shift<uint>(c, left: true),
        "shl.b64" => Shift<ulong>(c, left: true),
        "shr.u32" or "shr.b32" => Shift<uint>(c, left: false),
        "shr.s32" => Shift<int>(c, left: false),
        "shr.u64" or "shr.b64" => Shift<ulong>(c, left: false),
        "shr.s64" => Shift<long>(c, left: false),
        "cvt.u64.u32" or "cvt.s64.u32" => Convert(c, 8, 4, (d, a) => new WidenInteger(InstructionClass.Move, signed: false, d, a, 0)),
        "cvt.s64.s32" or "cvt.u64.s32" => Convert(c, 8, 4, (d, a) => new WidenInteger(InstructionClass.Move, signed: true, d, a, 0)),
        "cvt.u32.u64" or "cvt.s32.s64" or "cvt.u32.s64" or "cvt.s32.u64" => Convert(c, 4, 8, (d, a) => new NarrowInteger(d, a)),
        "cvt.rn.bf16x2.f32" => new ConvertToBf16Pair(c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4)),
        "fma.rn.f32" => new FusedMultiplyAdd(general, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), c.Source(3, 4)),
        _ => null,
    };

    static Instruction MultiplyWide(DecodeContext c, bool signed)
    {
        var (d, a) = (c.Destination(0, 8), c.Source(1, 4));
        return c.Operand(2) is Immediate { Bits: > 0 and < 0x8000_0000 and var bits } && BitOperations.IsPow2(bits)
            ? new WidenInteger(InstructionClass.Integer, signed, d, a, BitOperations.Log2(bits))
            : new MultiplyWide(signed, d, a, c.Source(2, 4), null);
    }

    static unsafe MultiplyAdd<T> MultiplyAdd<T>(DecodeContext c) where T : unmanaged, IBinaryInteger<T> =>
        new(c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), c.Source(2, sizeof(T)), c.Source(3, sizeof(T)));

    static unsafe ShiftBy<T>? Shift<T>(DecodeContext c, bool left) where T : unmanaged, IBinaryInteger<T> =>
        c.Operand(2) is Immediate { Bits: var count } && count < 8 * (ulong)sizeof(T)
            ? new(left, c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), (int)count)
            : null;

    /// <summary>A conversion may also read and write registers wider than its types.</summary>
    static Instruction? Convert(DecodeContext c, int toSize, int fromSize, Func<Register, Register, Instruction> make) =>
        c.Operand(0) is Register d && c.Operand(1) is Register a && d.LaneSize == toSize && a.LaneSize == fromSize ? make(d, a) : null;
}
