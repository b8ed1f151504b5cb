using System.Text.RegularExpressions;

namespace IlgpuPeft.Tests;

/// <summary>The grammar that <see cref="PtxLint"/> reads texts by.</summary>
sealed partial class PtxLint
{
    [GeneratedRegex("//.*")]
    private static partial Regex Comment();

    [GeneratedRegex(@"\s+")]
    private static partial Regex Space();

    // A header up to its body or its semicolon, a brace, a label, a line of its own, or what a semicolon ends; braces of vectors belong to what they stand in.
    [GeneratedRegex(@"\.visible[^{;]*;?|\.(version|target|address_size)[^\n]*|^\s*[{}]\s*$|[\w$]+:|[^\s{};][^;]*;", RegexOptions.Multiline)]
    private static partial Regex Statement();

    [GeneratedRegex(@"\.param \.b(8|16) \w+(?!\w|\[)")]
    private static partial Regex NarrowScalar();

    [GeneratedRegex(@"\.param (?:\.align \d+ )?\.[bf](\d+) \w+(\[\d+\])?")]
    private static partial Regex Parameter();

    [GeneratedRegex(@"\.maxntid (\d+), 1, 1")]
    private static partial Regex MaxThreadsOf();

    [GeneratedRegex(@"^\.(version|address_size|extern \.shared)")]
    private static partial Regex ModuleDirective();

    [GeneratedRegex(@"^(.+)<(\d+)>$")]
    private static partial Regex Range();

    [GeneratedRegex(@"\[(\d+)\]")]
    private static partial Regex ArraySize();

    [GeneratedRegex(@"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")]
    private static partial Regex Operand();

    [GeneratedRegex(@"^\[([%\w]+)(\+-?\d+)?\]$")]
    private static partial Regex AddressOf();

    [GeneratedRegex(@"^(-?\d+|0x[0-9a-f]+|0f[0-9A-Fa-f]{8}|0d[0-9A-Fa-f]{16})$")]
    private static partial Regex Immediate();

    [GeneratedRegex(@"^%(tid|ntid|ctaid|nctaid|laneid|dynamic_smem_size)(\.[xyz])?$")]
    private static partial Regex SpecialRegister();
}
