namespace IlgpuPeft.PtxEmulator;

/// <summary>Turns the statements of a function into instructions and resolves its branches.</summary>
static class Linker
{
    public static void Append(Function function, ModuleSyntax module, List<Instruction> code)
    {
        int first = code.Count;
        var start = new int[function.Statements.Count + 1];
        var branches = new List<(Statement Statement, Instruction Instruction)>();
        for (int i = 0; i < function.Statements.Count; i++)
        {
            var statement = function.Statements[i];
            start[i] = code.Count;
            var context = new DecodeContext(statement, module);
            if (statement.Parts[0] == "call")
            {
                AppendCall(context, code);
                continue;
            }
            var instruction = Decoder.Decode(context);
            Add(code, instruction, statement);
            if (instruction is Branch or IndexedBranch)
                branches.Add((statement, instruction));
        }
        start[^1] = code.Count;
        // Falling off the end is a return.
        Add(code, new Return(exit: false), null);

        int Resolve(Statement statement, string label) =>
            function.Labels.TryGetValue(label, out int at) ? start[at] : throw new PtxSyntaxException(statement.Line, $"label '{label}' is not defined");

        foreach (var (statement, instruction) in branches)
        {
            if (instruction is Branch branch)
                branch.Target = Resolve(statement, Label(statement, 0));
            else if (instruction is IndexedBranch indexed)
                indexed.Targets = function.BranchTargets.TryGetValue(Label(statement, 1), out string[]? labels)
                    ? [.. labels.Select(label => Resolve(statement, label))]
                    : throw new PtxSyntaxException(statement.Line, "the list of targets is not defined");
        }
        SetJoins(first, code);
    }

    static string Label(Statement statement, int operand) =>
        statement.Operands.Count > operand && statement.Operands[operand] is Name name
            ? name.Text
            : throw new PtxSyntaxException(statement.Line, $"'{statement.Opcode}' needs a label");

    static void SetJoins(int first, List<Instruction> code)
    {
        int count = code.Count - first;
        var successors = new int[count][];
        for (int i = 0; i < count; i++)
        {
            var instruction = code[first + i];
            int next = i + 1;
            bool always = instruction.Guard < 0;
            successors[i] = instruction switch
            {
                Branch branch => always ? [branch.Target - first] : [branch.Target - first, next],
                IndexedBranch indexed => [.. indexed.Targets.Distinct().Select(t => t - first)],
                Return or Trap when always => [],
                _ => [next],
            };
        }
        int[] joins = ControlFlow.PostDominators(successors);
        for (int i = 0; i < count; i++)
        {
            int join = joins[i] < 0 ? -1 : first + joins[i];
            if (code[first + i] is Branch branch)
                branch.Join = join;
            else if (code[first + i] is IndexedBranch indexed)
                indexed.Join = join;
        }
    }

    static void AppendCall(DecodeContext context, List<Instruction> code)
    {
        var statement = context.Statement;
        var lists = statement.Operands;
        int at = lists.Count > 0 && lists[0] is Vector ? 1 : 0;
        if (at < lists.Count && lists[at] is Name { Text: var known } && at + 1 < lists.Count && lists[at + 1] is Vector passed)
        {
            int[] offsets = [.. passed.Items.Select(item => context.Variable(item).Offset)];
            int answer = at == 1 && ((Vector)lists[0]).Items is [var to] ? context.Variable(to).Offset : 0;
            if (HostCalls.Of(known, offsets, answer) is { } host)
            {
                Add(code, host, statement);
                return;
            }
        }
        if (at >= lists.Count || lists[at] is not Name name || !context.Module.Functions.TryGetValue(name.Text, out var function))
            throw context.Malformed($"calls a function that is not in the module: {(at < lists.Count ? lists[at] : "none")}");
        var arguments = at + 1 < lists.Count && lists[at + 1] is Vector given ? given.Items : [];
        if (arguments.Count != function.Parameters.Count)
            throw new PtxSyntaxException(statement.Line, $"'{function.Name}' takes {function.Parameters.Count} parameters, got {arguments.Count}");
        for (int i = 0; i < arguments.Count; i++)
            Add(code, new PassParameter(context.Variable(arguments[i]).Offset, function.Parameters[i].Offset, function.Parameters[i].Size), statement);
        Add(code, new Call(function.Name), statement);
        if (at == 1 && function.Result is { } result && ((Vector)lists[0]).Items is [var target])
            Add(code, new PassParameter(result.Offset, context.Variable(target).Offset, result.Size), statement);
    }

    static void Add(List<Instruction> code, Instruction instruction, Statement? statement)
    {
        instruction.Line = statement?.Line ?? (code.Count == 0 ? 1 : code[^1].Line);
        if (statement?.Guard is { } guard)
        {
            instruction.Guard = guard.Slot;
            instruction.GuardNegated = statement.GuardNegated;
        }
        code.Add(instruction);
    }
}
