using System.Globalization;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// What came with sm_75 and sm_80, as the target notes of the PTX manual have it: a module for an older GPU must do without. What came before is not told
/// apart.
/// </summary>
static class Architectures
{
    /// <summary>The newest that the emulator knows instructions of.</summary>
    public const int Newest = 80;

    /// <summary>The number in `sm_75` or `sm_90a`; the newest where there is none.</summary>
    public static int Parse(List<Token> tokens, int at)
    {
        string name = at < tokens.Count ? tokens[at].Text : "";
        string digits = new([.. name.Skip("sm_".Length).TakeWhile(char.IsAsciiDigit)]);
        return name.StartsWith("sm_", StringComparison.Ordinal) && int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out int target)
            ? target
            : Newest;
    }

    /// <exception cref="PtxSyntaxException">The module's target does not have the instruction.</exception>
    public static void Check(DecodeContext context)
    {
        int target = context.Module.Target;
        if (target < Newest && First(context.Statement.Parts) is var first && first > target)
            throw context.Malformed($"needs sm_{first}, the module is for sm_{target}");
    }

    static int First(string[] parts)
    {
        bool Has(params ReadOnlySpan<string> modifiers)
        {
            foreach (string modifier in modifiers)
                if (Array.IndexOf(parts, modifier, 1) >= 0)
                    return true;
            return false;
        }

        if (Has("bf16", "bf16x2", "tf32", "relu", "NaN", "L2::cache_hint", "L2::256B"))
            return 80;
        return parts[0] switch
        {
            "cp" or "redux" or "createpolicy" or "applypriority" => 80,
            "min" or "max" when Has("f16", "f16x2") => 80,
            "cvt" when Has("f16x2") => 80,
            "mma" => Has("m8n8k4") && !Has("f64") ? 70 : Has("m8n8k16", "m8n8k32", "m16n8k8") || (Has("m8n8k128") && !Has("and")) ? 75 : 80,
            "ldmatrix" or "movmatrix" or "tanh" => 75,
            "ex2" when Has("f16", "f16x2") => 75,
            _ => Has("L2::64B", "L2::128B") ? 75 : 0,
        };
    }
}
