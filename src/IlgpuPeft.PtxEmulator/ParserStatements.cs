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

    Operand Literal(Scope scope)
    {
        bool negative = Take("-");
        var token = Next();
        string text = token.Text;
        if (!char.IsAsciiDigit(text[0]))
            return scope.FindRegister(text) ?? module.Registers.FindSpecial(text) ?? (Operand)new Name(text);
        bool read = text.Length > 2 && text[0] == '0' && char.ToLowerInvariant(text[1]) is 'x' or 'f' or 'd'
            ? ulong.TryParse(text.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong bits)
            : ulong.TryParse(text.TrimEnd('U'), NumberStyles.None, CultureInfo.InvariantCulture, out bits);
        if (!read)
            throw new PtxSyntaxException(token.Line, $"'{text}' is not a number");
        return new Immediate(negative ? (ulong)-(long)bits : bits);
    }
}
