using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;

namespace IlgpuPeft.Training;

/// <summary>
/// The files of one run: <c>metrics.jsonl</c>, and <c>checkpoint-N</c> folders that a run can continue from. A checkpoint is written under another name and
/// renamed when it is whole, so a folder called checkpoint-N is always complete.
/// </summary>
/// <param name="path">The run's <c>output_dir</c>, created when first written to.</param>
/// <param name="keep">How many checkpoints are kept; 0 for all.</param>
public sealed class RunFolder(string path, int keep = 0)
{
    const string Prefix = "checkpoint-";
    const string Partial = ".partial";
    const string Discarded = ".discarded";
    const string MomentsName = "optimizer.safetensors";

    int runNumber; // 0 before its first checkpoint

    /// <summary>The <c>output_dir</c>.</summary>
    public string Root => path;

    /// <summary>The metrics file.</summary>
    public string MetricsPath => Path.Combine(path, "metrics.jsonl");

    /// <summary>What a policy wrote while it was trained, where that is asked for.</summary>
    public string SamplesPath => Path.Combine(path, "samples.jsonl");

    /// <summary>The page that a finished run leaves.</summary>
    public string ReportPath => Path.Combine(path, "report.html");

    /// <summary>The checkpoint that was written last, or null. What is stored in checkpoints tells, not the times of files, which copying changes.</summary>
    public string? LatestCheckpoint() => Checkpoints().LastOrDefault().Folder;

    /// <summary>
    /// Starts metrics and samples anew and removes the report of an earlier run, or keeps the first rows when a run continues. Weights and checkpoints of an earlier run stay until this
    /// one replaces them.
    /// </summary>
    /// <param name="stepsDone">Steps that the run continues after; later rows are cut off.</param>
    public void Start(int stepsDone)
    {
        StartRows(MetricsPath, stepsDone);
        if (stepsDone == 0)
        {
            File.Delete(SamplesPath);
            File.Delete(ReportPath);
        }
        else if (File.Exists(SamplesPath))
        {
            StartRows(SamplesPath, stepsDone);
        }
    }

    void StartRows(string file, int stepsDone)
    {
        Directory.CreateDirectory(path);
        List<string> kept = [];
        if (stepsDone > 0 && File.Exists(file))
        {
            kept.AddRange(File.ReadLines(file).TakeWhile(line => StepOf(line) is { } step && step <= stepsDone));
        }

        AtomicFile.WriteText(file, string.Concat(kept.Select(line => line + "\n")));
    }

    /// <summary>Appends one row to the metrics.</summary>
    public void Append<TRow>(TRow row) => File.AppendAllText(MetricsPath, JsonSerializer.Serialize(row) + "\n");

    /// <summary>Writes a checkpoint and removes the oldest beyond the limit, those of an earlier run in the same folder first.</summary>
    /// <param name="state">Where the run stands.</param>
    /// <param name="parts">What it trains.</param>
    /// <param name="backend">Where that lives.</param>
    /// <param name="keepAll">Removes none: of a run that went wrong, an older checkpoint may be the better one.</param>
    /// <returns>The checkpoint's folder.</returns>
    internal string SaveCheckpoint(ResumeState state, IReadOnlyList<TrainedPart> parts, Backend backend, bool keepAll = false)
    {
        runNumber = runNumber > 0 ? runNumber : 1 + Checkpoints().Select(checkpoint => checkpoint.RunNumber).DefaultIfEmpty().Max();
        string folder = Path.Combine(path, Prefix + state.Step);
        string partial = folder + Partial;
        Remove(partial); // of a run that was stopped while writing
        Directory.CreateDirectory(partial);
        try
        {
            foreach (var part in parts)
            {
                string home = Path.Combine(partial, part.Folder);
                part.Weights.Save(home);
                SafetensorsWriter.Write(Path.Combine(home, MomentsName),
                    [.. part.Optimizer.State.Select(x => TensorSource.OfDevice(backend, new TensorInfo(x.Name, x.Values.Type, x.Values.Length), x.Values))]);
            }

            (state with { RunNumber = runNumber }).Save(partial);
            Discard(folder);
            Directory.Move(partial, folder);
        }
        catch
        {
            Remove(partial);
            throw;
        }

        Remove(folder + Discarded);
        if (keep > 0 && !keepAll)
        {
            foreach (var (_, _, old) in Checkpoints().SkipLast(keep))
            {
                Discard(old);
                Remove(old + Discarded);
            }
        }

        return folder;
    }

    /// <summary>Reads a checkpoint into weights and optimizers, bit for bit.</summary>
    /// <param name="folder">A <c>checkpoint-N</c> folder.</param>
    /// <param name="fingerprint">Of the run that wants to continue.</param>
    /// <param name="parts">Receive the trained values, their moments and step counts.</param>
    /// <param name="backend">Where all of it lives.</param>
    /// <exception cref="CheckpointException">The checkpoint is damaged, or of a run with other settings or data.</exception>
    internal static ResumeState LoadCheckpoint(string folder, string fingerprint, IReadOnlyList<TrainedPart> parts, Backend backend)
    {
        var state = LoadState(folder, fingerprint);
        if (state.OptimizerSteps.Length != parts.Count)
        {
            throw new CheckpointException(Path.Combine(folder, ResumeState.FileName), null, $"is of {state.OptimizerSteps.Length} optimizers, expected {parts.Count}. It was written by another method.");
        }

        foreach (var (part, steps) in parts.Zip(state.OptimizerSteps))
        {
            string home = Path.Combine(folder, part.Folder);
            using var moments = Safetensors.Open(Path.Combine(home, MomentsName));
            foreach (var (name, values) in part.Optimizer.State)
            {
                Restore(moments, name, values);
            }

            part.Weights.Restore(home);
            part.Optimizer.Steps = steps;
        }

        return state;

        void Restore(Safetensors moments, string name, Slice values)
        {
            var info = moments.Find(name);
            if (info is null || info.Type != values.Type || info.Count != values.Length)
            {
                throw new CheckpointException(moments.Path, name, $"is {(info is null ? "missing" : $"{info.TypeName} {info.ShapeText}")}, expected {values.Type} [{values.Length}]. The adapter's layers or rank have changed.");
            }

            moments.Upload(name, backend, values);
        }
    }

    /// <summary>Where the run of a checkpoint stood, if it is of the run that wants to continue.</summary>
    /// <exception cref="CheckpointException">The state is damaged, or of a run with other settings or data.</exception>
    internal static ResumeState LoadState(string folder, string fingerprint)
    {
        var state = ResumeState.Load(folder);
        return state.Fingerprint == fingerprint ? state : throw new CheckpointException(Path.Combine(folder, ResumeState.FileName), null,
            $"belongs to a run with other settings or data: {Fingerprint.Difference(state.Fingerprint, fingerprint)}. Restore them, or start anew without resuming.");
    }

    // In the order in which they were written. One whose state cannot be read comes first: nothing can go on from it.
    List<(int RunNumber, int Step, string Folder)> Checkpoints() => !Directory.Exists(path) ? [] :
        [.. Directory.GetDirectories(path, Prefix + "*")
            .Select(folder => (Step: int.TryParse(Path.GetFileName(folder)[Prefix.Length..], out int step) ? step : -1, folder))
            .Where(x => x.Step >= 0)
            .Select(x => (RunNumber: RunNumberOf(x.folder), x.Step, x.folder))
            .Order()];

    static int RunNumberOf(string folder)
    {
        try
        {
            return ResumeState.Load(folder).RunNumber;
        }
        catch (CheckpointException)
        {
            return -1;
        }
    }

    // Deleting a folder takes many steps, and a run can be killed between them: a checkpoint first loses its name, in one step.
    static void Discard(string folder)
    {
        Remove(folder + Discarded);
        if (Directory.Exists(folder))
        {
            Directory.Move(folder, folder + Discarded);
        }
    }

    static void Remove(string folder)
    {
        if (Directory.Exists(folder))
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    static int? StepOf(string line)
    {
        try
        {
            using var row = JsonDocument.Parse(line);
            return row.RootElement.GetProperty("step").GetInt32();
        }
        catch (Exception cause) when (cause is JsonException or KeyNotFoundException or InvalidOperationException)
        {
            return null; // the last line of a run that was killed in mid-write
        }
    }
}

/// <summary>Weights that a run trains, and the optimizer that does.</summary>
/// <param name="Folder">Where it lies in the run's folder and in its checkpoints: empty for the root, <c>value</c> for PPO's value model.</param>
/// <param name="Weights">The weights.</param>
/// <param name="Optimizer">Theirs.</param>
sealed record TrainedPart(string Folder, TrainedWeights Weights, AdamWOptimizer Optimizer);
