namespace IlgpuPeft.PtxEmulator;

/// <summary>Finds the instruction that a statement stands for.</summary>
static class Decoder
{
    static readonly Dictionary<string, Func<DecodeContext, Instruction>> Operations = new()
    {
        ["add"] = c => AddOrSubtract<Add>(c, FloatDecoder.Add),
        ["sub"] = c => AddOrSubtract<Subtract>(c, FloatDecoder.Subtract),
        ["addc"] = IntegerDecoder.WithCarry,
        ["subc"] = IntegerDecoder.WithCarry,
        ["madc"] = IntegerDecoder.WithCarry,
        ["min"] = c => FloatDecoder.Handles(c) ? FloatDecoder.Minimum(c) : ArithmeticDecoder.Numbers<Minimum>(c),
        ["max"] = c => FloatDecoder.Handles(c) ? FloatDecoder.Maximum(c) : ArithmeticDecoder.Numbers<Maximum>(c),
        ["mul"] = c => FloatDecoder.Handles(c) ? FloatDecoder.Multiply(c) : ArithmeticDecoder.Multiply(c),
        ["mad"] = MultiplyAdd,
        ["fma"] = MultiplyAdd,
        ["mul24"] = IntegerDecoder.Multiply24,
        ["mad24"] = IntegerDecoder.Multiply24,
        ["sad"] = IntegerDecoder.SumOfDifferences,
        ["dp4a"] = IntegerDecoder.DotProduct,
        ["dp2a"] = IntegerDecoder.DotProduct,
        ["div"] = FunctionDecoder.Divide,
        ["rem"] = ArithmeticDecoder.Remainder,
        ["neg"] = c => FloatDecoder.Handles(c) ? FloatDecoder.Negate(c) : ArithmeticDecoder.Negate(c),
        ["abs"] = c => FloatDecoder.Handles(c) ? FloatDecoder.Absolute(c) : ArithmeticDecoder.Absolute(c),
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
        ["cnot"] = FieldDecoder.LogicalNot,
        ["bfind"] = FieldDecoder.FindLeading,
        ["fns"] = FieldDecoder.FindNth,
        ["shf"] = FieldDecoder.Funnel,
        ["szext"] = FieldDecoder.Extend,
        ["bmsk"] = FieldDecoder.Mask,
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
        ["set"] = CompareDecoder.SetNumber,
        ["selp"] = CompareDecoder.Select,
        ["slct"] = CompareDecoder.SelectBySign,
        ["mov"] = MoveDecoder.Move,
        ["cvt"] = ConvertDecoder.Convert,
        ["cvta"] = MemoryDecoder.ConvertAddress,
        ["ld"] = MemoryDecoder.Load,
        ["st"] = MemoryDecoder.Store,
        ["isspacep"] = SystemDecoder.IsSpace,
        ["ldu"] = MemoryDecoder.Load,
        ["prefetch"] = SystemDecoder.Prefetch,
        ["prefetchu"] = SystemDecoder.Prefetch,
        ["applypriority"] = SystemDecoder.Prefetch,
        ["createpolicy"] = SystemDecoder.CreatePolicy,
        ["nanosleep"] = SystemDecoder.Sleep,
        ["atom"] = AtomicDecoder.Decode,
        ["red"] = AtomicDecoder.Decode,
        ["cp"] = MemoryDecoder.AsyncCopy,
        ["ldmatrix"] = TensorDecoder.LoadMatrix,
        ["movmatrix"] = TensorDecoder.MoveMatrix,
        ["mma"] = TensorDecoder.Multiply,
        ["shfl"] = WarpDecoder.Shuffle,
        ["vote"] = WarpDecoder.Vote,
        ["match"] = WarpDecoder.Match,
        ["redux"] = WarpDecoder.Reduce,
        ["activemask"] = WarpDecoder.ActiveMask,
        ["bar"] = WarpDecoder.Barrier,
        ["barrier"] = WarpDecoder.Barrier,
        ["membar"] = WarpDecoder.Fence,
        ["fence"] = WarpDecoder.Fence,
        ["bra"] = Branch,
        ["brx"] = IndexedBranch,
        ["ret"] = c => Return(c, exit: false),
        ["exit"] = c => Return(c, exit: true),
        ["trap"] = _ => new Trap(),
    };

    /// <summary>Whether there is an instruction of this name; calls are linked, not decoded.</summary>
    public static bool Knows(string operation) => operation == "call" || Operations.ContainsKey(operation);

    /// <exception cref="PtxSyntaxException">The emulator does not know the instruction, or one of its modifiers or operands.</exception>
    public static Instruction Decode(DecodeContext context)
    {
        Architectures.Check(context);
        var instruction = Operations[context.Operation](context);
        context.RequireNoMore();
        return VectorDecoder.Decode(context, instruction) ?? instruction;
    }

    static Instruction AddOrSubtract<TOperation>(DecodeContext c, Func<DecodeContext, Instruction> floats) where TOperation : INumberOperation
    {
        if (IntegerDecoder.Carries(c))
            return IntegerDecoder.WithCarry(c);
        if (FloatDecoder.Handles(c))
            return floats(c);
        return c.Statement.Parts.Contains("sat") ? IntegerDecoder.Saturating(c) : ArithmeticDecoder.Numbers<TOperation>(c);
    }

    /// <summary>`mad` of floats is `fma`.</summary>
    static Instruction MultiplyAdd(DecodeContext c)
    {
        if (IntegerDecoder.Carries(c))
            return IntegerDecoder.WithCarry(c);
        if (FloatDecoder.Handles(c))
            return FloatDecoder.MultiplyAdd(c);
        return PtxTypes.Parse(c.Statement.Parts[^1]) is PtxType.F32 or PtxType.F64
            ? ArithmeticDecoder.FusedMultiplyAdd(c)
            : ArithmeticDecoder.MultiplyAdd(c);
    }

    static Branch Branch(DecodeContext context)
    {
        context.Operand(0);
        return new Branch(context.Take("uni"));
    }

    static IndexedBranch IndexedBranch(DecodeContext context)
    {
        if (!context.Take("idx"))
            throw context.Unknown();
        context.Operand(1);
        return new IndexedBranch(context.Source(0, 4), context.Take("uni"));
    }

    static Return Return(DecodeContext context, bool exit)
    {
        context.Take("uni");
        return new Return(exit);
    }
}
