using System.Globalization;

namespace IlgpuPeft.PtxEmulator;

/// <summary>The part of the parser that reads one instruction and its operands.</summary>
sealed partial class Parser
{
    Statement ReadStatement(Scope scope)
    {
        Register? guard = null;
        bool negated = false;
        if (Take("@"))
        {
            negated = Take("!");
            var token = Next();
            guard = scope.FindRegister(token.Text) ?? throw new PtxSyntaxException(token.Line, $"predicate '{token.Text}' is not declared");
        }
        var opcode = Next();
        // Before its operands, which an unknown instruction may write in an unknown way.
        if (!Decoder.Knows(opcode.Text.Split('.')[0]))
            throw new PtxSyntaxException(opcode.Line, $"instruction '{opcode.Text}' is not known to the emulator");
        var operands = new List<Operand>();
        if (!Is(";"))
        {
            do
                operands.Add(ReadOperand(scope));
            while (Take(","));
        }
        Expect(";");
        return new Statement(opcode.Line, opcode.Text, operands, guard, negated, scope);
    }

    Operand ReadOperand(Scope scope)
    {
        if (Take("{"))
            return List(scope, "}");
        if (Take("("))
            return List(scope, ")");
        if (Take("!"))
            return new Not(ReadOperand(scope));
        if (Take("["))
        {
            var start = ReadOperand(scope);
            long offset = 0;
            if (Take("+"))
                offset = Literal(scope) is Immediate immediate
                    ? (long)immediate.Bits
                    : throw new PtxSyntaxException(Here.Line, "an address offset must be a number");
            Expect("]");
            return new Address(start, offset);
        }
        var operand = Literal(scope);
        return Take("|") ? new Pair(operand, Literal(scope)) : operand;
    }

    Vector List(Scope scope, string close)
    {
        var items = new List<Operand>();
        while (!Take(close))
        {
            items.Add(ReadOperand(scope));
            Take(",");
        }
        return new Vector(items);
    }

    /// <summary>The bytes of `{1, 2, {3}}` or of one number.</summary>
    byte[] InitialValue(PtxType type)
    {
        if (!Take("{"))
        {
            var token = Here;
            ulong bits = Literal(module.Scope) switch
            {
                Immediate immediate => immediate.Bits,
                Real real => real.Bits(type.Size()),
                _ => throw new PtxSyntaxException(token.Line, $"an initial value must be a number, got '{token.Text}'"),
            };
            return BitConverter.GetBytes(bits)[..type.Size()];
        }
        var bytes = new List<byte>();
        while (!Take("}"))
        {
            bytes.AddRange(InitialValue(type));
            Take(",");
        }
        return [.. bytes];
    }

    Operand Literal(Scope scope)
    {
        bool negative = Take("-");
        var token = Next();
        string text = token.Text;
        if (!char.IsAsciiDigit(text[0]))
            return text == "WARP_SZ"
                ? new Immediate(EmulatedWarp.Size)
                : scope.FindRegister(text) ?? module.Registers.FindSpecial(text) ?? (Operand)new Name(text);
        if (Number(text) is not { } number)
            throw new PtxSyntaxException(token.Line, $"'{text}' is not a number");
        return number switch
        {
            Immediate immediate when negative => new Immediate((ulong)-(long)immediate.Bits),
            Real real when negative => new Real(-real.Value),
            _ => number,
        };
    }

    /// <summary>`0f3F800000` and `0d...` are the bits of floats, `0x`, `0b` and `0` begin integers to other bases; with a point it is a real number.</summary>
    static Operand? Number(string text)
    {
        if (text.Contains('.'))
            return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double real) ? new Real(real) : null;
        ulong bits;
        char kind = text.Length > 2 && text[0] == '0' ? char.ToLowerInvariant(text[1]) : ' ';
        if (kind is 'x' or 'f' or 'd')
            return ulong.TryParse(text.AsSpan(2).TrimEnd('U'), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out bits)
                ? new Immediate(bits)
                : null;
        string digits = text.TrimEnd('U');
        if (kind == 'b')
            return ulong.TryParse(digits.AsSpan(2), NumberStyles.AllowBinarySpecifier, CultureInfo.InvariantCulture, out bits) ? new Immediate(bits) : null;
        if (digits.Length > 1 && digits[0] == '0')
            return digits.All(digit => digit is >= '0' and <= '7')
                ? new Immediate(digits.Aggregate(0UL, (value, digit) => (8 * value) + (ulong)(digit - '0')))
                : null;
        return ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out bits) ? new Immediate(bits) : null;
    }
}
