using System.Diagnostics;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347) of language models (Ouyang et al. 2022, arXiv:2203.02155). A step of the run is one update: the policy answers a batch of
/// prompts, rewards judge the answers, and policy and value model learn from them in several epochs of mini-batches.
/// </summary>
/// <remarks>
/// All roles are one frozen base: policy and value model are adapters over it, the reference is the base itself or another adapter, and a reward model can be one more. Besides the base a
/// run needs the adapters, their moments, and the activations of one pass.
/// Policy and value model have an optimizer each, and each is clipped by the norm of its own gradients. TRL clips both by their joint norm, so that there a large value error makes the
/// policy's step smaller. The measured <c>grad_norm</c> is the policy's in the last mini-batch, <c>val/grad_norm</c> the value model's.
/// There is no padding, dropout is off in every pass, and the temperature divides the logits wherever a log-probability is taken. Responses are scored in the passes of the update's first
/// epoch, so that what it learns from first has a probability ratio of exactly 1, also where a device rounds by the shape of a pass.
/// </remarks>
public sealed class PpoTrainer : PolicyTrainer
{
    // Operation numbers of RandomKey: the seeds of an update's draws and of the order of its mini-batches.
    const uint RolloutDraw = 0x0990_0000, OrderDraw = 0x0990_0001;

    const int SamplesShown = 8;

    readonly PpoOptions options;
    readonly PpoRoles roles;
    readonly RolloutCollector collector;
    readonly PpoUpdate update;
    readonly TrainedPart policyPart, valuePart;
    readonly KlCoefficient klCoefficient;
    readonly SampleFile? sampleFile;
    long episodes;

    /// <summary>Prepares a run; nothing is trained or written yet.</summary>
    /// <param name="policy">What is trained to write, without a scalar head. Saved at the root of the run's folder.</param>
    /// <param name="value">What is trained to foresee rewards, with a scalar head, over the same model; see <see cref="ValueModel.Create"/>. Saved under <c>value</c>.</param>
    /// <param name="baseModel">What the saved adapters call their base model.</param>
    /// <param name="tokenizer">Gives rewards and samples their texts; null writes token ids.</param>
    /// <param name="prompts">What the policy is asked.</param>
    /// <param name="rewards">What it is paid for.</param>
    /// <param name="options">How.</param>
    /// <param name="reference">What it is held to, such as a supervised adapter over the same model; null for the base.</param>
    /// <exception cref="ArgumentException">
    /// An option is out of range, the adapters do not fit their roles, there are no prompts, one is empty, too long, of another model or lacks what a reward needs, no token ends a response,
    /// or two rewards have one name.
    /// </exception>
    public PpoTrainer(
        AdapterSet policy, AdapterSet value, string baseModel, Tokenizer? tokenizer, IReadOnlyList<Prompt> prompts, RewardSum rewards, PpoOptions options, AdapterSet? reference = null)
        : base(policy.Model, options, prompts, rewards)
    {
        this.options = options;
        CheckTask([], options.StopIds, options.ResponseLength, "response_length");
        roles = new PpoRoles(policy, value, reference, options);
        collector = new RolloutCollector(roles, tokenizer, rewards, options);
        update = new PpoUpdate(roles, options);
        klCoefficient = options.NewKlCoefficient();
        GoThrough(prompts.Count);
        policyPart = Train(TrainedWeights.Of(policy, baseModel));
        valuePart = Train(TrainedWeights.Of(value, baseModel), "value");
        sampleFile = Folder is null ? null : new SampleFile(Folder);
    }

    /// <summary>Hears of the samples that <see cref="PpoOptions.SampleEvery"/> asks for: the first 8 of an update's responses, on the training thread.</summary>
    public IProgress<IReadOnlyList<PolicySample>>? Samples { get; init; }

    /// <summary>The experience of the last update, or null before the first.</summary>
    public Rollout? LastRollout { get; private set; }

    private protected override string Settings => $"{options.Fingerprint}, reference {roles.ReferenceDescription}, {Task}";

    private protected override Dictionary<string, double> State
    {
        get => new(base.State) { [nameof(klCoefficient)] = klCoefficient.Value, [nameof(episodes)] = episodes };
        set => (base.State, klCoefficient.Value, episodes) = (value, value[nameof(klCoefficient)], (long)value[nameof(episodes)]);
    }

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        long mark = Stopwatch.GetTimestamp();
        var samples = collector.Draw([.. items.Select(item => Prompts[item])], SeedOf(step, RolloutDraw));
        double generating = Lap(ref mark);
        var rollout = LastRollout = collector.Score(samples, klCoefficient.Value, SeedOf(step, OrderDraw));
        double scoring = Lap(ref mark);
        roles.Policy.Enable(); // whoever hears of samples or of the step finds the policy in the model
        klCoefficient.Update(rollout.MeanKl, rollout.Count);
        episodes += rollout.Count;
        Show(step, rollout);

        var measures = new Dictionary<string, double>(rollout.Measures(), StringComparer.Ordinal) { ["lr"] = rate, ["episode"] = episodes };
        const int Scorers = 3, Learners = 2; // policy, reference and value model; policy and value model
        Time(measures, "generate", generating, rollout.ResponseTokens);
        Time(measures, "score", scoring, Scorers * (long)rollout.Tokens);
        long tokens = rollout.ResponseTokens + Scorers * (long)rollout.Tokens;
        if (options.MaxKl > 0 && rollout.MeanKl > options.MaxKl)
        {
            Backend.Fill(policyPart.Optimizer.GradientNorm, 0); // nothing is learned in this step
            return new StepOutcome(0, tokens, 0, measures) { StopReason = $"objective/kl is {rollout.MeanKl:0.###}, above max_kl {options.MaxKl}" };
        }

        Lap(ref mark);
        var result = update.Run(rollout, loss => TakeStep(step, loss, rate));
        measures["val/grad_norm"] = Backend.ReadDoubles(valuePart.Optimizer.GradientNorm)[0]; // waits for the device, so the time is all there
        long learned = Learners * (long)result.Epochs * rollout.Tokens;
        Time(measures, "update", Lap(ref mark), learned);
        measures["policy/epochs"] = result.Epochs;
        foreach (var (name, value) in PpoStatistics.Metrics(result.MiniBatches))
        {
            measures[name] = value;
        }

        roles.Policy.Enable();
        return new StepOutcome(result.Loss, tokens + learned, rollout.ResponseTokens, measures);
    }

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        collector.Dispose();
        roles.Dispose();
    }

    void TakeStep(int step, double loss, double rate)
    {
        PendingStep.Finite(loss, step + 1);
        Update(policyPart, rate);
        Update(valuePart, options.ValueLearningRate is { } peak ? (options with { LearningRate = peak }).ToSchedule(TotalSteps).At(step) : rate);
    }

    void Show(int step, Rollout rollout)
    {
        if (options.SampleEvery == 0 || step % options.SampleEvery != 0)
        {
            return;
        }

        PolicySample[] shown = [.. rollout.Samples.Take(SamplesShown).Select((sample, i) => new PolicySample(step + 1, sample.Prompt.Text, sample.Text, rollout.Scores[i], rollout.Kl[i].Sum()))];
        sampleFile?.Append(shown);
        Samples?.Report(shown);
    }
}
