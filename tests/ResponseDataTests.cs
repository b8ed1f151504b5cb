using CsCheck;
using IlgpuPeft.Data;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class ResponseDataTests : IDisposable
{
    const string Preference = "assets/data-rasbt/instruction-data-with-preference.json";

    readonly TempFolder folder = new();

    public void Dispose() => folder.Dispose();

    static Tokenizer Stories() => Tokenizer.Load(TestAssets.Path("assets/stories260k-hf"));

    DatasetSource Source(string text, DatasetType type, string name = "a.jsonl")
    {
        File.WriteAllText(folder.File(name), text);
        return new DatasetSource { Path = folder.File(name), Type = type };
    }

    static DatasetOptions Options(string? template = null) =>
        new() { SequenceLength = 4096, VocabularySize = 512, ChatTemplate = template is null ? null : ChatTemplate.Named(template) };

    PreferencePair Pair(string text, DatasetType type, string? template = null) => Assert.Single(Dataset.LoadPairs([Source(text, type)], Options(template), Stories()).Items);

    [Theory]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "Once upon", "chosen": " a time", "rejected": " no time", "margin": 0.5}""")]
    [InlineData(DatasetType.Alpaca, """{"instruction": "Tell.", "input": "x", "chosen": "Once", "rejected": "Never", "margin": "0.5"}""")]
    public void Pair_of_texts_has_the_tokens_of_supervised_training(DatasetType type, string row)
    {
        var tokenizer = Stories();
        var pair = Pair(row, type);
        foreach (var (field, response, example) in new[] { ("chosen", pair.Chosen, pair.ChosenExample), ("rejected", pair.Rejected, pair.RejectedExample) })
        {
            var source = Source(row, type) with { FieldOutput = field };
            var supervised = Assert.Single(Dataset.Load([source], Options(), tokenizer).Examples);
            Assert.Equal(supervised.InputIds, example.InputIds);
            Assert.Equal(supervised.Labels, example.Labels);
            Assert.Equal(tokenizer.Eos!.Value.Id, response[^1]);
        }

        Assert.Equal(tokenizer.Bos!.Value.Id, pair.Prompt[0]);
        Assert.Equal((0.5, folder.File("a.jsonl"), 1), (pair.Margin, pair.File, pair.Line));
    }

    const string Ask = """{"role": "user", "content": "Hi."}""", Good = """{"role": "assistant", "content": "Hello."}""", Bad = """{"role": "assistant", "content": "What?"}""";

    [Theory]
    [InlineData("chatml", $$"""{"chosen": [{{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Bad}}]}""")]
    [InlineData("chatml", $$"""{"prompt": [{{Ask}}], "chosen": [{{Good}}], "rejected": [{{Bad}}]}""")]
    [InlineData("chatml", $$"""{"prompt": "Hi.", "chosen": [{{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Bad}}]}""")]
    [InlineData("chatml", $$"""{"prompt": [{{Ask}}], "chosen": [{{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Bad}}]}""")]
    [InlineData("alpaca", $$"""{"messages": [{{Ask}}], "chosen": {{Good}}, "rejected": {{Bad}}}""")]
    public void Pair_of_conversations_has_the_tokens_of_supervised_training(string template, string row)
    {
        var pair = Pair(row, DatasetType.ChatTemplate, template);
        foreach (var (answer, example) in new[] { (Good, pair.ChosenExample), (Bad, pair.RejectedExample) })
        {
            var source = Source($$"""{"messages": [{{Ask}}, {{answer}}]}""", DatasetType.ChatTemplate);
            var supervised = Assert.Single(Dataset.Load([source], Options(template), Stories()).Examples);
            Assert.Equal(supervised.InputIds, example.InputIds);
            Assert.Equal(supervised.Labels, example.Labels);
        }
    }

    // Axolotl's rows for reward models, for orpo and of messages with two texts.
    [Theory]
    [InlineData(true, """{"system": "Be kind.", "input": "Hi.", "chosen": "Hello.", "rejected": "What?"}""")]
    [InlineData(false, """{"system": "", "input": "Hi.", "chosen": "Hello.", "rejected": "What?"}""")]
    [InlineData(true, $$"""{"system": "Be kind.", "prompt": "Hi.", "chosen": [{{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Bad}}]}""")]
    [InlineData(false, $$"""{"messages": [{{Ask}}], "chosen": "Hello.", "rejected": "What?"}""")]
    [InlineData(false, """{"prompt": "Hi.", "chosen": "Hello.", "rejected": "What?"}""")]
    public void Pair_of_texts_is_written_by_the_template(bool system, string row)
    {
        var pair = Pair(row, DatasetType.ChatTemplate, "chatml");
        string start = system ? """{"role": "system", "content": "Be kind."}, """ : "";
        var expected = Pair($$"""{"chosen": [{{start}}{{Ask}}, {{Good}}], "rejected": [{{start}}{{Ask}}, {{Bad}}]}""", DatasetType.ChatTemplate, "chatml");
        Assert.Equal((string.Join(' ', expected.Prompt), string.Join(' ', expected.Chosen), string.Join(' ', expected.Rejected)),
            (string.Join(' ', pair.Prompt), string.Join(' ', pair.Chosen), string.Join(' ', pair.Rejected)));
    }

    [Fact]
    public void Conversations_share_a_prompt_of_many_turns()
    {
        var pair = Pair($$"""{"chosen": [{{Ask}}, {{Good}}, {{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Good}}, {{Ask}}, {{Bad}}]}""", DatasetType.ChatTemplate, "chatml");
        string prompt = ChatTemplate.Named("chatml").Render([new ChatMessage("user", "Hi."), new ChatMessage("assistant", "Hello."), new ChatMessage("user", "Hi.")]);
        Assert.Equal(Stories().Encode(prompt), pair.Prompt);
        Assert.Contains("What?", Stories().Decode(pair.Rejected), StringComparison.Ordinal);
    }

    [Fact]
    public void Published_preference_conversation_is_read()
    {
        var source = new DatasetSource { Path = TestAssets.Path("assets/data-torchtune-tiny/hh_rlhf_tiny.json"), Type = DatasetType.ChatTemplate };
        var pair = Assert.Single(Dataset.LoadPairs([source], Options("chatml"), Stories()).Items);
        Assert.Contains("Fix the hole.", Stories().Decode(pair.Chosen), StringComparison.Ordinal);
        Assert.Contains("Take them off.", Stories().Decode(pair.Rejected), StringComparison.Ordinal);
    }

    [Fact]
    public void Published_preference_file_is_read_whole_but_for_its_equal_pairs()
    {
        var (pairs, reports) = Dataset.LoadPairs([new DatasetSource { Path = TestAssets.Path(Preference), Type = DatasetType.Alpaca }], Options(), Stories());
        Assert.Equal((1100, 1094, 0, 6), (reports[0].Rows, reports[0].Examples, reports[0].TooLong, reports[0].Equal));
        Assert.EndsWith("; 6 dropped: chosen and rejected are the same", reports[0].ToString(), StringComparison.Ordinal);
        Assert.All(pairs, pair => Assert.NotEqual(pair.Chosen, pair.Rejected));
        Assert.Equal(reports[0].Tokens, pairs.Sum(pair => (long)pair.ChosenExample.Length + pair.RejectedExample.Length));
        Assert.Equal(reports[0].TrainedTokens, pairs.Sum(pair => (long)pair.ChosenExample.TrainedTokens + pair.RejectedExample.TrainedTokens));
    }

    [Fact]
    public void Tokenised_forms_need_no_tokenizer()
    {
        var pair = Assert.Single(Dataset.LoadPairs([Source("""{"prompt_ids": [1, 2], "chosen_ids": [3, 9], "rejected_ids": [4, 9]}""", DatasetType.Tokenized)], Options(), null).Items);
        Assert.Equal([[1, 2], [3, 9], [4, 9]], new[] { pair.Prompt, pair.Chosen, pair.Rejected });
        Assert.Equal(0, pair.Margin);
        var liked = Assert.Single(Dataset.LoadLabelled([Source("""{"prompt_ids": [1, 2], "completion_ids": [3, 9], "label": true}""", DatasetType.Tokenized)], Options(), null).Items);
        Assert.Equal([[1, 2], [3, 9]], new[] { liked.Prompt, liked.Response });
        Assert.True(liked.IsDesirable);
        var prompt = Assert.Single(Dataset.LoadPrompts([Source("""{"input_ids": [1, 2], "answer": 72}""", DatasetType.Tokenized)], Options(), null).Items);
        Assert.Equal([1, 2], prompt.Ids);
        Assert.Equal("72", prompt.Fields["answer"]);
    }

    [Theory]
    [InlineData(DatasetType.PromptCompletion, "a.jsonl", """{"prompt": "Once", "completion": " upon", "label": false}""")]
    [InlineData(DatasetType.PromptCompletion, "a.csv", "prompt,completion,label\nOnce, upon,False")]
    [InlineData(DatasetType.Alpaca, "a.jsonl", """{"instruction": "Tell.", "output": "Once", "label": 0}""")]
    [InlineData(DatasetType.ChatTemplate, "a.jsonl", $$"""{"messages": [{{Ask}}, {{Bad}}], "label": false}""")]
    [InlineData(DatasetType.ChatTemplate, "a.jsonl", $$"""{"prompt": [{{Ask}}], "completion": [{{Bad}}], "label": false}""")]
    public void Labelled_response_has_the_tokens_of_supervised_training(DatasetType type, string name, string row)
    {
        var source = Source(row, type, name);
        var liked = Assert.Single(Dataset.LoadLabelled([source], Options("chatml"), Stories()).Items);
        Assert.False(liked.IsDesirable);
        var supervised = type == DatasetType.ChatTemplate ? Source($$"""{"messages": [{{Ask}}, {{Bad}}]}""", type) : source;
        Assert.Equal(Assert.Single(Dataset.Load([supervised], Options("chatml"), Stories()).Examples).Labels, liked.Example.Labels);
    }

    [Fact]
    public void Pair_is_two_labelled_responses()
    {
        var source = Source("""{"prompt": "Once", "chosen": " upon", "rejected": " up"}""", DatasetType.PromptCompletion);
        var (items, reports) = Dataset.LoadLabelled([source], Options(), Stories());
        var pair = Assert.Single(Dataset.LoadPairs([source], Options(), Stories()).Items);
        Assert.Equal([true, false], items.Select(item => item.IsDesirable));
        Assert.Equal(pair.Chosen, items[0].Response);
        Assert.Equal(pair.Rejected, items[1].Response);
        Assert.Equal((1, 2), (reports[0].Rows, reports[0].Examples));
    }

    [Fact]
    public void Prompt_keeps_the_other_fields_of_its_row_as_text()
    {
        var source = Source("""{"question": "How many?", "answer": "72", "level": 3, "easy": true, "tags": ["a"], "none": null}""", DatasetType.PromptCompletion) with { FieldInstruction = "question" };
        var (prompts, reports) = Dataset.LoadPrompts([source], Options(), Stories());
        var prompt = Assert.Single(prompts);
        Assert.Equal(Stories().Encode("How many?"), prompt.Ids);
        Assert.Equal("How many?", prompt.Text);
        Assert.Equal(new Dictionary<string, string> { ["answer"] = "72", ["level"] = "3", ["easy"] = "true" }, prompt.Fields);
        Assert.Equal($"{source.Path}: 1 rows -> 1 prompts, {prompt.Ids.Length} tokens", reports[0].ToString());
    }

    [Theory]
    [InlineData(DatasetType.Alpaca, """{"instruction": "Tell.", "input": "x", "output": "y"}""")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"prompt": [{{Ask}}], "output": "y"}""")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"messages": [{{Ask}}], "output": "y"}""")]
    public void Prompt_is_written_as_in_training(DatasetType type, string row)
    {
        var prompt = Assert.Single(Dataset.LoadPrompts([Source(row, type)], Options("chatml"), Stories()).Items);
        string expected = type == DatasetType.Alpaca ? AlpacaPrompt.Text("Tell.", "x") : ChatTemplate.Named("chatml").Render([new ChatMessage("user", "Hi.")]);
        Assert.Equal(expected, prompt.Text);
        Assert.Equal(Stories().Encode(expected), prompt.Ids);
        Assert.Equal("y", Assert.Single(prompt.Fields).Value);
    }

    [Fact]
    public void Long_pairs_are_dropped_whole_and_counted()
    {
        // Four tokens are allowed: the second row's chosen and the third row's rejected response go past them.
        const string rows = """
            {"prompt_ids": [1, 2], "chosen_ids": [3, 9], "rejected_ids": [4, 9]}
            {"prompt_ids": [1, 2], "chosen_ids": [3, 3, 9], "rejected_ids": [9]}
            {"prompt_ids": [1, 2], "chosen_ids": [9], "rejected_ids": [3, 3, 9]}
            """;
        var options = new DatasetOptions { SequenceLength = 4 };
        var source = Source(rows, DatasetType.Tokenized);
        var (pairs, reports) = Dataset.LoadPairs([source], options, null);
        Assert.Equal((1, 3, 2, 8L, 4L), (pairs.Count, reports[0].Rows, reports[0].TooLong, reports[0].Tokens, reports[0].TrainedTokens));
        Assert.EndsWith("-> 1 pairs, 8 tokens, 4 trained on; 2 dropped: longer than sequence_len", reports[0].ToString(), StringComparison.Ordinal);
        Assert.Equal(2, Dataset.LoadLabelled([source], options, null).Items.Count);
        string raised = Assert.Throws<InvalidDataException>(() => Dataset.LoadPairs([source], options with { ExcessLength = ExcessLength.Raise }, null)).Message;
        Assert.StartsWith($"{source.Path}:2: the row has 5 tokens, expected at most sequence_len, 4", raised, StringComparison.Ordinal);
        Assert.Contains("Set drop or raise", Assert.Throws<ArgumentException>(() => Dataset.LoadPairs([source], options with { ExcessLength = ExcessLength.Truncate }, null)).Message, StringComparison.Ordinal);
        Assert.Contains("Nothing is left", Assert.Throws<InvalidDataException>(() => Dataset.LoadPairs([source], new DatasetOptions { SequenceLength = 2 }, null)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Long_prompts_are_dropped_and_counted()
    {
        var source = Source("""
            {"input_ids": [1, 2, 3]}
            {"input_ids": [1, 2]}
            """, DatasetType.Tokenized);
        var (prompts, reports) = Dataset.LoadPrompts([source], new DatasetOptions { SequenceLength = 2 }, null);
        Assert.Equal((1, 1), (prompts.Count, reports[0].TooLong));
        var reserved = new DatasetOptions { SequenceLength = 12, ReservedLength = 10, ReservedKey = "answers" };
        (prompts, reports) = Dataset.LoadPrompts([source], reserved, null);
        Assert.Equal((1, 1), (prompts.Count, reports[0].TooLong));
        Assert.EndsWith("1 dropped: longer than sequence_len less answers", reports[0].ToString(), StringComparison.Ordinal);
        Assert.StartsWith($"{source.Path}:1: the row has 3 tokens, expected at most 2: sequence_len, 12, less answers, 10. Shorten the row, raise sequence_len (12) or lower answers (10), or set ",
            Assert.Throws<InvalidDataException>(() => Dataset.LoadPrompts([source], reserved with { ExcessLength = ExcessLength.Raise }, null)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "chosen": "b"}""", "1: there is no field \"rejected\"; the row has prompt, chosen")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "chosen": "", "rejected": "b"}""", "1: chosen is empty, expected a response")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "chosen": "b", "rejected": 3}""", "1: field \"rejected\" is a number, expected text")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "chosen": "b", "rejected": "c", "margin": "much"}""", "1: field \"margin\" is text, expected a finite number")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "chosen": "b", "rejected": "c", "margin": 1e999}""", "1: field \"margin\" is a number, expected a finite number")]
    [InlineData(DatasetType.Tokenized, """{"prompt_ids": [], "chosen_ids": [1], "rejected_ids": [2]}""", "1: prompt_ids is empty, expected at least one token")]
    [InlineData(DatasetType.Tokenized, """{"prompt_ids": [1], "chosen_ids": [1], "rejected_ids": []}""", "1: rejected_ids is empty")]
    [InlineData(DatasetType.Tokenized, """{"prompt_ids": [1], "chosen_ids": [512], "rejected_ids": [2]}""", "1: chosen_ids has token 512, expected 0 ... 511")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"chosen": [{{Good}}], "rejected": [{{Bad}}]}""", "1: chosen and rejected have no message in common at their beginning")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"chosen": [{{Ask}}, {{Good}}, {{Ask}}], "rejected": [{{Ask}}, {{Bad}}]}""", "1: chosen has 2 messages where the conversations part")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"chosen": [{{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Ask}}]}""", "1: rejected has 1 messages where the conversations part, expected one answer of the assistant")]
    [InlineData(DatasetType.ChatTemplate, """{"chosen": "a", "rejected": "b"}""", "1: chosen and rejected have no message in common at their beginning")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "chosen": null, "rejected": "c"}""", "1: field \"chosen\" is null, expected a value")]
    public void Pair_that_is_wrong_is_named(DatasetType type, string row, string message)
    {
        var source = Source(row, type);
        Assert.StartsWith($"{source.Path}:{message}", Assert.Throws<InvalidDataException>(() => Dataset.LoadPairs([source], Options("chatml"), Stories())).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "completion": "b"}""", "1: there is no field \"label\"")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "completion": "b", "label": "good"}""", "1: field \"label\" is text, expected true or false")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "completion": "", "label": true}""", "1: completion is empty")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"messages": [{{Ask}}], "label": true}""", "1: the conversation does not end with an answer")]
    public void Labelled_response_that_is_wrong_is_named(DatasetType type, string row, string message)
    {
        var source = Source(row, type);
        Assert.StartsWith($"{source.Path}:{message}", Assert.Throws<InvalidDataException>(() => Dataset.LoadLabelled([source], Options("chatml"), Stories())).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(DatasetType.PromptCompletion, """{"text": "a"}""", "1: there is no field \"prompt\"; the row has text")]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a", "answer": "\ud800"}""", "1: a field's name or text is not valid Unicode")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"messages": [{{Ask}}, {{Good}}]}""", "1: the conversation ends with the assistant")]
    [InlineData(DatasetType.Tokenized, """{"input_ids": []}""", "1: input_ids is empty")]
    public void Prompt_that_is_wrong_is_named(DatasetType type, string row, string message)
    {
        var source = Source(row, type);
        Assert.StartsWith($"{source.Path}:{message}", Assert.Throws<InvalidDataException>(() => Dataset.LoadPrompts([source], Options("chatml"), Stories())).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Running_text_and_missing_tokenizers_are_refused()
    {
        Assert.Contains("has no prompt", Assert.Throws<ArgumentException>(() => Dataset.LoadPairs([Source("{}", DatasetType.Completion)], Options(), Stories())).Message, StringComparison.Ordinal);
        Assert.Contains("need a tokenizer", Assert.Throws<ArgumentException>(() => Dataset.LoadPairs([Source("{}", DatasetType.Alpaca)], Options(), null)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(DatasetType.PromptCompletion, """{"prompt": "a\u00e9", "chosen": "b", "rejected": "c", "margin": 1.5}""")]
    [InlineData(DatasetType.Tokenized, """{"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4], "margin": -1}""")]
    [InlineData(DatasetType.ChatTemplate, $$"""{"chosen": [{{Ask}}, {{Good}}], "rejected": [{{Ask}}, {{Bad}}]}""")]
    public void Mutated_pair_is_read_or_refused_with_its_file(DatasetType type, string text)
    {
        var tokenizer = Stories();
        Assert.Single(Dataset.LoadPairs([Source(text, type)], Options("chatml"), tokenizer).Items); // most damaged ones are refused, so the whole one must be readable
        Mutations.Of(text).Sample(mutated =>
        {
            var source = Source(mutated, type);
            try
            {
                _ = Dataset.LoadPairs([source], Options("chatml"), tokenizer);
                _ = Dataset.LoadLabelled([source], Options("chatml"), tokenizer);
            }
            catch (InvalidDataException refused)
            {
                Assert.StartsWith(source.Path, refused.Message, StringComparison.Ordinal);
            }
        }, iter: 300, threads: 1);
    }
}
