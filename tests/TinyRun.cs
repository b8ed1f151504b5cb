using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Tests;

/// <summary>All that a run needs, a few kilobytes of it, in one folder: a random model of 37 tokens, adapters, tokenised rows, and a configuration over them.</summary>
sealed class TinyRun : IDisposable
{
    readonly TempFolder temp = new();

    public TinyRun()
    {
        Architectures.Write(Model, "llama");
        SaveAdapter(Model, Adapter);
        File.WriteAllLines(Rows, Enumerable.Range(0, 12).Select(row =>
        {
            var key = new RandomKey(7, (uint)row, 0);
            int[] ids = [.. Enumerable.Range(0, 6 + row % 5).Select(i => (int)(key.Uniform((ulong)i) * 36))];
            return JsonSerializer.Serialize(new { input_ids = ids, labels = ids.Select((id, i) => i < 3 ? -100 : id) });
        }));
        File.WriteAllText(Config, """
            base_model: model
            adapter: lora
            lora_r: 4
            lora_target_linear: true
            lora_dropout: 0.1
            datasets:
              - path: rows.jsonl
                type: tokenized
            gradient_accumulation_steps: 2
            max_steps: 6
            learning_rate: 0.01
            output_dir: out
            """);
    }

    public string Model => temp.File("model");

    public string Adapter => temp.File("adapter");

    public string Rows => temp.File("rows.jsonl");

    public string Config => temp.File("run.yaml");

    public string Output => temp.File("out");

    /// <summary>The folder of an adapter for another model, made when asked for.</summary>
    public string ForeignAdapter()
    {
        Architectures.Write(temp.File("other"), "smollm, tied");
        SaveAdapter(temp.File("other"), temp.File("foreign"));
        return temp.File("foreign");
    }

    public string PathOf(string name) => temp.File(name);

    public void Dispose() => temp.Dispose();

    // B is not zero, as after training, so that the adapter changes what the model says.
    static void SaveAdapter(string model, string folder)
    {
        using var backend = new HostBackend<float>();
        using var loaded = PretrainedModel.Load(model, backend);
        using var adapter = new AdapterSet(loaded, new LoraConfig { Rank = 4 }, seed: 3);
        foreach (var (_, update) in adapter.Updates)
        {
            var key = new RandomKey(5, (uint)update.B.Count, 0);
            backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(i => (float)(0.3 * key.Normal((ulong)i)))], update.B.Value);
        }

        PretrainedAdapter.Save(adapter, folder, model);
    }
}
