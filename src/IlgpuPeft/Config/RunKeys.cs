using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using D = IlgpuPeft.Config.Key<IlgpuPeft.Data.DatasetSource>;
using K = IlgpuPeft.Config.Key<IlgpuPeft.Config.RunConfig>;
using Q = IlgpuPeft.Config.Key<IlgpuPeft.Config.QuantizationConfig>;
using S = IlgpuPeft.Config.Key<IlgpuPeft.Config.SpecialTokensConfig>;

namespace IlgpuPeft.Config;

/// <summary>The keys that we honour. Defaults are those of the records.</summary>
static class RunKeys
{
    const double Any = double.MaxValue, AboveZero = double.Epsilon;

    /// <summary>Names of AdamW that differ in speed, in the precision of their state or in where it lies.</summary>
    public static readonly string[] AdamNames =
        ["adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_8bit", "adamw_bnb_8bit", "paged_adamw", "paged_adamw_8bit", "paged_adamw_32bit"];

    const string TrainedEnd = "The end of each of the assistant's turns is trained on, and no other.";

    static readonly KeyTable<DatasetSource> Message = new(
    [
        D.Text("role", "It names who speaks.", c => c.MessageRole, (c, v) => c with { MessageRole = v }),
        D.Text("content", "It names what is said.", c => c.MessageContent, (c, v) => c with { MessageContent = v }),
    ], AxolotlKeys.None, AxolotlKeys.None);

    static readonly KeyTable<DatasetSource> Dataset = new(
    [
        D.Path("path", "It is the data file.", c => c.Path, (c, v) => c with { Path = v }, orHubName: true),
        D.Choice("type", "It says how rows become prompts and responses.",
            [("alpaca", DatasetType.Alpaca), ("completion", DatasetType.Completion), ("prompt_completion", DatasetType.PromptCompletion),
                ("chat_template", DatasetType.ChatTemplate), ("tokenized", DatasetType.Tokenized)],
            c => c.Type, (c, v) => c with { Type = v }, [.. AxolotlKeys.ConversationTypes.Select(name => (name, DatasetType.ChatTemplate))]),
        D.Choice("ds_type", "It is the file format.", [("json", DataFileType.Json), ("csv", DataFileType.Csv)], c => c.FileType, (c, v) => c with { FileType = v }),
        D.Choice("split", "A local file is one split; put other splits into files of their own.", ["train"], _ => null, (c, _) => c),
        D.Text("field", "It names the text field of type completion.", c => c.Field, (c, v) => c with { Field = v }),
        D.Text("field_instruction", "It names the field of the instruction or prompt.", c => c.FieldInstruction, (c, v) => c with { FieldInstruction = v }),
        D.Text("field_input", "It names the field of alpaca's input.", c => c.FieldInput, (c, v) => c with { FieldInput = v }),
        D.Text("field_output", "It names the field of the response.", c => c.FieldOutput, (c, v) => c with { FieldOutput = v }),
        D.Text("field_messages", "It names the list of messages.", c => c.FieldMessages, (c, v) => c with { FieldMessages = v }),
        D.Text("field_chosen", "It names the field of the preferred response.", c => c.FieldChosen, (c, v) => c with { FieldChosen = v }),
        D.Text("field_rejected", "It names the field of the other response.", c => c.FieldRejected, (c, v) => c with { FieldRejected = v }),
        D.Text("field_label", "It names the field that says whether a response was liked.", c => c.FieldLabel, (c, v) => c with { FieldLabel = v }),
        D.Section("message_property_mappings", "It names the properties of a message.", Message, c => c, (_, v) => v),
        D.Fixed("roles", ConfigKind.Section, "assistant: [gpt, assistant], user: [human, user], system: [system], tool: [tool] or a part of it",
            "Rename other roles in the data.", AxolotlKeys.AreUsualRoles),
        D.Fixed("roles_to_train", ConfigKind.List, "[assistant]", "The assistant's turns are trained on.", AxolotlKeys.IsAssistantAlone),
        D.Choice("train_on_eos", TrainedEnd, ["turn"], _ => null, (c, _) => c),
        D.Choice("train_on_eot", TrainedEnd, ["turn"], _ => null, (c, _) => c),
    ], AxolotlKeys.DatasetIgnored, AxolotlKeys.DatasetUnsupported);

    static readonly KeyTable<QuantizationConfig> Quantization = new(
    [
        Q.Flag("bnb_4bit_use_double_quant", "It quantises the scales too.", c => c.UseDoubleQuant, (c, v) => c with { UseDoubleQuant = v }),
        Q.Choice("bnb_4bit_quant_type", "It is the 4-bit code.", ["nf4"], c => c.QuantType, (c, v) => c with { QuantType = v }),
    ], AxolotlKeys.QuantizationIgnored, AxolotlKeys.QuantizationUnsupported);

    static readonly KeyTable<SpecialTokensConfig> SpecialTokens = new(
    [
        S.Text("bos_token", "It begins a sequence.", c => c.BosToken, (c, v) => c with { BosToken = v }),
        S.Text("eos_token", "It ends a sequence.", c => c.EosToken, (c, v) => c with { EosToken = v }),
    ], AxolotlKeys.SpecialTokensIgnored, AxolotlKeys.SpecialTokensUnsupported);

    /// <summary>The keys at the top of the file.</summary>
    public static readonly KeyTable<RunConfig> Table = new(
    [
        K.Path("base_model", "It is the folder of the model.", c => c.BaseModel, (c, v) => c with { BaseModel = v }, orHubName: true),
        K.Choice("adapter", "Leave it blank to train every weight.", ["lora", "qlora"], c => c.Adapter, (c, v) => c with { Adapter = v }),
        K.Flag("load_in_4bit", "It keeps linear weights as NF4.", c => c.LoadIn4Bit, (c, v) => c with { LoadIn4Bit = v }),
        K.Section("bnb_config_kwargs", "It is the 4-bit format.", Quantization, c => c.BnbConfigKwargs, (c, v) => c with { BnbConfigKwargs = v }),
        K.Integer("lora_r", "It is the rank of the adapter.", 1, c => c.LoraR, (c, v) => c with { LoraR = v }),
        K.Number("lora_alpha", "The adapter's output is scaled by lora_alpha / lora_r.", AboveZero, Any, c => c.LoraAlpha, (c, v) => c with { LoraAlpha = v }),
        K.Number("lora_dropout", "It is a probability; 1 would drop everything.", 0, 0.99, c => c.LoraDropout, (c, v) => c with { LoraDropout = v }),
        K.Flag("lora_target_linear", "It adapts every linear layer but the head.", c => c.LoraTargetLinear, (c, v) => c with { LoraTargetLinear = v }),
        K.List("lora_target_modules", "It names the linear layers to adapt.", c => c.LoraTargetModules, (c, v) => c with { LoraTargetModules = v },
            LoraConfig.AllLinear),
        K.Path("lora_model_dir", "It is the folder of an adapter to go on training.", c => c.LoraModelDir, (c, v) => c with { LoraModelDir = v }),
        K.Flag("peft_use_rslora", "It scales by lora_alpha / √lora_r.", c => c.PeftUseRslora, (c, v) => c with { PeftUseRslora = v }),

        K.Choice("rl", "It is the method; leave it blank for supervised training.", ["dpo", "ipo", "orpo", "kto", "grpo", "ppo"], c => c.Rl, (c, v) => c with { Rl = v }),
        K.Flag("reward_model", "It trains a reward model on preference pairs.", c => c.RewardModel, (c, v) => c with { RewardModel = v }),
        K.Choice("num_labels", "A reward model gives one number.", ["1"], _ => null, (c, _) => c),
        K.Number("center_rewards_coefficient", "It centres a reward model's rewards on 0.", 0, Any, c => c.CenterRewardsCoefficient, (c, v) => c with { CenterRewardsCoefficient = v }),
        K.Path("reference_model_dir", "It is the folder of the reference's adapter.", c => c.ReferenceModelDir, (c, v) => c with { ReferenceModelDir = v }),
        K.Number("rl_beta", "It holds the policy to the reference.", AboveZero, Any, c => c.RlBeta, (c, v) => c with { RlBeta = v }),
        K.Number("orpo_alpha", "It is Axolotl's name for the rl_beta of rl: orpo.", AboveZero, Any, _ => null, (c, v) => c with { RlBeta = v }),
        K.Choice("dpo_loss_type", "It is the loss of rl: dpo.", ["sigmoid", "hinge", "ipo"], c => c.DpoLossType, (c, v) => c with { DpoLossType = v }),
        K.Number("dpo_label_smoothing", "It is the probability that a preference is the wrong way round.", 0, 0.4999999, c => c.DpoLabelSmoothing, (c, v) => c with { DpoLabelSmoothing = v }),
        K.Flag("dpo_reference_free", "It counts the reference's log-probabilities as 0.", c => c.DpoReferenceFree, (c, v) => c with { DpoReferenceFree = v }),
        K.Number("kto_desirable_weight", "It weighs responses that were liked.", AboveZero, Any, c => c.KtoDesirableWeight, (c, v) => c with { KtoDesirableWeight = v }),
        K.Number("kto_undesirable_weight", "It weighs responses that were not.", AboveZero, Any, c => c.KtoUndesirableWeight, (c, v) => c with { KtoUndesirableWeight = v }),
        K.Sections("rewards", "Each names a rule or a reward model.", MethodKeys.Rewards, c => c.Rewards, (c, v) => c with { Rewards = v }),
        K.Section("ppo", "It is about rl: ppo.", MethodKeys.Ppo, c => c.Ppo, (c, v) => c with { Ppo = v }),
        K.Section("trl", "It is about rl: grpo.", MethodKeys.Grpo, c => c.Trl, (c, v) => c with { Trl = v }),

        K.Sections("datasets", "Each names a file and its type.", Dataset, c => c.Datasets, (c, v) => c with { Datasets = v }),
        K.Sections("test_datasets", "Each names a file and its type.", Dataset, c => c.TestDatasets, (c, v) => c with { TestDatasets = v }),
        K.Number("val_set_size", "It is a fraction below 1, or a count of examples.", 0, int.MaxValue, c => c.ValSetSize, (c, v) => c with { ValSetSize = v }),
        K.Flag("shuffle_merged_datasets", "It draws a new order for each epoch.", c => c.ShuffleMergedDatasets, (c, v) => c with { ShuffleMergedDatasets = v }),
        K.Flag("train_on_inputs", "It trains on prompts too.", c => c.TrainOnInputs, (c, v) => c with { TrainOnInputs = v }),
        K.Choice("chat_template", "It writes conversations as text.", ["tokenizer_default", "chatml", "llama3", "alpaca", "plain"],
            c => c.ChatTemplate, (c, v) => c with { ChatTemplate = v }),
        K.Section("special_tokens", "It replaces the tokenizer's special tokens.", SpecialTokens, c => c.SpecialTokens, (c, v) => c with { SpecialTokens = v }),

        K.Integer("sequence_len", "It is the most tokens of an example.", 2, c => c.SequenceLen, (c, v) => c with { SequenceLen = v }),
        K.Choice("excess_length_strategy", "It says what happens to longer rows.",
            [("drop", ExcessLength.Drop), ("truncate", ExcessLength.Truncate), ("raise", ExcessLength.Raise)],
            c => c.ExcessLengthStrategy, (c, v) => c with { ExcessLengthStrategy = v }),
        K.Flag("sample_packing", "It puts several examples into one row.", c => c.SamplePacking, (c, v) => c with { SamplePacking = v }),
        K.Integer("micro_batch_size", "It counts the rows of a forward pass.", 1, c => c.MicroBatchSize, (c, v) => c with { MicroBatchSize = v }),
        K.Integer("gradient_accumulation_steps", "It counts the forward passes of an optimizer step.", 1,
            c => c.GradientAccumulationSteps, (c, v) => c with { GradientAccumulationSteps = v }),
        K.Number("num_epochs", "It counts passes over the data.", AboveZero, Any, c => c.NumEpochs, (c, v) => c with { NumEpochs = v }),
        K.Integer("max_steps", "The run ends after so many optimizer steps.", 1, c => c.MaxSteps, (c, v) => c with { MaxSteps = v }),
        K.Flag("gradient_checkpointing", "It recomputes activations to save memory; offloading them is not supported.",
            c => c.GradientCheckpointing, (c, v) => c with { GradientCheckpointing = v }),

        K.Choice("optimizer", "Only AdamW is available.", AdamNames, c => c.Optimizer, (c, v) => c with { Optimizer = v }),
        K.Choice("lr_scheduler", "It shapes the learning rate over the run.", ["constant", "constant_with_warmup", "linear", "cosine"],
            c => c.LrScheduler, (c, v) => c with { LrScheduler = v }),
        K.Number("learning_rate", "LoRA usually takes 1e-4 to 2e-4.", AboveZero, 10, c => c.LearningRate, (c, v) => c with { LearningRate = v }),
        K.Number("warmup_ratio", "It is a fraction of all optimizer steps.", 0, 1, c => c.WarmupRatio, (c, v) => c with { WarmupRatio = v }),
        K.Integer("warmup_steps", "It counts optimizer steps.", 0, c => c.WarmupSteps, (c, v) => c with { WarmupSteps = v }),
        K.Number("cosine_min_lr_ratio", "It is the last learning rate as a fraction of the highest.", 0, 1, c => c.CosineMinLrRatio, (c, v) => c with { CosineMinLrRatio = v }),
        K.Number("weight_decay", "It is AdamW's decoupled decay.", 0, Any, c => c.WeightDecay, (c, v) => c with { WeightDecay = v }),
        K.Number("max_grad_norm", "0 clips nothing.", 0, Any, c => c.MaxGradNorm, (c, v) => c with { MaxGradNorm = v }),
        K.Number("adam_beta1", "It must stay below 1.", 0, 0.9999999, c => c.AdamBeta1, (c, v) => c with { AdamBeta1 = v }),
        K.Number("adam_beta2", "It must stay below 1.", 0, 0.9999999, c => c.AdamBeta2, (c, v) => c with { AdamBeta2 = v }),
        K.Number("adam_epsilon", "It is added to AdamW's denominator.", AboveZero, 1, c => c.AdamEpsilon, (c, v) => c with { AdamEpsilon = v }),

        K.Path("output_dir", "It receives adapter, log and checkpoints.", c => c.OutputDir, (c, v) => c with { OutputDir = v }),
        K.Integer("saves_per_epoch", "It counts checkpoints; 0 saves only at the end.", 0, c => c.SavesPerEpoch, (c, v) => c with { SavesPerEpoch = v }),
        K.Integer("save_steps", "It counts optimizer steps between checkpoints.", 1, c => c.SaveSteps, (c, v) => c with { SaveSteps = v }),
        K.Integer("save_total_limit", "It counts the checkpoints kept.", 1, c => c.SaveTotalLimit, (c, v) => c with { SaveTotalLimit = v }),
        K.Integer("evals_per_epoch", "It counts validations; 0 validates only at the end.", 0, c => c.EvalsPerEpoch, (c, v) => c with { EvalsPerEpoch = v }),
        K.Integer("eval_steps", "It counts optimizer steps between validations.", 1, c => c.EvalSteps, (c, v) => c with { EvalSteps = v }),
        K.Integer("logging_steps", "It counts optimizer steps between lines on the screen.", 1, c => c.LoggingSteps, (c, v) => c with { LoggingSteps = v }),
        K.Path("resume_from_checkpoint", "It is the folder of a checkpoint.", c => c.ResumeFromCheckpoint, (c, v) => c with { ResumeFromCheckpoint = v }),
        K.Number("loss_watchdog_threshold", "A loss above it counts against the run.", AboveZero, Any, c => c.LossWatchdogThreshold, (c, v) => c with { LossWatchdogThreshold = v }),
        K.Integer("loss_watchdog_patience", "It counts steps above loss_watchdog_threshold.", 1, c => c.LossWatchdogPatience, (c, v) => c with { LossWatchdogPatience = v }),
        K.Integer("seed", "It seeds everything random.", 0, c => c.Seed, (c, v) => c with { Seed = v }),
        K.Text("device", "It is auto, cpu, cuda:0 ...", c => c.Device, (c, v) => c with { Device = v }),
        K.Choice("dtype", "It is the type of activations.", ["auto", "f32", "bf16"], c => c.Dtype, (c, v) => c with { Dtype = v }),
    ], AxolotlKeys.Ignored, AxolotlKeys.Unsupported);
}
