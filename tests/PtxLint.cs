using System.Globalization;
using System.Text.RegularExpressions;

namespace IlgpuPeft.Tests;

/// <summary>
/// What NVIDIA's assembler would refuse and the emulator lets pass, looked for in the text of a kernel: registers of the wrong kind, names declared twice, immediates where registers
/// belong, and instructions that the target or the oldest driver does not know. It knows the instructions that kernels here have; any other is a problem too.
/// Source: the PTX ISA manual's sections on operand type checking and on single instructions.
/// </summary>
sealed partial class PtxLint
{
    /// <summary>PTX 7.0, of CUDA 11.0: what the oldest driver that is supported reads.</summary>
    const int OldestVersion = 70;

    const int MaxStaticShared = 48 << 10, MaxParameters = 4096, MaxThreads = 1024;

    /// <summary>Instructions by how their names begin, with the least target and version. The longest beginning counts.</summary>
    static readonly Dictionary<string, (int Target, int Version)> Known = new(
    [
        .. "abs add and bar.red bar.sync bar.warp.sync bra clz cvt cvta div ex2 fma ld.global ld.param ld.shared lg2 mad max membar min mov mul neg not or popc prmt rcp red rem ret selp setp shfl.sync shl shr sqrt st.global st.param st.shared sub xor"
            .Split(' ').Select(name => KeyValuePair.Create(name, (50, 60))),
        new("ldmatrix.sync.aligned.m8n8.x4.shared.b16", (75, 65)), new("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", (75, 65)),
        new("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32", (80, 70)),
        new("cp.async.cg.shared.global", (80, 70)), new("cp.async.ca.shared.global", (80, 70)), new("cp.async.commit_group", (80, 70)), new("cp.async.wait_group", (80, 70)),
        new("cvt.rn.bf16", (80, 70)), new("cvt.rn.bf16x2", (80, 70)),
    ]);

    readonly List<string> problems = [];
    readonly Stack<Dictionary<string, string>> scopes = new(); // types of registers
    readonly HashSet<string> labels = [], jumps = [];
    string statement = "";
    int target, shared;

    /// <summary>The problems of a kernel's text, each with the statement that has it.</summary>
    public static IReadOnlyList<string> Problems(string ptx)
    {
        PtxLint lint = new();
        foreach (Match match in Statement().Matches(Comment().Replace(ptx, "")))
        {
            lint.statement = Space().Replace(match.Value.Trim(), " ");
            lint.Read(lint.statement);
        }

        return lint.problems;
    }

    void Read(string text)
    {
        switch (text)
        {
            case "{":
                scopes.Push([]);
                break;
            case "}":
                scopes.Pop();
                if (scopes.Count == 0)
                {
                    End();
                }

                break;
            case var _ when text.EndsWith(':'):
                Check(labels.Add(text[..^1]), "a label twice");
                break;
            case var _ when text.StartsWith('.'):
                Directive(text);
                break;
            default:
                Instruct(text.TrimEnd(';').Trim());
                break;
        }
    }

    void Directive(string text)
    {
        if (text.StartsWith(".target", StringComparison.Ordinal))
        {
            target = int.Parse(text[^2..], CultureInfo.InvariantCulture);
        }
        else if (text.StartsWith(".reg", StringComparison.Ordinal))
        {
            string[] words = text.TrimEnd(';').Split(' ', 3);
            foreach (string name in words[2].Split(','))
            {
                Declare(name.Trim(), words[1]);
            }
        }
        else if (text.StartsWith(".shared", StringComparison.Ordinal))
        {
            shared += Size(text);
            Check(shared <= MaxStaticShared, $"{shared} bytes of static shared memory");
        }
        else if (text.Contains(".func", StringComparison.Ordinal))
        {
            Check(!NarrowScalar().IsMatch(text), "a scalar of less than 32 bits in a function's signature");
        }
        else if (text.Contains(".entry", StringComparison.Ordinal))
        {
            Check(Parameter().Matches(text).Sum(match => match.Groups[2].Success ? Size(match.Value) : int.Parse(match.Groups[1].Value, CultureInfo.InvariantCulture) / 8) <= MaxParameters, "too many parameters");
            var threads = MaxThreadsOf().Match(text);
            Check(threads.Success && int.Parse(threads.Groups[1].Value, CultureInfo.InvariantCulture) <= MaxThreads, "no bound of threads, by which registers are shared out");
        }
        else
        {
            Check(ModuleDirective().IsMatch(text), "an unknown directive");
        }
    }

    void Declare(string name, string type)
    {
        var match = Range().Match(name);
        int count = match.Success ? int.Parse(match.Groups[2].Value, CultureInfo.InvariantCulture) : 1;
        for (int i = 0; i < count; i++)
        {
            Check(scopes.Peek().TryAdd(match.Success ? match.Groups[1].Value + i : name, type), "a register twice");
        }
    }

    void Instruct(string text)
    {
        bool guarded = text.StartsWith('@');
        if (guarded)
        {
            (string guard, text) = Cut(text);
            Is(guard.TrimStart('@', '!'), ".pred");
        }

        var (name, rest) = Cut(text);
        string known = name;
        while (!Known.ContainsKey(known) && known.Length > 0)
        {
            known = known[..Math.Max(0, known.LastIndexOf('.'))];
        }

        var (leastTarget, leastVersion) = Known.GetValueOrDefault(known);
        Check(leastTarget > 0, "an instruction that the table does not have");
        Check(leastTarget <= target, $"an instruction of sm_{leastTarget} for sm_{target}");
        Check(leastVersion <= OldestVersion, $"an instruction of PTX {leastVersion} for drivers that read {OldestVersion}");
        string[] operands = [.. Operand().Matches(rest).Select(match => match.Value)], suffixes = name.Split('.');
        string type = "." + suffixes[^1];
        switch (suffixes[0])
        {
            case "bra":
                Check(!(guarded && suffixes.Contains("uni")), "a branch that diverges and says it does not");
                jumps.Add(rest);
                break;
            case "mma":
                Vector(operands[0], 4, ".f32");
                Vector(operands[1], 4, ".b32");
                Vector(operands[2], 2, ".b32");
                Vector(operands[3], 4, ".f32");
                break;
            case "ldmatrix":
                Vector(operands[0], 4, ".b32");
                Address(operands[1], ".b32");
                break;
            case "cp" when operands.Length > 1:
                Address(operands[0], ".b32");
                Address(operands[1], ".b64");
                Check(operands[2] == "16" || (operands[2] is "4" or "8" && name.Contains(".ca.", StringComparison.Ordinal)), "a copy of no such size");
                Fits(operands[3], ".u32");
                break;
            case "ld" when suffixes[1] == "param":
                Loads(operands[0], type);
                break;
            case "ld":
                Loads(operands[0], type);
                Address(operands[1], suffixes[1] == "shared" ? null : ".b64");
                break;
            case "st" when suffixes[1] == "param":
                Loads(operands[1], type);
                break;
            case "st" or "red":
                Address(operands[0], suffixes.Contains("shared") ? null : ".b64");
                Loads(operands[1], type);
                break;
            case "cvt" when suffixes[^2] == "bf16x2":
                Is(operands[0], ".b32");
                Is(operands[1], ".f32");
                Is(operands[2], ".f32");
                break;
            case "cvt":
                Converts(operands[0], "." + suffixes[^2]);
                Converts(operands[1], type);
                break;
            case "cvta":
                Is(operands[0], ".b64");
                Is(operands[1], ".b64");
                break;
            case "setp":
                Is(operands[0], ".pred");
                Fits(operands[1], type);
                Fits(operands[2], type);
                Check(operands.Length == (suffixes.Length > 3 ? 4 : 3), "operands");
                break;
            case "selp":
                All(operands[..3], type);
                Is(operands[3], ".pred");
                break;
            case "mul" or "mad" when suffixes[1] == "wide":
                Fits(operands[0], type[..2] + "64");
                All(operands[1..3], type);
                break;
            case "shl" or "shr":
                All(operands[..2], type);
                Fits(operands[2], ".u32");
                break;
            case "popc" or "clz":
                Is(operands[0], ".b32");
                Fits(operands[1], type);
                break;
            case "shfl":
                All(operands, type);
                break;
            case "bar" when suffixes.Contains("pred"):
                Is(operands[0], ".pred");
                Is(operands[2].TrimStart('!'), ".pred");
                break;
            case "bar" or "cp" or "ret" or "membar":
                break;
            default:
                All(operands, type);
                Check(operands.Length > 1 && RegisterType(operands[0]) is not null, "an instruction without a destination");
                break;
        }
    }

    /// <summary>The end of a function: every jump has its label, and names begin anew.</summary>
    void End()
    {
        statement = "}";
        Check(jumps.IsSubsetOf(labels), $"jumps to {string.Join(", ", jumps.Except(labels))}");
        labels.Clear();
        jumps.Clear();
        shared = 0;
    }

    /// <summary>A register of exactly this kind.</summary>
    void Is(string operand, string type) => Check(RegisterType(operand) == type, $"{operand} is {RegisterType(operand) ?? "no register"}, expected {type}");

    /// <summary>A register whose kind an instruction of this type takes, or an immediate: sizes are the same, and integers and floats do not mix.</summary>
    void Fits(string operand, string type)
    {
        if (RegisterType(operand) is { } actual)
        {
            bool mixed = type[1] is 's' or 'u' && actual[1] == 'f';
            Check(actual == type || (actual != ".pred" && type != ".pred" && actual[2..] == type[2..] && !mixed), $"{operand} is {actual}, expected {type}");
        }
        else
        {
            Check(Immediate().IsMatch(operand) || (type == ".b64" && operand.StartsWith("__", StringComparison.Ordinal)) || SpecialRegister().IsMatch(operand), $"{operand} is no operand");
            Check(type[1] != 'f' || operand.StartsWith(type == ".f32" ? "0f" : "0d", StringComparison.Ordinal), $"{operand} is no literal of {type}");
        }
    }

    void All(IEnumerable<string> operands, string type)
    {
        foreach (string operand in operands)
        {
            Fits(operand, type);
        }
    }

    /// <summary>What is loaded or stored: a register, or a vector of them. A byte takes a register of 16 bits.</summary>
    void Loads(string operand, string type)
    {
        string[] registers = operand.Trim('{', '}').Split(", ");
        Check(registers.Length * int.Parse(type[2..], CultureInfo.InvariantCulture) <= 128, "more than 16 bytes at once");
        All(registers, type[2..] == "8" ? ".b16" : type);
    }

    void Converts(string operand, string type)
    {
        if (type is ".f16" or ".bf16")
        {
            Is(operand, ".b16");
        }
        else
        {
            Fits(operand, type[2..] == "8" ? ".u16" : type);
        }
    }

    void Vector(string operand, int count, string type)
    {
        string[] registers = operand.Trim('{', '}').Split(", ");
        Check(registers.Length == count, $"{registers.Length} registers, expected {count}");
        foreach (string register in registers)
        {
            Is(register, type);
        }
    }

    void Address(string operand, string? type)
    {
        var match = AddressOf().Match(operand);
        Check(match.Success, $"{operand} is no address");
        string? actual = RegisterType(match.Groups[1].Value);
        Check(type is null ? actual is ".b32" or ".b64" : actual == type, $"the address {operand} is {actual ?? "no register"}, expected {type ?? ".b32 or .b64"}");
    }

    string? RegisterType(string name) => scopes.Select(scope => scope.GetValueOrDefault(name)).FirstOrDefault(type => type is not null);

    void Check(bool right, string problem)
    {
        if (!right)
        {
            problems.Add($"{problem}: {statement}");
        }
    }

    static (string First, string After) Cut(string text) => text.IndexOf(' ', StringComparison.Ordinal) is >= 0 and var at ? (text[..at], text[(at + 1)..].Trim()) : (text, "");

    static int Size(string declaration) => int.Parse(ArraySize().Match(declaration).Groups[1].Value, CultureInfo.InvariantCulture);
}
