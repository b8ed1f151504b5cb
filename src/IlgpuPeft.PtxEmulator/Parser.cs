using System.Globalization;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Reads PTX text into functions of statements. Registers are numbered and variables laid out on the way.</summary>
sealed partial class Parser
{
    readonly List<Token> tokens;
    readonly ModuleSyntax module = new();
    int at;

    Parser(string text) => tokens = Tokens.Read(text);

    /// <exception cref="PtxSyntaxException">The text is malformed; names the line.</exception>
    public static ModuleSyntax Parse(string text)
    {
        var parser = new Parser(text);
        while (parser.at < parser.tokens.Count)
            parser.TopLevel();
        return parser.module;
    }

    Token Here => at < tokens.Count ? tokens[at] : throw new PtxSyntaxException(tokens.Count == 0 ? 1 : tokens[^1].Line, "the text ends too early");

    bool Is(string text) => Here.Text == text;

    Token Next()
    {
        var token = Here;
        at++;
        return token;
    }

    bool Take(string text)
    {
        if (!Is(text))
            return false;
        at++;
        return true;
    }

    void Expect(string text)
    {
        if (!Take(text))
            throw new PtxSyntaxException(Here.Line, $"expected '{text}', got '{Here.Text}'");
    }

    int Integer()
    {
        var token = Next();
        return int.TryParse(token.Text, NumberStyles.None, CultureInfo.InvariantCulture, out int value)
            ? value
            : throw new PtxSyntaxException(token.Line, $"expected a number, got '{token.Text}'");
    }

    void TopLevel()
    {
        var token = Here;
        switch (token.Text)
        {
            case ".version" or ".address_size":
                at += 2;
                break;
            case ".target":
                module.Target = Architectures.Parse(tokens, at + 1);
                do
                    at += 2;
                while (at < tokens.Count && Is(","));
                break;
            case ".visible" or ".extern" or ".weak":
                at++;
                break;
            case ".shared" or ".global" or ".const":
                VariableDeclaration(module.Scope);
                break;
            case ".entry":
                at++;
                ReadFunction(isEntry: true, result: null, new Scope(module.Scope));
                break;
            case ".func":
                at++;
                var scope = new Scope(module.Scope);
                var result = Is("(") ? Parameters(scope, "param").SingleOrDefault() : null;
                ReadFunction(isEntry: false, result, scope);
                break;
            default:
                throw new PtxSyntaxException(token.Line, $"'{token.Text}' is not supported at the top level of a module");
        }
    }

    void ReadFunction(bool isEntry, Variable? result, Scope scope)
    {
        var function = new Function(Next().Text, isEntry, scope) { Result = result };
        int kernelBytes = 0;
        if (Is("("))
            function.Parameters.AddRange(
                Parameters(scope, isEntry ? "kernel" : "param", () => kernelBytes, size => kernelBytes = size));
        // Launch bounds such as `.maxntid 256, 1, 1` tune a real compiler; they change no result.
        while (!Is("{") && !Is(";"))
            at++;
        if (Take(";"))
            return;
        Expect("{");
        Body(function, scope);
        module.Functions[function.Name] = function;
    }

    /// <summary>Parameters of an entry are laid out as one buffer, which <paramref name="end"/> and <paramref name="grow"/> measure.</summary>
    List<Variable> Parameters(Scope scope, string space, Func<int>? end = null, Action<int>? grow = null)
    {
        var variables = new List<Variable>();
        Expect("(");
        while (!Take(")"))
        {
            Take(",");
            Expect(".param");
            var (name, type, size, alignment) = Declarator();
            int offset = space == "kernel" ? (end!() + alignment - 1) / alignment * alignment : module.AddLaneMemory(size, alignment);
            grow?.Invoke(offset + size);
            var variable = new Variable(space, offset, size, type);
            scope.Variables.Add(name, variable);
            variables.Add(variable);
        }
        return variables;
    }

    /// <summary>`.align 8 .b8 name[24]` after the state space.</summary>
    (string Name, PtxType Type, int Size, int Alignment) Declarator()
    {
        int alignment = 0;
        if (Take(".align"))
            alignment = Integer();
        var typeToken = Next();
        var type = PtxTypes.Parse(typeToken.Text.TrimStart('.')) ?? throw new PtxSyntaxException(typeToken.Line, $"'{typeToken.Text}' is not a type");
        string name = Next().Text;
        int size = type.Size();
        if (alignment == 0)
            alignment = Math.Max(1, size);
        while (Take("["))
        {
            size *= Is("]") ? 0 : Integer();
            Expect("]");
        }
        return (name, type, size, alignment);
    }

    void VariableDeclaration(Scope scope)
    {
        var spaceToken = Next();
        var (name, type, size, alignment) = Declarator();
        string space = spaceToken.Text[1..];
        byte[] initial = [];
        if (Take("="))
            initial = space is "global" or "const"
                ? InitialValue(type)
                : throw new PtxSyntaxException(spaceToken.Line, $"'{name}' in {spaceToken.Text} memory cannot have an initial value");
        Expect(";");
        if (initial.Length > size)
            throw new PtxSyntaxException(spaceToken.Line, $"the initial value of '{name}' has {initial.Length} bytes, expected {size} at most");
        scope.Variables[name] = space switch
        {
            "shared" when size == 0 => new Variable("dynamic", 0, 0, type),
            "shared" => new Variable("shared", module.AddShared(size, alignment), size, type),
            "global" or "const" => new Variable(space, 0, size, type) { Address = module.Variables.Add(size, initial) },
            "local" or "param" => new Variable(space, module.AddLaneMemory(size, alignment), size, type),
            _ => throw new PtxSyntaxException(spaceToken.Line, $"state space '{spaceToken.Text}' is not supported"),
        };
    }

    void RegisterDeclaration(Scope scope)
    {
        Expect(".reg");
        var typeToken = Next();
        var type = PtxTypes.Parse(typeToken.Text.TrimStart('.')) ?? throw new PtxSyntaxException(typeToken.Line, $"'{typeToken.Text}' is not a type");
        int laneSize = type == PtxType.Pred ? 0 : Math.Max(2, type.Size());
        do
        {
            string name = Next().Text;
            if (Take("<"))
            {
                int count = Integer();
                Expect(">");
                for (int i = 0; i < count; i++)
                    scope.Registers[name + i] = module.Registers.Add(laneSize);
            }
            else
            {
                scope.Registers[name] = module.Registers.Add(laneSize);
            }
        }
        while (Take(","));
        Expect(";");
    }

    void Body(Function function, Scope scope)
    {
        while (!Take("}"))
        {
            var token = Here;
            if (Take("{"))
                Body(function, new Scope(scope));
            else if (Take(";"))
                continue;
            else if (token.Text == ".reg")
                RegisterDeclaration(scope);
            else if (token.Text is ".shared" or ".local" or ".param" or ".global" or ".const")
                VariableDeclaration(scope);
            else if (token.Text is ".loc" or ".pragma")
                SkipLine(token.Line);
            else if (at + 1 < tokens.Count && tokens[at + 1].Text == ":")
                Label(function);
            else
                function.Statements.Add(ReadStatement(scope));
        }
    }

    void SkipLine(int line)
    {
        while (Here.Line == line)
            at++;
    }

    void Label(Function function)
    {
        string name = Next().Text;
        Expect(":");
        if (Take(".branchtargets"))
        {
            var targets = new List<string>();
            do
                targets.Add(Next().Text);
            while (Take(","));
            Expect(";");
            function.BranchTargets[name] = [.. targets];
        }
        function.Labels[name] = function.Statements.Count;
    }
}
