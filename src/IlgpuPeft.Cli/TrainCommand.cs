using System.CommandLine;
using System.Diagnostics;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Kernels;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

static class TrainCommand
{
    const string NothingSaved = "stopped before the first step; nothing was saved";

    public static Command Create()
    {
        var file = new Argument<string>("CONFIG.yaml") { Description = "What to run, in Axolotl's keys." };
        var set = new Option<string[]>("--set") { Description = "Replaces a value of the file; may be repeated.", HelpName = "key=value" };
        var dryRun = new Option<bool>("--dry-run") { Description = "Read model and data, show the plan, and stop." };
        var resume = new Option<bool>("--resume") { Description = "Go on from the latest checkpoint in output_dir." };
        var device = new Option<string?>("--device") { Description = "Replaces device.", HelpName = "NAME" };
        var dtype = new Option<string?>("--dtype") { Description = "Replaces dtype.", HelpName = "f32|bf16" };
        var json = Arguments.Json();
        var command = new Command("train", "Run the training that a configuration describes.") { file, set, dryRun, resume, device, dtype, json };
        command.SetAction(async (parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            List<string> overrides = [.. parse.GetValue(set) ?? []];
            overrides.AddRange(parse.GetValue(device) is { } name ? [$"device={name}"] : []);
            overrides.AddRange(parse.GetValue(dtype) is { } type ? [$"dtype={type}"] : []);
            var (config, notes) = ConfigReader.Read(parse.GetRequiredValue(file), overrides);
            notes.ToList().ForEach(screen.Warn);
            var folder = new RunFolder(config.OutputDir);
            string? from = Checkpoint(config, parse.GetValue(resume), folder);
            if (parse.GetValue(dryRun))
            {
                using var planned = TrainingRun.Open(config, screen.Warn, cancel);
                ShowPlan(planned, screen);
                if (from is not null)
                {
                    planned.Trainer.RequireResumable(from);
                }

                screen.Out.Write(parse.GetValue(json) ? Json.Line(Plan(planned)) + Environment.NewLine : "");
                return;
            }

            screen.Say(from is null ? $"output_dir: {config.OutputDir}" : $"resuming from {from}");
            if (from is null && folder.LatestCheckpoint() is { } latest)
            {
                screen.Warn($"starting anew, although {latest} is there from an earlier run. Remove it or choose another output_dir, else a later --resume may take it.");
            }

            AtomicFile.RequireWritable(config.OutputDir);
            using var run = Open(config, screen, cancel);
            ShowPlan(run, screen);
            await TrainAsync(run, from, screen, parse.GetValue(json), cancel);
        });
        return command;
    }

    static TrainingRun Open(RunConfig config, Screen screen, CancellationToken cancel)
    {
        try
        {
            return TrainingRun.Open(config, screen.Warn, cancel);
        }
        catch (OperationCanceledException)
        {
            screen.Say(NothingSaved);
            throw;
        }
    }

    static async Task TrainAsync(TrainingRun run, string? from, Screen screen, bool json, CancellationToken cancel)
    {
        long started = Stopwatch.GetTimestamp();
        TrainingResult result;
        try
        {
            result = await screen.FollowAsync(run, from, cancel);
        }
        catch (OperationCanceledException)
        {
            screen.Say(run.Trainer.LastCheckpoint is { } saved ? $"stopped; {saved} is complete, and {GoOn(run, saved)} from it" : NothingSaved);
            throw;
        }
        catch (RewardException) when (run.Trainer.LastCheckpoint is { } saved)
        {
            screen.Say($"stopped; {saved} holds the steps before, and {GoOn(run, saved)} from it once the reward is mended");
            throw;
        }

        string validation = result is { Initial.Loss: var before, Final.Loss: var after } ? $", eval_loss {before:0.0000} -> {after:0.0000}"
            : result.Final?.Loss is { } only ? $", eval_loss {only:0.0000}" : "";
        string loss = result.Last is { } last ? $"loss {last.Loss:0.0000}{validation}{Screen.Measures(last, run.Headline)}" : "none of them now: the run was complete";
        screen.Say($"done: {result.Steps} steps in {Screen.Duration(Stopwatch.GetElapsedTime(started))}, {loss}, " +
            $"memory at most {MemoryAccount.Format(run.Model.Backend.Memory.Peak + run.Model.Backend.ScratchBytes)}");
        screen.Say($"memory: {run.Model.Backend.Memory} held at the end");
        if (result.StopReason is { } reason)
        {
            screen.Say($"ended: {reason}");
        }

        screen.Say($"written to {run.Config.OutputDir}: {(run.Adapter is null ? "model" : "adapter")}, metrics.jsonl, config.yaml, report.html");
        if (json)
        {
            screen.Out.WriteLine(Json.Line(new
            {
                result.Steps,
                result.Last?.Loss,
                EvalLossBefore = result.Initial?.Loss,
                EvalLoss = result.Final?.Loss,
                result.Last?.Measures,
                result.StopReason,
                run.Config.OutputDir,
                MemoryBytes = run.Model.Backend.Memory.ByOwner,
                PeakBytes = run.Model.Backend.Memory.Peak + run.Model.Backend.ScratchBytes,
            }));
        }
    }

    static string GoOn(TrainingRun run, string checkpoint) =>
        run.Config.ResumeFromCheckpoint is null ? "train --resume goes on" : $"train with resume_from_checkpoint={checkpoint} goes on";

    static string? Checkpoint(RunConfig config, bool resume, RunFolder folder)
    {
        if ((config.ResumeFromCheckpoint ?? (resume ? folder.LatestCheckpoint() : null)) is { } from)
        {
            ResumeState.Load(from); // is there: found out before the model is read
            return from;
        }

        return resume ? throw new ArgumentException($"--resume: there is no checkpoint in {config.OutputDir}. Run without --resume to start anew.") : null;
    }

    static object Plan(TrainingRun run) => new
    {
        Model = run.Config.BaseModel,
        run.Model.Config.ModelType,
        Parameters = run.Model.ParameterCount,
        Trainable = run.Weights.Parameters.Count,
        Steps = run.Trainer.TotalSteps,
        run.Trainer.ItemsPerEpoch,
        TokensPerEpoch = run.Rows.Tokens,
        TrainedTokensPerEpoch = run.Rows.TrainedTokens,
        run.Rows.Train,
        run.Rows.Validation,
        Datasets = run.Rows.Reports,
        TestDatasets = run.Rows.ValidationReports,
        MemoryBytes = run.Model.Backend.Memory.ByOwner,
    };

    static void ShowPlan(TrainingRun run, Screen screen)
    {
        var (config, model) = (run.Config, run.Model);
        long trainable = run.Weights.Parameters.Count;
        var rows = run.Rows;
        foreach (var report in rows.Reports.Concat(rows.ValidationReports))
        {
            screen.Say($"data: {report}");
        }

        string items = run is SftRun ? (config.SamplePacking ? "bins" : "rows") : rows.Reports[0].Unit;
        string method = config.Adapter is null ? "every weight" : $"{config.Adapter}, rank {run.Adapter!.Config.Rank}, {run.Adapter.Updates.Count()} layers";
        screen.Say($"method: {run.Title}");
        screen.Say($"model: {config.BaseModel}: {model.Config.ModelType}, {model.ParameterCount:N0} weights{(config.LoadIn4Bit ? " in NF4" : "")} on {model.Backend.Name}");
        screen.Say($"trains: {method}: {trainable:N0} weights, {(double)trainable / model.ParameterCount:0.00 %}");
        screen.Say($"plan: {run.Trainer.TotalSteps:N0} steps of {config.MicroBatchSize} x {config.GradientAccumulationSteps} {items}; " +
            $"an epoch has {run.Trainer.ItemsPerEpoch:N0} {items}, {rows.Tokens:N0} tokens; {rows.Validation:N0} to validate on");
        screen.Say($"memory: {model.Backend.Memory} before activations");
        if (config.SpecialTokens.EosToken is { } eos && run.Tokenizer?.TokenId(eos) is { } id && !model.Config.EosIds.Contains(id))
        {
            screen.Warn($"rows end with {eos}, which eos_token_id in the model's config.json does not name: generation stops there only after {id} is added to it.");
        }

        if (rows.Longest > model.Config.MaxPositions)
        {
            screen.Warn($"the longest row has {rows.Longest} tokens; the model was made for {model.Config.MaxPositions}.");
        }
    }
}
