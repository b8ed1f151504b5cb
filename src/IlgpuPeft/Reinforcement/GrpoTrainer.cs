using System.Diagnostics;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// Group relative policy optimization (Shao et al. 2024, arXiv:2402.03300) and what became of it; see <see cref="Losses.GroupLoss"/>. A step of the run asks the policy a batch of prompts several
/// times each, and reinforces the answers that earn more than the others to the same prompt. There is no value model.
/// </summary>
/// <remarks>
/// Policy and reference are one frozen base: the policy is an adapter over it, the reference the base itself or another adapter. There is no padding, dropout is off in every pass, and the
/// temperature divides the logits wherever a log-probability is taken.
/// A step in which every group agrees, so that nothing can be learnt, leaves weights and moments as they are. TRL lets the moments decay and move the weights.
/// </remarks>
public sealed class GrpoTrainer : PolicyTrainer
{
    // Operation numbers of RandomKey: the seeds of a step's completions and of those that are evaluated.
    const uint CompletionDraw = 0x0970_0000, EvaluationDraw = 0x0970_0001;

    readonly GrpoOptions options;
    readonly IReadOnlyList<Prompt> validation;
    readonly AdapterSet policy;
    readonly string referenceDescription;
    readonly Completions completions;
    readonly GroupUpdate update;
    readonly TrainedPart part;
    readonly SampleFile? sampleFile;

    /// <summary>Prepares a run; nothing is trained or written yet.</summary>
    /// <param name="policy">What is trained, without a scalar head.</param>
    /// <param name="baseModel">What the saved adapter calls its base model.</param>
    /// <param name="tokenizer">Gives rewards and samples their texts; null writes token ids.</param>
    /// <param name="prompts">What the policy is asked.</param>
    /// <param name="rewards">What it is paid for.</param>
    /// <param name="options">How.</param>
    /// <param name="reference">What it is held to where <see cref="GrpoOptions.Beta"/> is not 0, such as a supervised adapter over the same model; null for the base.</param>
    /// <param name="validation">Prompts to evaluate on, or none.</param>
    /// <exception cref="ArgumentException">
    /// An option is out of range, an adapter does not fit its role, there are no prompts, one is empty, too long, of another model or lacks what a reward needs, no token ends a completion,
    /// or two rewards have one name.
    /// </exception>
    public GrpoTrainer(
        AdapterSet policy, string baseModel, Tokenizer? tokenizer, IReadOnlyList<Prompt> prompts, RewardSum rewards, GrpoOptions options, AdapterSet? reference = null,
        IReadOnlyList<Prompt>? validation = null)
        : base(policy.Model, options, prompts, rewards)
    {
        (this.options, this.policy, this.validation) = (options, policy, validation ?? []);
        AdapterRoles.Check(nameof(GrpoTrainer), policy, reference);
        referenceDescription = options.Beta == 0 ? "none" : AdapterRoles.Describe(reference);
        CheckTask(this.validation, options.StopIds, options.MaxCompletionLength, "max_completion_length");
        GoThrough(prompts.Count);
        part = Train(TrainedWeights.Of(policy, baseModel));
        completions = new Completions(Model, tokenizer, options.MaxSequences);
        update = new GroupUpdate(policy, reference, options);
        sampleFile = Folder is null ? null : new SampleFile(Folder);
    }

    /// <summary>Hears of the samples that <see cref="GrpoOptions.SampleEvery"/> asks for: the first group of a step, on the training thread.</summary>
    public IProgress<IReadOnlyList<GroupSample>>? Samples { get; init; }

    /// <summary>The completions of the last step, or null before the first.</summary>
    public CompletionGroups? LastGroups { get; private set; }

    private protected override string Settings => $"{options.Fingerprint}, reference {referenceDescription}, {Task}";

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        long mark = Stopwatch.GetTimestamp();
        policy.Enable();
        var samples = completions.Draw([.. items.SelectMany(item => Enumerable.Repeat(Prompts[item], options.NumGenerations))], new GenerationOptions
        {
            MaxTokens = options.MaxCompletionLength, Temperature = options.Temperature, TopP = options.TopP, TopK = options.TopK, StopIds = options.StopIds, Seed = SeedOf(step, CompletionDraw),
        });
        double generating = Lap(ref mark);
        var groups = LastGroups = CompletionGroups.Judge(samples, Rewards, options);
        Show(step, groups);
        long tokens = groups.Sequences.Sum(sequence => (long)sequence.Length), learntFrom = groups.Learnt.Sum(s => (long)groups.Sequences[s].Length);
        var measures = new Dictionary<string, double>(groups.Measures, StringComparer.Ordinal);
        Time(measures, "generate", generating, groups.Tokens);
        Time(measures, "reward", Lap(ref mark), tokens);
        double[][]? referenceLogProbs = update.ReferenceLogProbs(groups), old = null;
        if (referenceLogProbs is not null)
        {
            Time(measures, "score", Lap(ref mark), learntFrom);
        }

        double loss = 0;
        for (int iteration = 0; iteration < options.NumIterations; iteration++)
        {
            policy.Parameters.ZeroGradients();
            var gradient = update.Differentiate(groups, old, referenceLogProbs);
            PendingStep.Finite(gradient.Loss, step + 1); // before the weights change
            TakeStep(gradient.Learns, rate);
            old ??= gradient.LogProbs; // the policy that drew the completions is the one before the first update
            loss += gradient.Loss / options.NumIterations;
            foreach (var (name, value) in gradient.Metrics)
            {
                measures[name] = measures.GetValueOrDefault(name) + value / options.NumIterations;
            }
        }

        Backend.Synchronize(); // the next step draws with these weights, so nothing is lost by waiting, and the time is all there
        Time(measures, "update", Lap(ref mark), options.NumIterations * learntFrom);
        return new StepOutcome(loss, tokens, groups.Learnt.Sum(s => (long)samples[s].Response.Length), measures);
    }

    /// <summary>The mean reward of completions of the validation prompts; the loss is minus that.</summary>
    private protected override Evaluation? Evaluate(CancellationToken cancel)
    {
        if (validation.Count == 0)
        {
            return null;
        }

        policy.Enable();
        var samples = completions.Draw(validation, new GenerationOptions
        {
            MaxTokens = options.MaxCompletionLength, Temperature = options.EvaluationTemperature, StopIds = options.StopIds, Seed = SeedOf(0, EvaluationDraw),
        }, cancel);
        var (sums, each) = Rewards.Judge(samples);
        double reward = sums.Average(judgement => judgement.Total);
        return new Evaluation(-reward, new Dictionary<string, double>([new("reward", reward), .. CompletionGroups.OfEach(Rewards, each), .. Completions.Measures(samples)], StringComparer.Ordinal));
    }

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        completions.Dispose();
        update.Dispose();
    }

    void TakeStep(bool learns, double rate)
    {
        if (learns)
        {
            Update(part, rate);
        }
        else
        {
            Backend.Fill(part.Optimizer.GradientNorm, 0);
        }
    }

    void Show(int step, CompletionGroups groups)
    {
        if (options.SampleEvery == 0 || step % options.SampleEvery != 0)
        {
            return;
        }

        GroupSample[] shown = [.. groups.Samples.Take(options.NumGenerations).Select((sample, i) => new GroupSample(step + 1, sample.Prompt.Text, sample.Text, groups.Rewards[i], groups.Advantages[i]))];
        sampleFile?.Append(shown);
        Samples?.Report(shown);
    }
}
