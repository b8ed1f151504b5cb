namespace IlgpuPeft.PtxEmulator;

/// <summary>Finds the instruction that a statement stands for.</summary>
static class Decoder
{
    static readonly Dictionary<string, Func<DecodeContext, Instruction>> Operations = new()
    {
        ["add"] = c => ArithmeticDecoder.Numbers<Add>(c),
        ["sub"] = c => ArithmeticDecoder.Numbers<Subtract>(c),
        ["min"] = c => ArithmeticDecoder.Numbers<Minimum>(c),
        ["max"] = c => ArithmeticDecoder.Numbers<Maximum>(c),
        ["mul"] = ArithmeticDecoder.Multiply,
        ["mad"] = ArithmeticDecoder.MultiplyAdd,
        ["fma"] = ArithmeticDecoder.FusedMultiplyAdd,
        ["div"] = ArithmeticDecoder.Divide,
        ["rem"] = ArithmeticDecoder.Remainder,
        ["neg"] = ArithmeticDecoder.Negate,
        ["abs"] = ArithmeticDecoder.Absolute,
        ["copysign"] = FunctionDecoder.CopySign,
        ["and"] = c => BitDecoder.Bits<And>(c),
        ["or"] = c => BitDecoder.Bits<Or>(c),
        ["xor"] = c => BitDecoder.Bits<Xor>(c),
        ["not"] = BitDecoder.Not,
        ["shl"] = BitDecoder.ShiftLeft,
        ["shr"] = BitDecoder.ShiftRight,
        ["popc"] = BitDecoder.PopCount,
        ["clz"] = BitDecoder.LeadingZeros,
        ["brev"] = BitDecoder.Reverse,
        ["bfe"] = BitDecoder.ExtractBits,
        ["bfi"] = BitDecoder.InsertBits,
        ["lop3"] = BitDecoder.Lookup3,
        ["prmt"] = BitDecoder.Permute,
        ["sqrt"] = FunctionDecoder.Function,
        ["rsqrt"] = FunctionDecoder.Function,
        ["rcp"] = FunctionDecoder.Function,
        ["sin"] = FunctionDecoder.Function,
        ["cos"] = FunctionDecoder.Function,
        ["tanh"] = FunctionDecoder.Function,
        ["lg2"] = FunctionDecoder.Function,
        ["ex2"] = FunctionDecoder.Function,
        ["testp"] = CompareDecoder.TestProperty,
        ["setp"] = CompareDecoder.SetPredicate,
        ["selp"] = CompareDecoder.Select,
        ["mov"] = MoveDecoder.Move,
        ["cvt"] = MoveDecoder.Convert,
        ["cvta"] = MemoryDecoder.ConvertAddress,
        ["ld"] = MemoryDecoder.Load,
        ["st"] = MemoryDecoder.Store,
        ["atom"] = AtomicDecoder.Decode,
        ["red"] = AtomicDecoder.Decode,
        ["cp"] = MemoryDecoder.AsyncCopy,
        ["ldmatrix"] = TensorDecoder.LoadMatrix,
        ["mma"] = TensorDecoder.Multiply,
        ["shfl"] = WarpDecoder.Shuffle,
        ["vote"] = WarpDecoder.Vote,
        ["redux"] = WarpDecoder.Reduce,
        ["activemask"] = WarpDecoder.ActiveMask,
        ["bar"] = WarpDecoder.Barrier,
        ["barrier"] = WarpDecoder.Barrier,
        ["membar"] = WarpDecoder.Fence,
        ["fence"] = WarpDecoder.Fence,
        ["bra"] = c => new Branch(c.Take("uni")),
        ["brx"] = IndexedBranch,
        ["ret"] = c => Return(c, exit: false),
        ["exit"] = c => Return(c, exit: true),
        ["trap"] = _ => new Trap(),
    };

    /// <exception cref="PtxSyntaxException">The emulator does not know the instruction, or one of its modifiers or operands.</exception>
    public static Instruction Decode(DecodeContext context)
    {
        if (!Operations.TryGetValue(context.Operation, out var decode))
            throw context.Unknown();
        var instruction = decode(context);
        context.RequireNoMore();
        return VectorDecoder.Decode(context, instruction) ?? instruction;
    }

    static IndexedBranch IndexedBranch(DecodeContext context)
    {
        context.Take("idx");
        return new IndexedBranch(context.Source(0, 4), context.Take("uni"));
    }

    static Return Return(DecodeContext context, bool exit)
    {
        context.Take("uni");
        return new Return(exit);
    }
}
