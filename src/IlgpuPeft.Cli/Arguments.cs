using System.CommandLine;
using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;

namespace IlgpuPeft.Cli;

/// <summary>Options that several commands share, each with one spelling and one check.</summary>
static class Arguments
{
    public static Option<bool> Json() => new("--json") { Description = "Print one JSON object to standard output." };

    public static Option<string> Device() =>
        new("--device") { Description = "auto, cpu, cuda:N, emulator or simulator (see devices).", HelpName = "NAME", DefaultValueFactory = _ => "auto" };

    public static Option<string> Dtype()
    {
        var option = new Option<string>("--dtype") { Description = "Type of activations: f32 or bf16. Default: f32 on cpu, bf16 elsewhere.", DefaultValueFactory = _ => "auto" };
        option.AcceptOnlyFromAmong("auto", "f32", "bf16");
        return option;
    }

    /// <summary>For commands that compute nothing on a device: they take the option, and say so if there is no such device.</summary>
    public static void RequireDevice(ParseResult parse, Option<string> device, Option<string>? dtype = null) =>
        RunDevice.Open(parse.GetRequiredValue(device), dtype is null ? "auto" : parse.GetRequiredValue(dtype)).Dispose();

    /// <summary>How linear weights are held, or what an adapter is added to; <see cref="StorageOf"/> reads it.</summary>
    public static Option<string> Base()
    {
        var option = new Option<string>("--base")
        {
            Description = "Linear weights: as stored, or rounded to 4 bits, which is what a QLoRA adapter was trained over.",
            DefaultValueFactory = _ => "stored",
        };
        option.AcceptOnlyFromAmong("stored", "nf4", "nf4-double");
        return option;
    }

    public static WeightStorage StorageOf(ParseResult parse, Option<string> storage) => parse.GetRequiredValue(storage) switch
    {
        "nf4" => WeightStorage.Nf4,
        "nf4-double" => WeightStorage.Nf4Double,
        _ => WeightStorage.AsStored,
    };

    public static Option<int[]> Tokens(string description) => new("--tokens")
    {
        Description = description,
        HelpName = "1,2,3",
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            const NumberStyles digits = NumberStyles.AllowLeadingWhite | NumberStyles.AllowTrailingWhite;
            var ids = text.Split(',').Select(part => int.TryParse(part, digits, CultureInfo.InvariantCulture, out int id) ? id : -1).ToArray();
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
        RequireAtLeast(option, least);
        return option;
    }

    /// <summary>A whole number that need not be given.</summary>
    public static Option<int?> OptionalWhole(string name, int least, string description)
    {
        var option = new Option<int?>(name) { Description = description, HelpName = "N" };
        RequireAtLeast(option, least);
        return option;
    }

    static void RequireAtLeast(Option option, int least) => option.Validators.Add(result =>
    {
        if (result.Tokens is [var token] && int.TryParse(token.Value, CultureInfo.InvariantCulture, out int value) && value < least)
        {
            result.AddError($"{option.Name}: expected at least {least}, got {value}.");
        }
    });

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
