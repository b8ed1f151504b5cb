using System.Globalization;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Metrics;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>The <c>report.html</c> of a supervised run.</summary>
static class SftReport
{
    public static void Write(SftRun run, TrainingResult result)
    {
        var rows = MetricsFile.Read(run.Folder.MetricsPath);
        var validation = MetricsFile.Series(rows, "eval_loss", "validation");
        double? before = result.Initial?.Loss, after = result.Final?.Loss ?? (validation.Points.Count > 0 ? validation.Points[^1].Y : null);
        validation = validation with { Points = [.. before is { } start ? [(0.0, start)] : Array.Empty<(double, double)>(), .. validation.Points] };
        var (model, memory) = (run.Model, run.Model.Backend.Memory);
        var report = new Report($"Supervised fine-tuning of {Path.GetFileName(run.Config.BaseModel.TrimEnd('/', '\\'))}");
        report.AddFacts("Result",
        [
            ("optimizer steps", $"{result.Steps:N0} of {run.TotalSteps:N0}"),
            ("training loss", rows.Count == 0 ? "no step" : $"{rows[0]["loss"]:0.0000} in the first step, {rows[^1]["loss"]:0.0000} in the last"),
            ("validation loss", Change(before, after)),
            ("tokens", $"{rows.Sum(row => row["tokens"]):N0} read, {rows.Sum(row => row["trained_tokens"]):N0} trained on"),
        ]);
        report.AddPlot(Plot.Svg("Loss", "optimizer step", "nats per token", [MetricsFile.Series(rows, "loss", "training"), validation]));
        report.AddPlot(Plot.Svg("Gradient norm before clipping", "optimizer step", "norm", [MetricsFile.Series(rows, "grad_norm", "gradient norm")]));
        report.AddPlot(Plot.Svg("Learning rate", "optimizer step", "learning rate", [MetricsFile.Series(rows, "learning_rate", "learning rate")]));
        report.AddPlot(Plot.Svg("Speed", "optimizer step", "tokens per second", [MetricsFile.Series(rows, "tokens_per_second", "tokens per second")]));
        report.AddFacts("Model",
        [
            ("folder", run.Config.BaseModel),
            ("architecture", $"{model.Config.ModelType}, {model.Config.Layers} layers, width {model.Config.Hidden}, vocabulary {model.Config.Vocabulary}"),
            ("weights", $"{model.ParameterCount:N0}, linear layers {(run.Config.LoadIn4Bit ? "in NF4" : "as stored")}"),
            ("trained", $"{run.Weights.Parameters.Count:N0} ({(double)run.Weights.Parameters.Count / model.ParameterCount:0.00 %})"),
            ("device", model.Backend.Name),
        ]);
        report.AddFacts("Data", [.. run.Data.Reports.Select(Row), .. run.Data.ValidationReports.Select(Row),
            ("examples", $"{run.Data.Train.Count:N0} trained on, {run.Data.Validation.Count:N0} set aside for validation")]);
        report.AddFacts("Device memory", [.. memory.ByOwner.Where(pair => pair.Value > 0).OrderByDescending(pair => pair.Value)
            .Select(pair => (pair.Key, MemoryAccount.Format(pair.Value))), ("at most, together", MemoryAccount.Format(memory.Peak))]);
        report.AddText("Configuration", ConfigWriter.ToYaml(run.Config));
        report.Write(Path.Combine(run.Folder.Root, "report.html"));

        static (string, string) Row(DatasetReport data) => (Path.GetFileName(data.Path), data.ToString());
    }

    static string Change(double? before, double? after) => (before, after) switch
    {
        (_, null) => "not measured",
        (null, { } last) => $"{Text(last)} at the end (the run was resumed, and the loss before it is not in its files)",
        ({ } first, { } last) => $"{Text(first)} before, {Text(last)} after ({(last - first) / first:+0.0 %;-0.0 %})",
    };

    static string Text(double loss) => loss.ToString("0.0000", CultureInfo.InvariantCulture);
}
