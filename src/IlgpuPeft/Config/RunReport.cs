using System.Globalization;
using IlgpuPeft.Kernels;
using IlgpuPeft.Metrics;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>The <c>report.html</c> of a run.</summary>
static class RunReport
{
    /// <param name="run">The run.</param>
    /// <param name="result">What became of it.</param>
    /// <param name="plots">What the method measures: headings, units and the measures in each, drawn with their <c>eval_</c> twins where the run has them.</param>
    public static void Write(TrainingRun run, TrainingResult result, IReadOnlyList<(string Heading, string Unit, string[] Measures)> plots)
    {
        var rows = MetricsFile.Read(run.Folder.MetricsPath);
        var validation = MetricsFile.Series(rows, "eval_loss", "validation");
        double? before = result.Initial?.Loss, after = result.Final?.Loss ?? (validation.Points.Count > 0 ? validation.Points[^1].Y : null);
        validation = validation with { Points = [.. before is { } start ? [(0.0, start)] : Array.Empty<(double, double)>(), .. validation.Points] };
        var (model, memory) = (run.Model, run.Model.Backend.Memory);
        var report = new Report($"{run.Title} of {Path.GetFileName(run.Config.BaseModel.TrimEnd('/', '\\'))}");
        report.AddFacts("Result",
        [
            ("steps", $"{result.Steps:N0} of {run.Trainer.TotalSteps:N0}{(result.StopReason is { } reason ? $": {reason}" : "")}"),
            ("training loss", rows.Count == 0 ? "no step" : $"{rows[0]["loss"]:0.0000} in the first step, {rows[^1]["loss"]:0.0000} in the last"),
            ("validation loss", Change(before, after)),
            .. plots.SelectMany(plot => plot.Measures).SelectMany(measure => new[] { measure, "eval_" + measure }).Where(measure => rows.Any(row => row.ContainsKey(measure)))
                .Select(measure => (measure, FirstAndLast(rows, measure))),
            ("tokens", $"{rows.Sum(row => row["tokens"]):N0} read, {rows.Sum(row => row["trained_tokens"]):N0} trained on"),
        ]);
        foreach (var (heading, unit, measures) in plots)
        {
            List<Series> series = [.. measures.SelectMany(measure => new[] { measure, "eval_" + measure }).Select(measure => MetricsFile.Series(rows, measure, measure)).Where(series => series.Points.Count > 0)];
            if (series.Count > 0)
            {
                report.AddPlot(Plot.Svg(heading, "step", unit, series));
            }
        }

        report.AddPlot(Plot.Svg("Loss", "step", run is SftRun ? "nats per token" : "loss", [MetricsFile.Series(rows, "loss", "training"), validation]));
        report.AddPlot(Plot.Svg("Gradient norm before clipping", "step", "norm", [MetricsFile.Series(rows, "grad_norm", "gradient norm")]));
        report.AddPlot(Plot.Svg("Learning rate", "step", "learning rate", [MetricsFile.Series(rows, "learning_rate", "learning rate")]));
        report.AddPlot(Plot.Svg("Speed", "step", "tokens per second", [MetricsFile.Series(rows, "tokens_per_second", "tokens per second")]));
        report.AddFacts("Model",
        [
            ("folder", run.Config.BaseModel),
            ("architecture", $"{model.Config.ModelType}, {model.Config.Layers} layers, width {model.Config.Hidden}, vocabulary {model.Config.Vocabulary}"),
            ("weights", $"{model.ParameterCount:N0}, linear layers {(run.Config.LoadIn4Bit ? "in NF4" : "as stored")}"),
            ("trained", $"{run.Weights.Parameters.Count:N0} ({(double)run.Weights.Parameters.Count / model.ParameterCount:0.00 %})"),
            ("device", model.Backend.Name),
        ]);
        report.AddFacts("Data", [.. run.Rows.Reports.Concat(run.Rows.ValidationReports).Select(data => (Path.GetFileName(data.Path), data.ToString())),
            ("examples", $"{run.Rows.Train:N0} trained on, {run.Rows.Validation:N0} set aside for validation")]);
        report.AddFacts("Device memory", [.. memory.ByOwner.Where(pair => pair.Value > 0).OrderByDescending(pair => pair.Value)
            .Select(pair => (pair.Key, MemoryAccount.Format(pair.Value))), ("at most, together", MemoryAccount.Format(memory.Peak))]);
        report.AddText("Configuration", ConfigWriter.ToYaml(run.Config));
        report.Write(run.Folder.ReportPath);
    }

    static string FirstAndLast(IReadOnlyList<IReadOnlyDictionary<string, double>> rows, string measure)
    {
        double[] values = [.. rows.Where(row => row.ContainsKey(measure)).Select(row => row[measure])];
        return $"{Text(values[0])} at first, {Text(values[^1])} at last";
    }

    static string Change(double? before, double? after) => (before, after) switch
    {
        (_, null) => "not measured",
        (null, { } last) => $"{Text(last)} at the end (the run was resumed, and the loss before it is not in its files)",
        ({ } first, { } last) => $"{Text(first)} before, {Text(last)} after ({(last - first) / first:+0.0 %;-0.0 %})",
    };

    static string Text(double value) => value.ToString("0.0000", CultureInfo.InvariantCulture);
}
