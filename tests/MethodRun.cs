using System.Text.Json;
using IlgpuPeft.BuiltIn;

namespace IlgpuPeft.Tests;

/// <summary>The built-in model with a few pairs, judged responses and prompts in one folder, and a configuration of two short steps of any method over them.</summary>
sealed class MethodRun : IDisposable
{
    readonly TempFolder temp = new();

    public MethodRun()
    {
        BuiltInModel.Unpack(Model);
        var asked = Enumerable.Range(0, 6).Select(i => (Question: $"{i} + 4 = ", Answer: i + 4)).ToList();
        Write("pairs.jsonl", asked.Select((row, i) => new { prompt = row.Question, chosen = $"{row.Answer} :)", rejected = i % 2 == 0 ? "no" : $"{row.Answer}." }));
        Write("judged.jsonl", asked.Select((row, i) => new { prompt = row.Question, completion = $"{row.Answer}", label = i % 2 == 0 }));
        Write("prompts.jsonl", asked.Select(row => new { prompt = row.Question, answer = row.Answer }));
    }

    public string Model => temp.File("model");

    public string PathOf(string name) => temp.File(name);

    /// <summary>The lines that choose a method and its data, as far as they differ.</summary>
    public static string Lines(string method) => method switch
    {
        "reward" => "reward_model: true\ncenter_rewards_coefficient: 0.01\n" + Data("pairs"),
        "kto" => "rl: kto\nshuffle_merged_datasets: false\n" + Data("judged"),
        "grpo" => "rl: grpo\ntrl: {num_generations: 3, max_completion_length: 6, temperature: 2, beta: 0.04, sample_every: 1, scale_rewards: batch}\nrewards:\n  - rule: length\n    target: 4\n  - rule: contains\n    text: 1\n" + Data("prompts"),
        "ppo" => "rl: ppo\nppo: {response_length: 6, num_ppo_epochs: 2, sample_every: 1}\nrewards:\n  - rule: length\n    target: 4\n    label: four\n    weight: 0.5\n" + Data("prompts"),
        _ => $"rl: {method}\n" + Data("pairs"),
    };

    /// <summary>Writes a configuration whose output goes to a folder of the same name.</summary>
    /// <param name="name">Of both.</param>
    /// <param name="lines">Those of <see cref="Lines"/>.</param>
    public string Config(string name, string lines)
    {
        string path = temp.File(name + ".yaml");
        File.WriteAllText(path, $"""
            base_model: model
            adapter: qlora
            lora_r: 2
            lora_target_modules: [q_proj, v_proj]
            sequence_len: 32
            micro_batch_size: 2
            max_steps: 2
            learning_rate: 0.01
            lr_scheduler: constant
            output_dir: {name}

            """ + lines);
        return path;
    }

    /// <summary>Writes rows as JSON, one a line.</summary>
    public void Write<T>(string name, IEnumerable<T> rows) => File.WriteAllLines(temp.File(name), rows.Select(row => JsonSerializer.Serialize(row)));

    public void Dispose() => temp.Dispose();

    static string Data(string name) => $"datasets:\n  - path: {name}.jsonl\n    type: prompt_completion\n";
}
