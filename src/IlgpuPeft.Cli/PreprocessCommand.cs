using System.CommandLine;
using System.Text;
using IlgpuPeft.Config;
using IlgpuPeft.Data;
using IlgpuPeft.Text;

namespace IlgpuPeft.Cli;

static class PreprocessCommand
{
    public static Command Create()
    {
        var file = new Argument<string>("CONFIG.yaml") { Description = "The configuration of a run." };
        var set = new Option<string[]>("--set") { Description = "Replaces a value of the file; may be repeated.", HelpName = "key=value" };
        var samples = Arguments.Whole("--samples", 3, 0, "How many rows to show.");
        var (json, device, dtype) = (Arguments.Json(), Arguments.Device(), Arguments.Dtype());
        var command = new Command("preprocess", "Tokenise a run's data, report on it, and show rows with what is trained on in ⟦ ⟧.") { file, set, samples, json, device, dtype };
        command.SetAction(parse =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            Arguments.RequireDevice(parse, device, dtype);
            var (config, notes) = ConfigReader.Read(parse.GetRequiredValue(file), parse.GetValue(set) ?? []);
            notes.ToList().ForEach(screen.Warn);
            var data = RunData.Load(config);
            foreach (var report in data.Reports.Concat(data.ValidationReports))
            {
                screen.Say($"data: {report}");
            }

            screen.Say($"{data.Train.Count:N0} rows to train on, {data.Validation.Count:N0} to validate on");
            foreach (var example in data.Train.Take(parse.GetValue(samples)))
            {
                screen.Out.WriteLine(parse.GetValue(json)
                    ? Json.Line(new { example.InputIds, example.Labels, example.File, example.Line })
                    : $"--- {example.File}:{example.Line}: {example.Length} tokens, {example.TrainedTokens} trained on\n{Marked(example, data.Tokenizer)}");
            }
        });
        return command;
    }

    /// <summary>The text of a row, or its ids where there is no tokenizer, with every run of trained tokens in ⟦ ⟧.</summary>
    static string Marked(Example example, Tokenizer? tokenizer)
    {
        var text = new StringBuilder();
        bool inside = false;
        var decoder = tokenizer?.Stream(skipSpecialTokens: false);
        for (int i = 0; i < example.Length; i++)
        {
            bool trained = i > 0 && example.Labels[i] != Example.Untrained;
            text.Append(trained == inside ? "" : trained ? "⟦" : "⟧").Append(decoder is null ? $"{example.InputIds[i]} " : decoder.Push(example.InputIds[i]));
            inside = trained;
        }

        return text.Append(decoder?.Flush()).Append(inside ? "⟧" : "").ToString();
    }
}
