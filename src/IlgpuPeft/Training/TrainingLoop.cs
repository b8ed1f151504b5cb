using System.Diagnostics;
using IlgpuPeft.Data;
using IlgpuPeft.Optim;

namespace IlgpuPeft.Training;

public abstract partial class Trainer
{
    /// <summary>The steps of one run. On a GPU the numbers of a step are read, and reported, while the device works on the next one.</summary>
    /// <param name="trainer">Whose run it is.</param>
    /// <param name="done">Steps taken before, all of them in <see cref="LastCheckpoint"/> if there are any.</param>
    /// <param name="position">Where in the data they ended.</param>
    /// <param name="progress">Hears of every step.</param>
    sealed class Loop(Trainer trainer, int done, DataPosition position, IProgress<StepMetrics>? progress)
    {
        const string Advice = "Something overflowed: lower learning_rate, or look for a reward, a row or a weight of the base model that is out of proportion.";

        readonly TrainingOptions options = trainer.options;
        readonly RunFolder? folder = trainer.folder;
        readonly Schedule schedule = trainer.options.ToSchedule(trainer.TotalSteps);
        readonly int saveEvery = trainer.Every(trainer.options.SaveEvery, trainer.options.SavesPerEpoch);
        readonly int evaluateEvery = trainer.Every(trainer.options.EvaluateEvery, trainer.options.EvaluationsPerEpoch);
        int savedStep = done > 0 ? done : -1; // of the last checkpoint
        int alarms; // steps in a row whose loss was too high
        PendingStep? pending; // queued, not yet reported
        StepMetrics? last;
        string? stopReason;
        long mark = Stopwatch.GetTimestamp();

        /// <summary>Takes all steps that are left, and saves what was trained.</summary>
        public TrainingResult Run(Evaluation? initial, CancellationToken cancel)
        {
            var latest = initial;
            while (done < trainer.TotalSteps && stopReason is null)
            {
                var queued = Queue();
                Flush(); // the device has the next step to work on while these numbers are read
                pending = queued;
                done++;
                bool finished = done == trainer.TotalSteps || stopReason is not null, evaluates = finished || (evaluateEvery > 0 && done % evaluateEvery == 0);
                bool saves = saveEvery > 0 && (finished || done % saveEvery == 0);
                if (evaluates)
                {
                    latest = Evaluate() ?? latest;
                }
                else if (saves || done == 1 || pending.HasArrived)
                {
                    Flush();
                }

                bool alarmed = alarms > 0 && alarms >= options.LossWatchdogPatience;
                bool cancelled = !finished && cancel.IsCancellationRequested; // read once: what is decided here is also what is saved
                string alarm = alarmed ? $"Trainer: the loss was above {options.LossWatchdogThreshold} for {alarms} steps in a row, {last!.Loss:0.###} at step {last.Step}." : "";
                if (cancelled || saves)
                {
                    Flush();
                    Save(trainer.State);
                }

                if (alarmed)
                {
                    Flush();
                    throw new InvalidOperationException($"{alarm} {Keep($"The weights after step {done}", trainer.State)} Lower learning_rate, or check the data.");
                }

                if (cancelled)
                {
                    throw new OperationCanceledException($"Trainer: cancelled after step {done} of {trainer.TotalSteps}.", cancel);
                }

                mark = pending is null ? Stopwatch.GetTimestamp() : mark; // evaluations and checkpoints are no part of the next step's time
            }

            if (folder is not null)
            {
                trainer.parts.ForEach(part => part.Weights.Save(Path.Combine(folder.Root, part.Folder)));
            }

            return new TrainingResult(done, last, initial, latest ?? trainer.Evaluate(CancellationToken.None)) { StopReason = stopReason };
        }

        PendingStep Queue()
        {
            var (items, next) = trainer.order!.Take(position, options.ItemsPerStep);
            double rate = schedule.At(done);
            var before = trainer.State;
            int updates = Updates();
            StepOutcome outcome;
            try
            {
                outcome = trainer.Step(done, items, rate);
            }
            catch (RewardException) // rewards come before weights and state change, so what the steps before have learned can be kept
            {
                Flush();
                Save(trainer.State);
                throw;
            }
            catch (NotFiniteException cause)
            {
                Flush();
                throw new InvalidOperationException($"{cause.Message} {Keep(updates == Updates() ? "The weights before it" : "The weights, which it has changed in part,", before)} {Advice}", cause);
            }

            (position, stopReason) = (next, outcome.StopReason);
            var planned = new StepMetrics
            {
                Step = done + 1,
                TotalSteps = trainer.TotalSteps,
                Epoch = Math.Round(next.Epoch + (double)next.Index / trainer.order.Count, 4),
                Loss = outcome.Loss,
                GradientNorm = double.NaN, // until it is read
                LearningRate = rate,
                Tokens = outcome.Tokens,
                TrainedTokens = outcome.TrainedTokens,
                TokensPerSecond = double.NaN,
                Measures = outcome.Measures?.ToDictionary(pair => pair.Key, pair => (object)pair.Value),
            };
            return new PendingStep(planned, outcome.PendingLoss, trainer.Backend.ReadLater(trainer.parts[0].Optimizer.GradientNorm), trainer.Backend.Parameter);
        }

        /// <summary>Reports the step that is pending, if there is one.</summary>
        void Flush()
        {
            if (pending is { } step)
            {
                pending = null;
                Report(Finish(step));
            }
        }

        /// <summary>Evaluates, and reports the step that is pending with what came out.</summary>
        Evaluation? Evaluate()
        {
            var metrics = Finish(pending!);
            pending = null;
            Evaluation? evaluation;
            try
            {
                evaluation = trainer.Evaluate(CancellationToken.None);
            }
            catch (RewardException)
            {
                Report(metrics);
                Save(trainer.State);
                throw;
            }

            Report(evaluation is null ? metrics : metrics with { EvaluationLoss = evaluation.Loss, Measures = Together(metrics.Measures, evaluation.Measures) });
            return evaluation;
        }

        // A step's time is that since the numbers of the step before were there.
        StepMetrics Finish(PendingStep step)
        {
            try
            {
                var metrics = step.Finish(Stopwatch.GetElapsedTime(mark).TotalSeconds);
                mark = Stopwatch.GetTimestamp();
                return metrics;
            }
            catch (NotFiniteException cause)
            {
                throw new InvalidOperationException($"{cause.Message} It was read after the update that followed from it, so the weights before it are gone; {LastCheckpoint()}. {Advice}", cause);
            }
        }

        void Report(StepMetrics metrics)
        {
            last = metrics;
            folder?.Append(metrics);
            progress?.Report(metrics);
            alarms = options.LossWatchdogThreshold > 0 && metrics.Loss > options.LossWatchdogThreshold ? alarms + 1 : 0;
        }

        void Save(Dictionary<string, double> state, bool keepAll = false)
        {
            trainer.Save(done, position, state, keepAll);
            savedStep = done;
        }

        /// <summary>Saves what can be saved of a run that fails, and says where it is.</summary>
        string Keep(string weights, Dictionary<string, double> state)
        {
            if (!trainer.AreFinite())
            {
                return $"The weights are not finite any more; {LastCheckpoint()}.";
            }

            if (done == 0)
            {
                return "It is the first, so there is nothing to save.";
            }

            if (folder is null)
            {
                return $"{weights} are still in memory.";
            }

            if (savedStep != done)
            {
                Save(state, keepAll: true);
                return $"{weights} are saved in {trainer.LastCheckpoint}. A run with other settings can start from there: name it in lora_model_dir, or in base_model where every weight is trained.";
            }

            return $"{trainer.LastCheckpoint} has the weights after step {done}.";
        }

        string LastCheckpoint() => trainer.LastCheckpoint is { } saved ? $"the last checkpoint is {saved}" : "there is no checkpoint of this run, which save_steps would make";

        int Updates() => trainer.parts.Sum(part => part.Optimizer.Steps);

        static Dictionary<string, object>? Together(IDictionary<string, object>? measures, IReadOnlyDictionary<string, double>? evaluation)
        {
            var all = measures is null ? [] : new Dictionary<string, object>(measures);
            foreach (var (name, value) in evaluation ?? new Dictionary<string, double>())
            {
                all["eval_" + name] = value;
            }

            return all.Count > 0 ? all : null;
        }
    }
}
