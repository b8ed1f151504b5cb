using System.CommandLine;
using IlgpuPeft.Config;

namespace IlgpuPeft.Cli;

static class PreprocessCommand
{
    public static Command Create()
    {
        var file = new Argument<string>("CONFIG.yaml") { Description = "The configuration of a run." };
        var set = new Option<string[]>("--set") { Description = "Replaces a value of the file; may be repeated.", HelpName = "key=value" };
        var samples = Arguments.Whole("--samples", 3, 0, "How many rows to show.");
        var (json, device, dtype) = (Arguments.Json(), Arguments.Device(), Arguments.Dtype());
        var command = new Command("preprocess", "Tokenise a run's data, report on it, and show rows with what is trained on in ⟦ ⟧. With --json, rows are as type: tokenized reads them.")
        {
            file, set, samples, json, device, dtype,
        };
        command.SetAction((parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            Arguments.RequireDevice(parse, device, dtype);
            var (config, notes) = ConfigReader.Read(parse.GetRequiredValue(file), parse.GetValue(set) ?? []);
            notes.ToList().ForEach(screen.Warn);
            switch (config.Rl)
            {
                case "ppo" or "grpo":
                    Show(RunData.LoadPrompts(config, cancel), DataView.Of, DataView.Row);
                    break;
                case "kto":
                    Show(RunData.LoadLabelled(config, cancel), DataView.Of, DataView.Row);
                    break;
                case null when !config.RewardModel:
                    Show(RunData.Load(config, cancel), DataView.Of, DataView.Row);
                    break;
                default:
                    Show(RunData.LoadPairs(config, cancel), DataView.Of, DataView.Row);
                    break;
            }

            return Task.CompletedTask;

            void Show<T>(RunData<T> data, Func<T, DataView, string> text, Func<T, object> row)
            {
                foreach (var report in data.Reports.Concat(data.ValidationReports))
                {
                    screen.Say($"data: {report}");
                }

                screen.Say($"{data.Train.Count:N0} {data.Reports[0].Unit} to train on, {data.Validation.Count:N0} to validate on");
                var view = new DataView(data.Tokenizer);
                foreach (var item in data.Train.Take(parse.GetValue(samples)))
                {
                    cancel.ThrowIfCancellationRequested();
                    screen.Out.WriteLine(parse.GetValue(json) ? Json.Line(row(item)) : text(item, view));
                }
            }
        });
        return command;
    }
}
