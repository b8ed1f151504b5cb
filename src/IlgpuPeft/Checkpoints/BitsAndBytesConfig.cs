using System.Text.Json;
using System.Text.Json.Nodes;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Checkpoints;

/// <summary>The <c>quantization_config</c> section of a <c>config.json</c> whose weights are stored in 4 bits by bitsandbytes.</summary>
/// <param name="DoubleQuant">Whether block scales are quantised too.</param>
/// <param name="ComputeType">Type in which Python's libraries multiply: F32, F16 or BF16.</param>
/// <param name="SkipModules">Modules kept in 16 bits; null for the default, the output head.</param>
public sealed record BitsAndBytesConfig(bool DoubleQuant, DType ComputeType, IReadOnlyList<string>? SkipModules = null)
{
    const string Section = "quantization_config";

    /// <summary>Reads the section, or returns null where <paramref name="config"/>, a whole <c>config.json</c>, has none.</summary>
    /// <param name="config">The top-level object.</param>
    /// <param name="file">Path of the file, for messages.</param>
    /// <exception cref="CheckpointException">The model is quantised in another way.</exception>
    public static BitsAndBytesConfig? Parse(JsonElement config, string file)
    {
        var root = new JsonFields(config, file);
        if (root.Find(Section) is not { } section)
        {
            return null;
        }

        if (section.ValueKind != JsonValueKind.Object)
        {
            throw root.Wrong(Section, section, "an object");
        }

        const string advice = "Use the 16-bit model of the same name; it can be quantised to nf4 here.";
        var fields = new JsonFields(section, file, Section);
        string? method = fields.String("quant_method");
        if (method is not (null or "bitsandbytes")) // early bitsandbytes configurations do not name the method
        {
            throw new CheckpointException(file, Section, $"quant_method is {method}, expected bitsandbytes. {advice}");
        }

        if (fields.Bool("load_in_8bit", false) || !fields.Bool("load_in_4bit", false))
        {
            throw new CheckpointException(file, Section, $"is not a 4-bit configuration (load_in_4bit is not true), expected 4 bits. {advice}");
        }

        string type = fields.String("bnb_4bit_quant_type") ?? "fp4"; // the default of the format
        if (type != "nf4")
        {
            throw new CheckpointException(file, Section, $"bnb_4bit_quant_type is {type}, expected nf4. {advice}");
        }

        string compute = fields.String("bnb_4bit_compute_dtype") ?? "float32";
        var computeType = BitsAndBytes.FromTorchName(compute)
            ?? throw new CheckpointException(file, Section, $"bnb_4bit_compute_dtype is {compute}, expected float32, float16 or bfloat16.");
        return new BitsAndBytesConfig(fields.Bool("bnb_4bit_use_double_quant", false), computeType, fields.Strings("llm_int8_skip_modules"));
    }

    /// <summary>The section with every key that transformers writes, in its order.</summary>
    public JsonObject ToJson() => new()
    {
        ["_load_in_4bit"] = true,
        ["_load_in_8bit"] = false,
        ["bnb_4bit_compute_dtype"] = BitsAndBytes.TorchName(ComputeType),
        ["bnb_4bit_quant_storage"] = "uint8",
        ["bnb_4bit_quant_type"] = "nf4",
        ["bnb_4bit_use_double_quant"] = DoubleQuant,
        ["llm_int8_enable_fp32_cpu_offload"] = false,
        ["llm_int8_has_fp16_weight"] = false,
        ["llm_int8_skip_modules"] = SkipModules is null ? null : new JsonArray([.. SkipModules.Select(name => JsonValue.Create(name))]),
        ["llm_int8_threshold"] = 6.0,
        ["load_in_4bit"] = true,
        ["load_in_8bit"] = false,
        ["quant_method"] = "bitsandbytes",
    };
}
