using System.Text.Json;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What reward models, preference and policy methods refuse, or say, before their first update.</summary>
public sealed class CliMethodInputTests : IDisposable
{
    readonly MethodRun run = new();

    public void Dispose() => run.Dispose();

    [Theory]
    [InlineData("dpo", "adapter=", "adapter: the key is required by rl: dpo, which trains adapters over one frozen base. Set adapter: qlora.")]
    [InlineData("ppo", "rewards=", "rewards: the key is required by rl: ppo")]
    [InlineData("ppo", "reward_model=true", "reward_model: contradicts rl: ppo")]
    [InlineData("ppo", "rewards.0.model=reward", "rewards.0: expected either rule or model, got both")]
    [InlineData("ppo", "rewards.1.weight=2", "rewards.1: expected either rule or model, got neither")]
    [InlineData("ppo", "rewards.0.weigth=2", "rewards.0.weigth: there is no such key. Did you mean \"weight\"?")]
    [InlineData("ppo", "rewards.0.pattern=x", "rewards.0: reward length: there is no option pattern, expected label, max, min, per_token, target, unit.")]
    [InlineData("ppo", "rewards.0.rule=lenght", "rewards.0.rule: expected contains, ended, exact-match")]
    [InlineData("ppo", "rewards.0.target=many", "rewards.0: reward four: target is \"many\", expected a whole number of at least 1.")]
    [InlineData("ppo", "rewards.1={rule: regex, pattern: '('}", "rewards.1: reward regex: pattern is not a regular expression")]
    [InlineData("grpo", "rewards.1={rule: length, label: length, target: 3}", "two of the rewards length, length have one name")]
    [InlineData("ppo", "rewards.1={model: reward, target: 3}", "rewards.1.target: it is an option of rules. A reward model has weight and label.")]
    [InlineData("ppo", "rewards.0={rule: exact-match, field: solution}", "prompts.jsonl:1: reward exact-match needs the field solution, and the row has answer.")]
    [InlineData("grpo", "rewards.0={rule: number-match, field: solution}", "prompts.jsonl:1: reward number-match needs the field solution")]
    [InlineData("ppo", "ppo.response_length=32", "32 tokens leave no room for a prompt before a response of 32, ppo.response_length. Raise sequence_len, or lower ppo.response_length.")]
    [InlineData("grpo", "trl.max_completion_length=512", "a response of 512, trl.max_completion_length. Raise sequence_len, or lower trl.max_completion_length.")]
    [InlineData("dpo", "datasets.0.type=chat_template", "pairs.jsonl: ChatTemplate: the model has no chat template. Choose one by name")]
    [InlineData("ppo", "ppo.num_mini_batches=4", "a divisor of the 2 prompts of an update")]
    [InlineData("ppo", "ppo.max_sequences=0", "ppo.max_sequences: expected a whole number of at least 1")]
    [InlineData("dpo", "rl=simpo", "rl: expected dpo, ipo, orpo, kto, grpo or ppo, got \"simpo\"")]
    [InlineData("dpo", "special_tokens.eos_token=</end>", "special_tokens.eos_token: the vocabulary has no token </end>. Name one that it has.")]
    [InlineData("ppo", "special_tokens.eos_token=</end>", "special_tokens.eos_token: the vocabulary has no token </end>.")]
    [InlineData("dpo", "excess_length_strategy=truncate", "truncate is not for pairs")]
    [InlineData("dpo", "datasets.0.type=completion", "type: completion is running text, which has no prompt")]
    public async Task Setting_that_cannot_be_is_an_error_and_leaves_no_output(string method, string setting, string message)
    {
        (await Tool.RunAsync("train", run.Config(method, MethodRun.Lines(method)), "--set", setting)).Fails(1, message);
        Assert.False(Directory.Exists(run.PathOf(method)));
    }

    [Theory]
    [InlineData("dpo", """{"prompt": "a", "chosen": "b", "rejected": "b"}""", "1 rows -> 0 pairs, 0 tokens, 0 trained on; 1 dropped: chosen and rejected are the same. Nothing is left to train on")]
    [InlineData("reward", """{"prompt": "a", "chosen": "b", "rejected": ""}""", "data.jsonl:1: rejected is empty, expected a response")]
    [InlineData("orpo", """{"prompt": "a", "chosen": "b"}""", "data.jsonl:1: ")]
    [InlineData("kto", """{"prompt": "a", "completion": "b"}""", "data.jsonl:1: ")]
    [InlineData("kto", """{"prompt": "a", "completion": "b", "label": "perhaps"}""", "data.jsonl:1: field \"label\" is text, expected true or false")]
    [InlineData("ppo", """{"prompt": "a question that leaves no room for an answer"}""", "1 rows -> 0 prompts, 0 tokens; 1 dropped: longer than sequence_len less ppo.response_length. Nothing is left to train on. Check the dataset's type and fields, or raise sequence_len (32) or lower ppo.response_length (6).")]
    [InlineData("grpo", """{"question": "a"}""", "data.jsonl:1: ")]
    public async Task Row_that_cannot_be_learned_from_is_an_error(string method, string row, string message)
    {
        File.WriteAllText(run.PathOf("data.jsonl"), row);
        (await Tool.RunAsync("train", run.Config(method, MethodRun.Lines(method)), "--set", "datasets.0.path=data.jsonl")).Fails(2, message);
        Assert.False(Directory.Exists(run.PathOf(method)));
    }

    [Fact]
    public async Task Kto_is_held_to_its_reference_whatever_dpo_would_leave_out()
    {
        (await Tool.RunAsync("train", run.Config("first", MethodRun.Lines("kto")))).Succeeds();
        string[] again = ["train", run.Config("kto", MethodRun.Lines("kto")), "--set", "lora_model_dir=first", "--set", "max_steps=1", "--json"];
        double loss = (await Tool.RunAsync(again)).Succeeds().Json.GetProperty("loss").GetDouble();
        var free = (await Tool.RunAsync([.. again, "--set", "dpo_reference_free=true"])).Succeeds();
        Assert.Contains("dpo_reference_free is ignored", free.Error, StringComparison.Ordinal);
        Assert.Equal(loss, free.Json.GetProperty("loss").GetDouble());
    }

    [Fact]
    public async Task Responses_of_one_label_are_an_error()
    {
        run.Write("liked.jsonl", Enumerable.Range(0, 4).Select(i => new { prompt = $"{i} + 1 = ", completion = $"{i + 1}", label = true }));
        (await Tool.RunAsync("train", run.Config("kto", MethodRun.Lines("kto")), "--set", "datasets.0.path=liked.jsonl")).Fails(1, "4 of 4 rows to train on are desirable, expected both labels");
    }

    [Fact]
    public async Task Prompt_without_room_for_a_response_is_left_out_and_counted()
    {
        run.Write("some.jsonl", [new { prompt = "1 + 2 = " }, new { prompt = "a question that leaves no room for an answer" }]);
        var planned = (await Tool.RunAsync("train", run.Config("ppo", MethodRun.Lines("ppo")), "--dry-run", "--set", "datasets.0.path=some.jsonl")).Succeeds();
        Assert.Contains("2 rows -> 1 prompts, 9 tokens; 1 dropped: longer than sequence_len", planned.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Adapter_of_the_other_kind_is_an_error()
    {
        (await Tool.RunAsync("train", run.Config("reward", MethodRun.Lines("reward")), "--set", "max_steps=1")).Succeeds();
        (await Tool.RunAsync("train", run.Config("orpo", MethodRun.Lines("orpo")), "--set", "max_steps=1")).Succeeds();
        const string noHead = "the adapter of a language model has no head that scores texts", head = "scores texts and cannot continue them";
        string ppo = run.Config("ppo", MethodRun.Lines("ppo"));
        (await Tool.RunAsync("train", ppo, "--set", "rewards.1.model=orpo")).Fails(2, noHead);
        (await Tool.RunAsync("train", ppo, "--set", "rewards.1.model=absent")).Fails(2, "adapter_config.json");
        (await Tool.RunAsync("train", ppo, "--set", "lora_model_dir=reward")).Fails(2, head);
        (await Tool.RunAsync("train", ppo, "--set", "reference_model_dir=reward")).Fails(2, head);
        (await Tool.RunAsync("train", run.Config("again", MethodRun.Lines("reward")), "--set", "lora_model_dir=orpo")).Fails(2, noHead);
        Assert.False(Directory.Exists(run.PathOf("ppo")) || Directory.Exists(run.PathOf("again")));
    }

    [Theory]
    [InlineData("{rule: contains, text: x}", "reward contains: ")]
    [InlineData("{rule: length, target: 4, unit: characters}", "reward length: ")]
    public async Task Rule_that_reads_text_without_a_tokenizer_is_an_error(string rule, string message)
    {
        File.Delete(Path.Combine(run.Model, "tokenizer.json"));
        run.Write("ids.jsonl", [new { input_ids = new[] { 1, 5, 9 } }, new { input_ids = new[] { 1, 7 } }]);
        string[] ids = ["train", run.Config("ppo", MethodRun.Lines("ppo")), "--set", "datasets.0.path=ids.jsonl", "--set", "datasets.0.type=tokenized"];
        (await Tool.RunAsync([.. ids, "--set", $"rewards.1={rule}", "--set", "rewards.1.label=" + rule.Split([' ', ','])[1]])).Fails(1, message + run.Model + " has no tokenizer.json, so answers have no text to read.");
        (await Tool.RunAsync([.. ids, "--dry-run"])).Succeeds(); // a rule that counts tokens needs none
    }

    [Theory]
    [InlineData("ppo", "val_set_size=2", "val_set_size is ignored: rl: ppo does not read it.")]
    [InlineData("ppo", "eval_steps=1", "eval_steps is ignored: rl: ppo does not read it.")]
    [InlineData("ppo", "rl_beta=0.1", "rl_beta is ignored: rl: ppo does not read it.")]
    [InlineData("dpo", "sample_packing=true", "sample_packing is ignored: rl: dpo does not read it.")]
    [InlineData("orpo", "reference_model_dir=there", "reference_model_dir is ignored: rl: orpo does not read it.")]
    [InlineData("reward", "train_on_inputs=true", "train_on_inputs is ignored: reward_model: true does not read it.")]
    public async Task Key_that_the_method_does_not_read_gives_a_note_and_changes_nothing(string method, string setting, string note)
    {
        var planned = (await Tool.RunAsync("train", run.Config(method, MethodRun.Lines(method)), "--dry-run", "--json", "--set", setting)).Succeeds();
        Assert.Contains($"note: {note}", planned.Error, StringComparison.Ordinal);
        Assert.Equal((6, 0), (planned.Json.GetProperty("train").GetInt32(), planned.Json.GetProperty("validation").GetInt32()));
    }

    [Theory]
    [InlineData("dpo", "pairs.jsonl:1: 9 tokens of prompt, 5 chosen, 3 rejected\n<s>0 + 4 = \nchosen: ⟦4 :)</s>⟧\nrejected: ⟦no</s>⟧")]
    [InlineData("reward", "chosen: ⟦4 :)</s>⟧")]
    [InlineData("orpo", "rejected: ⟦no</s>⟧")]
    [InlineData("kto", "judged.jsonl:1: 9 tokens of prompt, 2 of response, liked\n<s>0 + 4 = ⟦4</s>⟧")]
    [InlineData("grpo", "prompts.jsonl:1: 9 tokens of prompt\n<s>0 + 4 = \nanswer: 4")]
    [InlineData("ppo", "prompts.jsonl:1: 9 tokens of prompt\n<s>0 + 4 = \nanswer: 4")]
    public async Task Preprocess_shows_rows_of_every_method_and_json_that_is_data_again(string method, string shown)
    {
        string config = run.Config(method, MethodRun.Lines(method));
        var people = (await Tool.RunAsync("preprocess", config, "--samples", "1")).Succeeds();
        Assert.Contains(shown, people.Out.ReplaceLineEndings("\n"), StringComparison.Ordinal);
        Assert.Contains("6 ", people.Error, StringComparison.Ordinal);

        string rows = (await Tool.RunAsync("preprocess", config, "--samples", "6", "--json")).Succeeds().Out;
        File.WriteAllText(run.PathOf("rows.jsonl"), rows);
        var again = (await Tool.RunAsync("preprocess", config, "--samples", "6", "--json", "--set", "datasets.0.path=rows.jsonl", "--set", "datasets.0.type=tokenized")).Succeeds();
        Assert.Equal(Ids(rows), Ids(again.Out));

        static List<string> Ids(string lines) => [.. lines.Trim().Split('\n').SelectMany(line => JsonElement.Parse(line).EnumerateObject())
            .Where(field => field.Name is not ("file" or "line")).Select(field => $"{field.Name} {field.Value}")];
    }
}
