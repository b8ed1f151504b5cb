using System.CommandLine;
using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;

namespace IlgpuPeft.Cli;

/// <summary>Options that several commands share, each with one spelling and one check.</summary>
static class Arguments
{
    public static Option<bool> Json() => new("--json") { Description = "Print one JSON object to standard output." };

    public static Option<string> Device() => new("--device") { Description = "auto, cpu, cuda:N or emulator (see devices).", DefaultValueFactory = _ => "auto" };

    public static Option<string> Dtype()
    {
        var option = new Option<string>("--dtype") { Description = "Type of activations: f32 or bf16. Default: f32 on cpu.", DefaultValueFactory = _ => "auto" };
        option.AcceptOnlyFromAmong("auto", "f32", "bf16");
        return option;
    }

    /// <summary>For commands that compute nothing on a device: they take the option, and say so if there is no such device.</summary>
    public static void RequireDevice(ParseResult parse, Option<string> device, Option<string>? dtype = null) =>
        RunDevice.Open(parse.GetRequiredValue(device), dtype is null ? "auto" : parse.GetRequiredValue(dtype)).Dispose();

    /// <summary>How linear weights are held, or what an adapter is added to.</summary>
    public static Option<WeightStorage> Base() => new("--base")
    {
        Description = "Linear weights: stored, nf4 or nf4-double (what a QLoRA adapter was trained over).",
        HelpName = "stored|nf4|nf4-double",
        DefaultValueFactory = _ => WeightStorage.AsStored,
        CustomParser = result =>
        {
            switch (result.Tokens[0].Value)
            {
                case "stored":
                    return WeightStorage.AsStored;
                case "nf4":
                    return WeightStorage.Nf4;
                case "nf4-double":
                    return WeightStorage.Nf4Double;
                default:
                    result.AddError($"--base: expected stored, nf4 or nf4-double, got {result.Tokens[0].Value}.");
                    return default;
            }
        },
    };

    public static Option<int[]> Tokens(string description) => new("--tokens")
    {
        Description = description,
        HelpName = "1,2,3",
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            var ids = text.Split(',').Select(part => int.TryParse(part, NumberStyles.AllowLeadingWhite | NumberStyles.AllowTrailingWhite, CultureInfo.InvariantCulture, out int id) ? id : -1).ToArray();
            if (ids.Contains(-1))
            {
                result.AddError($"--tokens: expected token ids such as 1,15,2, got {text}.");
            }

            return ids;
        },
    };

    /// <summary>The ids of <see cref="Tokens"/>, or null where the option is not given: an absent list would read as an empty one.</summary>
    public static int[]? TokensOf(ParseResult parse, Option<int[]> tokens) => parse.GetResult(tokens) is null ? null : parse.GetValue(tokens);

    public static Option<int> Whole(string name, int fallback, int least, string description)
    {
        var option = new Option<int>(name) { Description = description, HelpName = "N", DefaultValueFactory = _ => fallback };
        option.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && int.TryParse(token.Value, CultureInfo.InvariantCulture, out int value) && value < least)
            {
                result.AddError($"{name}: expected at least {least}, got {value}.");
            }
        });
        return option;
    }

    public static Option<double> Number(string name, double fallback, double least, double most, string description)
    {
        var option = new Option<double>(name) { Description = description, HelpName = "X", DefaultValueFactory = _ => fallback };
        option.Validators.Add(result =>
        {
            if (result.Tokens is [var token] && double.TryParse(token.Value, CultureInfo.InvariantCulture, out double value) && !(value >= least && value <= most))
            {
                result.AddError($"{name}: expected a number from {least} to {most}, got {token.Value}.");
            }
        });
        return option;
    }

    public static Option<string> Folder(string name, string description) => new(name) { Description = description, HelpName = "DIR", Required = true };
}
