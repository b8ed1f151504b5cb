using System.Text.Encodings.Web;
using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Data;

namespace IlgpuPeft.BuiltIn;

/// <summary>The run that shows what the library does: QLoRA of the built-in model on the built-in instructions.</summary>
public static class Demonstration
{
    // Prompts and answers are readable as they are: nothing here ends up in HTML.
    static readonly JsonSerializerOptions Format = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes base model and data into a folder, and configures the run over them. <see cref="SftRun.Open"/> takes it from there.</summary>
    /// <param name="folder">Receives <c>base/</c>, <c>train.jsonl</c>, <c>held-out.jsonl</c>, and later the adapter.</param>
    /// <param name="device">As the key <c>device</c>.</param>
    /// <exception cref="IOException">The folder cannot be written to.</exception>
    public static RunConfig Prepare(string folder, string device = "auto")
    {
        string root = Path.GetFullPath(folder), model = Path.Combine(root, "base"), train = Path.Combine(root, "train.jsonl"), heldOut = Path.Combine(root, "held-out.jsonl");
        BuiltInModel.Unpack(model);
        WriteRows(train, Instructions.Train);
        WriteRows(heldOut, Instructions.HeldOut);
        return new RunConfig
        {
            BaseModel = model,
            Adapter = "qlora",
            LoadIn4Bit = true,
            LoraR = 1,
            LoraAlpha = 4,
            LoraTargetModules = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
            Datasets = [new DatasetSource { Path = train, Type = DatasetType.PromptCompletion }],
            TestDatasets = [new DatasetSource { Path = heldOut, Type = DatasetType.PromptCompletion }],
            SequenceLen = 128,
            MicroBatchSize = 24,
            MaxSteps = 350,
            LearningRate = 8e-3,
            WarmupSteps = 10,
            LoggingSteps = 50,
            OutputDir = root,
            Device = device,
        };
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

    static void WriteRows(string path, IEnumerable<Question> questions) =>
        AtomicFile.WriteText(path, string.Concat(questions.Select(question => JsonSerializer.Serialize(new { prompt = question.Prompt, completion = question.Answer }, Format) + "\n")));
}
