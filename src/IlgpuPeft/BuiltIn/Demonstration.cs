using System.Text.Encodings.Web;
using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Data;
using IlgpuPeft.Reinforcement;

namespace IlgpuPeft.BuiltIn;

/// <summary>
/// The runs that show what the library does, one after the other over the same frozen base: QLoRA teaches the built-in model to answer, a reward model learns which manner of answering people
/// preferred, and PPO trains the policy to please it.
/// </summary>
/// <param name="Supervised">Supervised fine-tuning on requests and answers, a quarter of them friendly.</param>
/// <param name="RewardModel">A reward model of pairs in which the friendly answer is the preferred one.</param>
/// <param name="Policy">PPO from the supervised adapter, with the reward model as its judge.</param>
public sealed record Demonstration(RunConfig Supervised, RunConfig RewardModel, RunConfig Policy)
{
    // One request of so many has a pair: a preference needs fewer examples than the answers do.
    const int PairEvery = 4;

    // Prompts and answers are readable as they are: nothing here ends up in HTML.
    static readonly JsonSerializerOptions Format = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes base model, data and the three configurations into a folder. <see cref="TrainingRun.Open"/> takes it from there.</summary>
    /// <param name="folder">Receives <c>base/</c>, the data, <c>sft.yaml</c>, <c>reward.yaml</c>, <c>ppo.yaml</c>, and later what each run leaves in <c>sft/</c>, <c>reward/</c> and <c>ppo/</c>.</param>
    /// <param name="device">As the key <c>device</c>.</param>
    /// <exception cref="IOException">The folder cannot be written to.</exception>
    public static Demonstration Prepare(string folder, string device = "auto")
    {
        string root = Path.GetFullPath(folder);
        BuiltInModel.Unpack(Path.Combine(root, "base"));
        IReadOnlyList<Question> preferred = [.. Instructions.Train.Where((_, i) => i % PairEvery == 0)];
        var shared = new RunConfig { BaseModel = Path.Combine(root, "base"), Adapter = "qlora", LoadIn4Bit = true, SequenceLen = 128, WarmupSteps = 10, Device = device };
        var demonstration = new Demonstration(
            shared with
            {
                Datasets = [Rows(root, "train.jsonl", Answers(Instructions.Train))],
                TestDatasets = [Rows(root, "held-out.jsonl", Answers(Instructions.HeldOut))],
                LoraR = 1,
                LoraAlpha = 4,
                LoraTargetModules = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
                MicroBatchSize = 24,
                MaxSteps = 600,
                LearningRate = 8e-3,
                LoggingSteps = 50,
                OutputDir = Path.Combine(root, "sft"),
            },
            shared with
            {
                RewardModel = true,
                CenterRewardsCoefficient = 0.01,
                Datasets = [Rows(root, "pairs.jsonl", Pairs(preferred))],
                TestDatasets = [Rows(root, "held-out-pairs.jsonl", Pairs(Instructions.HeldOut))],
                LoraR = 4,
                LoraAlpha = 8,
                LoraTargetLinear = true,
                MicroBatchSize = 16,
                MaxSteps = 40,
                LearningRate = 5e-4,
                LoggingSteps = 20,
                OutputDir = Path.Combine(root, "reward"),
            },
            shared with
            {
                Rl = "ppo",
                LoraModelDir = Path.Combine(root, "sft"),
                Rewards = [new RewardConfig { Model = Path.Combine(root, "reward") }],
                Ppo = new PpoOptions
                {
                    ResponseLength = Quiz.MaxTokens,
                    Temperature = 1,
                    KlCoefficient = 0.1,
                    MissingEosPenalty = 1,
                    PpoEpochs = 2,
                    MiniBatches = 2,
                    ValueLearningRate = 2e-3,
                    TokensPerPass = 4096,
                    SampleEvery = 10,
                },
                Datasets = [Rows(root, "prompts.jsonl", Instructions.Train.Select(question => new { prompt = question.Prompt, answer = question.Answer }))],
                MicroBatchSize = 64,
                MaxSteps = 24,
                LearningRate = 6e-4,
                WarmupSteps = 0,
                LoggingSteps = 6,
                OutputDir = Path.Combine(root, "ppo"),
            });
        foreach (var (name, config) in new[] { ("sft", demonstration.Supervised), ("reward", demonstration.RewardModel), ("ppo", demonstration.Policy) })
        {
            AtomicFile.WriteText(Path.Combine(root, name + ".yaml"), ConfigWriter.ToYaml(config));
        }

        return demonstration;
    }

    /// <summary>A configuration for a model and data of the reader's own, with the two paths to fill in.</summary>
    public const string OwnModelYaml = """
        # ilgpu-peft train own-model.yaml
        base_model: PATH/TO/MODEL          # a downloaded Hugging Face folder: Llama, Mistral, Qwen, SmolLM2 ...
        datasets:
          - path: PATH/TO/ROWS.jsonl       # {"prompt": "...", "completion": "..."} a line, as in train.jsonl here
            type: prompt_completion
        adapter: qlora
        lora_r: 16
        lora_alpha: 32
        lora_target_linear: true
        sequence_len: 512
        sample_packing: true
        micro_batch_size: 1
        gradient_accumulation_steps: 8
        num_epochs: 1
        learning_rate: 2e-4
        lr_scheduler: cosine
        warmup_ratio: 0.03
        val_set_size: 0.05
        output_dir: ./own-adapter

        """;

    static IEnumerable<object> Answers(IReadOnlyList<Question> questions) =>
        questions.Zip(Friendliness.Mixed(questions), (question, answer) => new { prompt = question.Prompt, completion = answer });

    static IEnumerable<object> Pairs(IEnumerable<Question> questions) =>
        questions.Select(question => new { prompt = question.Prompt, chosen = Friendliness.Of(question.Answer), rejected = question.Answer });

    static DatasetSource Rows(string root, string name, IEnumerable<object> rows)
    {
        string path = Path.Combine(root, name);
        AtomicFile.WriteText(path, string.Concat(rows.Select(row => JsonSerializer.Serialize(row, Format) + "\n")));
        return new DatasetSource { Path = path, Type = DatasetType.PromptCompletion };
    }
}
