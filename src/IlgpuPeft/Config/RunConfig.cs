using IlgpuPeft.Data;
using IlgpuPeft.Reinforcement;

namespace IlgpuPeft.Config;

/// <summary>
/// Everything a training run is told, read from YAML by <see cref="ConfigReader"/>. Each property is the Axolotl key of the same name in snake_case
/// (<c>MicroBatchSize</c> is <c>micro_batch_size</c>) with Axolotl's meaning and default, unless its line says otherwise.
/// Keys of ours alone are <c>device</c>, <c>dtype</c>, <c>reference_model_dir</c>, <c>rewards</c> and <c>ppo</c>. Paths are absolute once read.
/// </summary>
public sealed record RunConfig
{
    /// <summary>AdamW with 32-bit state.</summary>
    public const string AdamW = "adamw_torch";

    /// <summary>AdamW with 8-bit state.</summary>
    public const string AdamW8Bit = "adamw_bnb_8bit";

    /// <summary>Folder of the model, in Hugging Face layout. Required.</summary>
    public string BaseModel { get; init; } = "";

    /// <summary><c>lora</c>, <c>qlora</c> (LoRA over 4-bit weights), or null to train every weight. Default null.</summary>
    public string? Adapter { get; init; }

    /// <summary>Keep the base model's linear weights as NF4. Default false; <c>adapter: qlora</c> sets it.</summary>
    public bool LoadIn4Bit { get; init; }

    /// <summary>How weights are quantised to 4 bits (<c>bnb_config_kwargs</c>).</summary>
    public QuantizationConfig BnbConfigKwargs { get; init; } = new();

    /// <summary>Rank of the adapter. Default 8, as PEFT.</summary>
    public int LoraR { get; init; } = 8;

    /// <summary>The adapter's output is scaled by alpha / r. Default 8, as PEFT.</summary>
    public double LoraAlpha { get; init; } = 8;

    /// <summary>Probability of dropping an input of the adapter while training. Default 0.</summary>
    public double LoraDropout { get; init; }

    /// <summary>Adapt every linear layer but the output head. Default false.</summary>
    public bool LoraTargetLinear { get; init; }

    /// <summary>Last parts of the names of the linear layers to adapt, such as <c>q_proj</c>. Default empty.</summary>
    public IReadOnlyList<string> LoraTargetModules { get; init; } = [];

    /// <summary>Folder of an adapter to go on training. Default null: a new one.</summary>
    public string? LoraModelDir { get; init; }

    /// <summary>Scale by alpha / √r instead (Kalajdzievski 2023, arXiv:2312.03732). Default false.</summary>
    public bool PeftUseRslora { get; init; }

    /// <summary>
    /// The method: <c>dpo</c>, <c>ipo</c>, <c>orpo</c>, <c>kto</c>, <c>grpo</c>, or <c>ppo</c>, which Axolotl does not have. Default null: supervised training, or a reward model where
    /// <see cref="RewardModel"/> says so.
    /// </summary>
    public string? Rl { get; init; }

    /// <summary>Train a reward model on preference pairs. Default false.</summary>
    public bool RewardModel { get; init; }

    /// <summary>Weight of a reward model's term that centres rewards on 0. Default null: none; TRL advises 0.01.</summary>
    public double? CenterRewardsCoefficient { get; init; }

    /// <summary>
    /// Folder of the adapter that policy and preference methods measure divergence from. Default null: the adapter of <see cref="LoraModelDir"/>, from which training starts, or the base model
    /// without one.
    /// </summary>
    public string? ReferenceModelDir { get; init; }

    /// <summary>β of dpo, ipo, kto and orpo. Default 0.1, as TRL.</summary>
    public double RlBeta { get; init; } = 0.1;

    /// <summary>Which loss <c>rl: dpo</c> has: <c>sigmoid</c>, <c>hinge</c> or <c>ipo</c>. Default sigmoid.</summary>
    public string DpoLossType { get; init; } = "sigmoid";

    /// <summary>Probability that a preference is the wrong way round (<c>rl: dpo</c>). Default 0.</summary>
    public double DpoLabelSmoothing { get; init; }

    /// <summary>Count the reference's log-probabilities as 0 (<c>rl: dpo</c>). Default false.</summary>
    public bool DpoReferenceFree { get; init; }

    /// <summary>Weight of responses that were liked (<c>rl: kto</c>). Default 1, as TRL.</summary>
    public double KtoDesirableWeight { get; init; } = 1;

    /// <summary>Weight of responses that were not (<c>rl: kto</c>). Default 1, as TRL.</summary>
    public double KtoUndesirableWeight { get; init; } = 1;

    /// <summary>What a policy is rewarded for (<c>rl: ppo</c> and <c>grpo</c>): rules and reward models, whose weighted sum counts.</summary>
    public IReadOnlyList<RewardConfig> Rewards { get; init; } = [];

    /// <summary>Keys of <c>rl: ppo</c>. Those that other methods have too are at the top.</summary>
    public PpoOptions Ppo { get; init; } = new();

    /// <summary>Keys of <c>rl: grpo</c>. Those that other methods have too are at the top.</summary>
    public GrpoOptions Trl { get; init; } = new();

    /// <summary>Training data. Required.</summary>
    public IReadOnlyList<DatasetSource> Datasets { get; init; } = [];

    /// <summary>Validation data in files of their own. Default empty.</summary>
    public IReadOnlyList<DatasetSource> TestDatasets { get; init; } = [];

    /// <summary>Examples set aside for validation: a fraction below 1, or a count. Default 0.</summary>
    public double ValSetSize { get; init; }

    /// <summary>Whether each epoch has its own random order. Default true.</summary>
    public bool ShuffleMergedDatasets { get; init; } = true;

    /// <summary>Train on prompts as well as responses. Default false.</summary>
    public bool TrainOnInputs { get; init; }

    /// <summary>Name of a built-in chat template, or <c>tokenizer_default</c>. Default null: likewise the tokenizer's.</summary>
    public string? ChatTemplate { get; init; }

    /// <summary>Texts of special tokens that replace the tokenizer's.</summary>
    public SpecialTokensConfig SpecialTokens { get; init; } = new();

    /// <summary>
    /// Most tokens of an example, of a policy's prompt with its answer, and the size of a packed bin. Default 512; a file with <c>rl: grpo</c> that does not say it has 512 for the prompt, and
    /// <c>max_completion_length</c> more.
    /// </summary>
    public int SequenceLen { get; init; } = 512;

    /// <summary>What happens to longer rows. Default drop.</summary>
    public ExcessLength ExcessLengthStrategy { get; init; }

    /// <summary>Fill each row of a batch with several examples, which do not see each other. Default false.</summary>
    public bool SamplePacking { get; init; }

    /// <summary>Rows (examples, or packed bins) of a forward pass. Default 1.</summary>
    public int MicroBatchSize { get; init; } = 1;

    /// <summary>Forward passes of an optimizer step. Default 1.</summary>
    public int GradientAccumulationSteps { get; init; } = 1;

    /// <summary>Passes over the data; may be a fraction. Default 1.</summary>
    public double NumEpochs { get; init; } = 1;

    /// <summary>Optimizer steps after which the run ends, whatever <see cref="NumEpochs"/> says. Default null.</summary>
    public int? MaxSteps { get; init; }

    /// <summary>Recompute each decoder block in the backward pass instead of keeping its activations. Default false.</summary>
    public bool GradientCheckpointing { get; init; }

    /// <summary>
    /// <see cref="AdamW"/>, with 32-bit state, or <see cref="AdamW8Bit"/>. Other names of AdamW are read as the one of these whose state has as many bits. Default Axolotl's
    /// <c>adamw_torch_fused</c>, the same as the first.
    /// </summary>
    public string Optimizer { get; init; } = AdamW;

    /// <summary><c>constant</c>, <c>constant_with_warmup</c>, <c>linear</c> or <c>cosine</c>. Default cosine.</summary>
    public string LrScheduler { get; init; } = "cosine";

    /// <summary>Highest learning rate. Required.</summary>
    public double LearningRate { get; init; }

    /// <summary>Warm-up as a fraction of all optimizer steps. Default null: none.</summary>
    public double? WarmupRatio { get; init; }

    /// <summary>Warm-up in optimizer steps. Default null: none.</summary>
    public int? WarmupSteps { get; init; }

    /// <summary>Where cosine ends, as a fraction of <see cref="LearningRate"/>. Default null: 0.</summary>
    public double? CosineMinLrRatio { get; init; }

    /// <summary>AdamW's decoupled decay. Default 0.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Gradients are scaled down to this global norm; 0 for no clipping. Default 1.</summary>
    public double MaxGradNorm { get; init; } = 1;

    /// <summary>Decay of the first moment. Default 0.9.</summary>
    public double AdamBeta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment. Default 0.999.</summary>
    public double AdamBeta2 { get; init; } = 0.999;

    /// <summary>Added to AdamW's denominator. Default 1e-8.</summary>
    public double AdamEpsilon { get; init; } = 1e-8;

    /// <summary>Folder for the adapter, the log and the checkpoints. Default <c>model-out</c> beside the YAML file.</summary>
    public string OutputDir { get; init; } = "";

    /// <summary>Checkpoints in an epoch. Default null: one at the end.</summary>
    public int? SavesPerEpoch { get; init; }

    /// <summary>Optimizer steps from checkpoint to checkpoint. Default null.</summary>
    public int? SaveSteps { get; init; }

    /// <summary>Checkpoints kept; older ones are deleted. Default null: all.</summary>
    public int? SaveTotalLimit { get; init; }

    /// <summary>Validations in an epoch. Default null: one at the end.</summary>
    public int? EvalsPerEpoch { get; init; }

    /// <summary>Optimizer steps from validation to validation. Default null.</summary>
    public int? EvalSteps { get; init; }

    /// <summary>Optimizer steps between lines on the screen. Default 1 (Axolotl: at most 10, by the length of the run).</summary>
    public int LoggingSteps { get; init; } = 1;

    /// <summary>Folder of a checkpoint to go on from. Default null.</summary>
    public string? ResumeFromCheckpoint { get; init; }

    /// <summary>A loss above this counts against the run. Default null: never.</summary>
    public double? LossWatchdogThreshold { get; init; }

    /// <summary>Steps in a row above <see cref="LossWatchdogThreshold"/> that end the run. Default 3.</summary>
    public int LossWatchdogPatience { get; init; } = 3;

    /// <summary>Seed of everything random. Default 42, as Hugging Face.</summary>
    public int Seed { get; init; } = 42;

    /// <summary>Where it runs: <c>auto</c>, <c>cpu</c>, <c>cuda:0</c> ... Default auto.</summary>
    public string Device { get; init; } = "auto";

    /// <summary>Type of activations: <c>auto</c>, <c>f32</c> or <c>bf16</c>. Default auto: f32 on <c>cpu</c>, bf16 elsewhere.</summary>
    public string Dtype { get; init; } = "auto";
}

/// <summary><c>bnb_config_kwargs</c>: the 4-bit format.</summary>
public sealed record QuantizationConfig
{
    /// <summary>Quantise the scales of the blocks too, which saves 0.37 bits a weight (Dettmers et al. 2023, arXiv:2305.14314). Default true, as Axolotl for qlora.</summary>
    public bool UseDoubleQuant { get; init; } = true;

    /// <summary>The code: always <c>nf4</c>.</summary>
    public string QuantType { get; init; } = "nf4";
}

/// <summary><c>special_tokens</c>: texts of tokens in the vocabulary that replace the tokenizer's. Null keeps the tokenizer's.</summary>
public sealed record SpecialTokensConfig
{
    /// <summary>Begins a sequence.</summary>
    public string? BosToken { get; init; }

    /// <summary>Ends a sequence.</summary>
    public string? EosToken { get; init; }
}
