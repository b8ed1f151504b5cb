using System.Text.Json;
using CsCheck;
using IlgpuPeft.Data;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class DataTests : IDisposable
{
    readonly string folder = Directory.CreateTempSubdirectory("ilgpu-peft-data").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    DatasetSource Source(string name, string text, DatasetType type = DatasetType.Tokenized)
    {
        string path = Path.Combine(folder, name);
        File.WriteAllText(path, text);
        return new DatasetSource { Path = path, Type = type };
    }

    static Tokenizer Stories() => Tokenizer.Load(TestAssets.Path("assets/stories260k-hf"));

    static Dataset Load(DatasetSource source, DatasetOptions? options = null, Tokenizer? tokenizer = null) => Dataset.Load([source], options ?? new DatasetOptions(), tokenizer);

    string Error(string name, string text, DatasetType type = DatasetType.Tokenized, DatasetOptions? options = null)
    {
        var source = Source(name, text, type);
        return Assert.Throws<InvalidDataException>(() => Load(source, options, type == DatasetType.Tokenized ? null : Stories())).Message.Replace(source.Path, name, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2, 3]}\n\n{\"input_ids\": [4, 5]}\n", 1, 3)]
    [InlineData("a.jsonl", "\uFEFF{\"input_ids\": [1, 2, 3]}\r\n{\"input_ids\": [4, 5]}", 1, 2)]
    [InlineData("a.json", "[\n {\"input_ids\": [1, 2, 3]},\n\n {\"input_ids\":\n [4, 5]}]\n", 2, 4)]
    [InlineData("a.json", "  \n[{\"input_ids\": [1, 2, 3]}, {\"input_ids\": [4, 5]}]", 2, 2)]
    [InlineData("a.json", "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5]}", 1, 2)]
    public void Json_rows_have_their_lines(string name, string text, int first, int second)
    {
        var examples = Load(Source(name, text)).Examples;
        Assert.Equal([1, 2, 3], examples[0].InputIds);
        Assert.Equal([4, 5], examples[1].InputIds);
        Assert.Equal([first, second], examples.Select(example => example.Line));
    }

    [Fact]
    public void Csv_keeps_commas_quotes_and_line_ends_inside_quotes()
    {
        var source = Source("a.csv", "prompt,completion\r\n\"a, \"\"b\"\"\",\"c\nd\"\r\n\nx,y");
        var rows = DatasetReader.Read(source, TestContext.Current.CancellationToken).ToList();
        Assert.Equal(["a, \"b\"", "x"], rows.Select(row => row.Text("prompt")));
        Assert.Equal(["c\nd", "y"], rows.Select(row => row.Text("completion")));
        Assert.Equal([2, 5], rows.Select(row => row.Line));
    }

    [Theory]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2]}\nhello", "a.jsonl:2: the line is not a JSON object (character 1)")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2]}\n5", "a.jsonl:2: the line holds a JSON number, expected an object")]
    [InlineData("a.jsonl", "{\n \"input_ids\": [1, 2]}", "a.jsonl:1: the line is not a JSON object")]
    [InlineData("a.json", "[{\"input_ids\": [1, 2]},\n 7]", "a.json:2: the array holds a number, expected objects")]
    [InlineData("a.json", "[{\"input_ids\": [1, 2]},\n {]", "a.json:2: not valid JSON at character 3")]
    [InlineData("a.json", "[{\"input_ids\": [1, 2]}]\n x", "a.json:2: not valid JSON")]
    [InlineData("a.json", "[{\"input_ids\": [1, 2]}\n", "a.json:2: not valid JSON")]
    [InlineData("a.csv", "a,b\n1,2,3", "a.csv:2: the row has 3 fields, expected 2 as in the header")]
    [InlineData("a.csv", "a,a\n1,2", "a.csv:1: two columns have the same name")]
    [InlineData("a.csv", "a,b\n1,\"2", "a.csv:2: the quote that opens here is never closed")]
    [InlineData("a.csv", "a,b\n1,\"2\"3", "a.csv:2: field 2 goes on after its closing quote")]
    [InlineData("a.csv", "a,b\n1,2\"3", "a.csv:2: a quote stands inside an unquoted field")]
    [InlineData("a.csv", "input_ids\n1", "a.csv:2: field \"input_ids\" is text, expected a list of token numbers")]
    [InlineData("a.jsonl", "{\"ids\": [1], \"b\": 2}", "a.jsonl:1: there is no field \"input_ids\"; the row has ids, b")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, \"2\"]}", "a.jsonl:1: field \"input_ids\" holds text at index 1")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2.5]}", "a.jsonl:1: field \"input_ids\" holds a number at index 1")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2], \"labels\": [1]}", "a.jsonl:1: labels has 1 elements, expected 2")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2], \"attention_mask\": [1]}", "a.jsonl:1: attention_mask has 1 elements, expected 2")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, -2]}", "a.jsonl:1: input_ids has token -2, expected 0 ... 9")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 10]}", "a.jsonl:1: input_ids has token 10, expected 0 ... 9")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2], \"labels\": [-100, 11]}", "a.jsonl:1: labels has token 11, expected 0 ... 9")]
    [InlineData("a.jsonl", "", "a.jsonl: 0 rows -> 0 examples")]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2], \"labels\": [-100, -100]}", "a.jsonl: 1 rows -> 0 examples, 0 tokens, 0 trained on; 1 dropped: no trained token. Nothing is left to train on")]
    [InlineData("a.parquet", "PAR1", "a.parquet: Parquet and Arrow files are not supported")]
    [InlineData("a.txt", "x", "a.txt: cannot tell the format from \".txt\"")]
    public void Mistake_names_file_and_line(string name, string text, string message) =>
        Assert.StartsWith(message, Error(name, text, options: new DatasetOptions { VocabularySize = 10 }), StringComparison.Ordinal);

    [Theory]
    [InlineData("{\"text\": 5}", "a.jsonl:1: field \"text\" is a number, expected text")]
    [InlineData("{\"text\": null}", "a.jsonl:1: field \"text\" is null, expected a value. Complete or remove the row.")]
    [InlineData("{\"text\": \"\\ud800\"}", "a.jsonl:1: field \"text\" is not valid Unicode")]
    [InlineData("{\"\\ud800\": \"\"}", "a.jsonl:1: a field's name is not valid Unicode")]
    public void Text_field_that_is_wrong_is_named(string text, string message) =>
        Assert.StartsWith(message, Error("a.jsonl", text, DatasetType.Completion), StringComparison.Ordinal);

    [Fact]
    public void Bytes_that_are_not_utf8_are_an_error()
    {
        foreach (string name in new[] { "a.jsonl", "a.csv" })
        {
            string path = Path.Combine(folder, name);
            File.WriteAllBytes(path, [.. "{\"text\": \""u8, 0xFF, .. "\"}"u8]);
            Assert.Contains("not UTF-8", Assert.Throws<InvalidDataException>(() => DatasetReader.Read(new DatasetSource { Path = path }, TestContext.Current.CancellationToken).Count()).Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData("mhenrichsen/alpaca_2k_test", "datasets are not downloaded")]
    [InlineData("./none/data.jsonl", "there is no such file. Check the path.")]
    [InlineData(".", "is a folder, expected a data file")]
    public void Absent_file_says_what_to_do(string path, string message) =>
        Assert.Contains(message, Assert.Throws<FileNotFoundException>(() => DatasetReader.Read(new DatasetSource { Path = path }, TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);

    [Fact]
    public void Tokenized_rows_take_labels_and_lose_padding()
    {
        var example = Load(Source("a.jsonl", "{\"input_ids\": [0, 0, 5, 6, 7], \"labels\": [-100, -100, -100, 6, 7], \"attention_mask\": [0, 0, 1, 1, 1]}")).Examples[0];
        Assert.Equal([5, 6, 7], example.InputIds);
        Assert.Equal([-100, 6, 7], example.Labels);
        Assert.Equal(2, example.TrainedTokens);
    }

    [Fact]
    public void Text_without_a_tokenizer_is_refused() =>
        Assert.Contains("need a tokenizer", Assert.Throws<ArgumentException>(() => Load(Source("a.jsonl", "{}", DatasetType.Alpaca))).Message, StringComparison.Ordinal);

    [Fact]
    public void Alpaca_prompt_is_the_published_text()
    {
        // torchtune's copy of the data set holds the finished text: prompt, then output.
        using var rows = JsonDocument.Parse(File.ReadAllText(TestAssets.Path("assets/data-torchtune-tiny/alpaca_tiny.json")));
        int withInput = 0;
        foreach (var row in rows.RootElement.EnumerateArray())
        {
            string Field(string name) => row.GetProperty(name).GetString()!;
            withInput += Field("input").Length > 0 ? 1 : 0;
            Assert.Equal(Field("text"), AlpacaPrompt.Text(Field("instruction"), Field("input")) + Field("output"));
        }

        Assert.True(rows.RootElement.GetArrayLength() > withInput, "no row without an input");
    }

    [Fact]
    public void Alpaca_prompt_with_an_input_has_its_section() => Assert.Equal(
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request." +
        "\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n", AlpacaPrompt.Text("Add.", "1 2"));

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Alpaca_rows_train_on_the_output_and_one_end_token(bool trainOnInputs)
    {
        var tokenizer = Stories();
        int bos = tokenizer.Bos!.Value.Id, eos = tokenizer.Eos!.Value.Id;
        var source = new DatasetSource { Path = TestAssets.Path("assets/golden-axolotl/alpaca.json"), Type = DatasetType.Alpaca };
        var examples = Load(source, new DatasetOptions { SequenceLength = 4096, TrainOnInputs = trainOnInputs }, tokenizer).Examples;
        foreach (var (example, row) in examples.Zip(DatasetReader.Read(source, TestContext.Current.CancellationToken), (example, row) => (example, row)))
        {
            int[] prompt = tokenizer.Encode(AlpacaPrompt.Text(row.Text("instruction"), row.Text("input")));
            int[] response = [.. tokenizer.Encode(row.Text("output"), addSpecialTokens: false), eos];
            Assert.Equal([.. prompt, .. response], example.InputIds);
            Assert.Equal(trainOnInputs ? [.. prompt, .. response] : [.. prompt.Select(_ => Example.Untrained), .. response], example.Labels);
            Assert.Equal(bos, example.InputIds[0]);
            Assert.Equal((1, 1), (example.InputIds.Count(id => id == bos), example.InputIds.Count(id => id == eos)));
        }
    }

    [Theory]
    [InlineData("chatml", "<|im_start|>assistant\n", "The meaning of life is 42.<|im_end|>I agree.<|im_end|>", false)]
    [InlineData("alpaca", "### Response:\n", "The meaning of life is 42.\n\nI agree.", true)]
    public void Conversation_trains_on_the_assistants_turns(string template, string opening, string trained, bool endsWithEos)
    {
        var tokenizer = Stories();
        var source = new DatasetSource
        {
            Path = TestAssets.Path("assets/data-torchtune-tiny/chat_tiny.json"), Type = DatasetType.ChatTemplate, FieldMessages = "conversations", MessageRole = "from", MessageContent = "value",
        };
        var example = Load(source, new DatasetOptions { SequenceLength = 4096, ChatTemplate = ChatTemplate.Named(template) }, tokenizer).Examples[0];
        int[] labels = [.. example.Labels.Where(label => label != Example.Untrained)];
        Assert.Equal(trained, string.Concat(Runs(example).Select(run => tokenizer.Decode(run).TrimStart(' '))));
        Assert.Equal(endsWithEos, labels[^1] == tokenizer.Eos!.Value.Id);
        Assert.Equal(example.Labels[^1], example.InputIds[^1]);
        Assert.Contains(opening, tokenizer.Decode([.. example.InputIds.Where((_, i) => example.Labels[i] == Example.Untrained)]), StringComparison.Ordinal);
        Assert.Equal(tokenizer.Bos!.Value.Id, example.InputIds[0]);
    }

    static IEnumerable<int[]> Runs(Example example)
    {
        for (int start = 0; start < example.Length;)
        {
            bool trained = example.Labels[start] != Example.Untrained;
            int end = start;
            while (end < example.Length && example.Labels[end] != Example.Untrained == trained)
            {
                end++;
            }

            if (trained)
            {
                yield return example.InputIds[start..end];
            }

            start = end;
        }
    }

    [Theory]
    [InlineData("{\"messages\": []}", "a.jsonl:1: the conversation does not end with the assistant")]
    [InlineData("{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "a.jsonl:1: the conversation does not end with the assistant")]
    [InlineData("{\"messages\": \"a\"}", "a.jsonl:1: field \"messages\" is text, expected a list of objects")]
    [InlineData("{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}", "a.jsonl:1: a message has role \"tool\"")]
    [InlineData("{\"messages\": [{\"role\": \"user\"}]}", "a.jsonl:1: there is no field \"content\"; the row has role")]
    public void Conversation_that_is_wrong_is_named(string text, string message) => Assert.StartsWith(message,
        Error("a.jsonl", text, DatasetType.ChatTemplate, new DatasetOptions { ChatTemplate = ChatTemplate.Named("chatml") }), StringComparison.Ordinal);

    [Fact]
    public void Conversation_without_a_template_says_which_there_are() =>
        Assert.Contains("chatml", Assert.Throws<ArgumentException>(() => Load(Source("a.jsonl", "{}", DatasetType.ChatTemplate), tokenizer: Stories())).Message, StringComparison.Ordinal);

    [Fact]
    public void Spelled_out_special_tokens_are_not_doubled()
    {
        var tokenizer = Stories();
        var example = Load(Source("a.jsonl", "{\"prompt\": \"<s>Once\", \"completion\": \"upon</s>\"}", DatasetType.PromptCompletion), tokenizer: tokenizer).Examples[0];
        Assert.Equal(1, example.InputIds.Count(id => id == tokenizer.Bos!.Value.Id));
        Assert.Equal(1, example.InputIds.Count(id => id == tokenizer.Eos!.Value.Id));
        Assert.Equal(tokenizer.Eos!.Value.Id, example.InputIds[^1]);
    }

    [Fact]
    public void End_token_of_the_options_replaces_the_tokenizers()
    {
        var example = Load(Source("a.jsonl", "{\"text\": \"Once\"}", DatasetType.Completion), new DatasetOptions { EosId = 7 }, Stories()).Examples[0];
        Assert.Equal(7, example.InputIds[^1]);
    }

    [Fact]
    public void Completion_pieces_cover_a_long_text_with_every_token_trained_once()
    {
        var tokenizer = Stories();
        string text = string.Concat(Enumerable.Range(0, 60).Select(i => $"word {i}. "));
        var source = Source("a.jsonl", JsonSerializer.Serialize(new { text }), DatasetType.Completion);
        int[] whole = [.. tokenizer.Encode(text), tokenizer.Eos!.Value.Id];
        foreach (int length in new[] { 2, 7, 32, whole.Length - 1, whole.Length })
        {
            var (examples, reports) = Load(source, new DatasetOptions { SequenceLength = length }, tokenizer);
            Assert.Equal(whole, examples.SelectMany((example, i) => i == 0 ? example.InputIds : example.InputIds[1..]));
            Assert.All(examples, example => Assert.InRange(example.Length, 2, length));
            Assert.Equal((1, examples.Count, 0, (long)whole.Length - 1), (reports[0].Rows, reports[0].Examples, reports[0].Truncated, reports[0].TrainedTokens));
        }
    }

    [Theory]
    [InlineData(ExcessLength.Drop, 2, 2, 0, 1)]
    [InlineData(ExcessLength.Truncate, 3, 0, 2, 2)]
    public void Long_and_untrained_rows_are_counted(ExcessLength strategy, int examples, int tooLong, int truncated, int untrained)
    {
        // With 4 tokens allowed: row 2 is too long, row 3 has no trained token that is predicted, row 5 is too long and has none once it is cut.
        var source = Source("a.jsonl", """
            {"input_ids": [1, 2, 3]}
            {"input_ids": [1, 2, 3, 4, 5]}
            {"input_ids": [1, 2], "labels": [1, -100]}
            {"input_ids": [1, 2, 3, 4]}
            {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, -100, -100, 5]}
            """);
        var report = Load(source, new DatasetOptions { SequenceLength = 4, ExcessLength = strategy }).Reports[0];
        Assert.Equal((5, examples, tooLong, truncated, untrained), (report.Rows, report.Examples, report.TooLong, report.Truncated, report.Untrained));
        Assert.Contains($"{untrained} dropped: no trained token", report.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void Long_row_is_an_error_where_asked() =>
        Assert.StartsWith("a.jsonl:1: the row has 3 tokens, expected at most sequence_len, 2",
            Error("a.jsonl", "{\"input_ids\": [1, 2, 3]}", options: new DatasetOptions { SequenceLength = 2, ExcessLength = ExcessLength.Raise }), StringComparison.Ordinal);

    [Theory]
    [InlineData("assets/data-rasbt/instruction-data.json", DatasetType.Alpaca, null, null, 1100)]
    [InlineData("assets/data-gsm8k/train-first2000.jsonl", DatasetType.PromptCompletion, "question", "answer", 2000)]
    [InlineData("assets/data-wikisql-mlx/train.jsonl", DatasetType.Completion, null, null, 1000)]
    public void Real_files_are_read_whole(string file, DatasetType type, string? instruction, string? output, int rows)
    {
        var source = new DatasetSource { Path = TestAssets.Path(file), Type = type, FieldInstruction = instruction, FieldOutput = output };
        var tokenizer = Stories();
        var (examples, reports) = Load(source, new DatasetOptions { SequenceLength = 100_000, VocabularySize = tokenizer.VocabularySize }, tokenizer);
        Assert.Equal((rows, rows), (reports[0].Rows, reports[0].Examples));
        Assert.Equal(reports[0].TrainedTokens, examples.Sum(example => (long)example.TrainedTokens));
        Assert.All(examples, example => Assert.Equal(tokenizer.Eos!.Value.Id, example.Labels[^1]));
    }

    [Fact]
    public void Order_is_a_permutation_that_differs_by_epoch_and_seed() => Gen.Select(Gen.Int[1, 200], Gen.ULong, Gen.Int[0, 50]).Sample((count, seed, epoch) =>
    {
        var order = new DataOrder(count, seed, shuffle: true);
        int[] items = order.Take(new DataPosition(epoch, 0), count).Items;
        Assert.Equal(Enumerable.Range(0, count), items.Order());
        Assert.Equal(items, new DataOrder(count, seed, shuffle: true).Take(new DataPosition(epoch, 0), count).Items);
        if (count >= 20)
        {
            Assert.NotEqual(items, order.Take(new DataPosition(epoch + 1, 0), count).Items);
            Assert.NotEqual(items, new DataOrder(count, seed + 1, shuffle: true).Take(new DataPosition(epoch, 0), count).Items);
        }
    }, iter: 300, threads: 1);

    [Fact]
    public void Order_puts_every_item_everywhere_equally_often()
    {
        const int count = 6, epochs = 6_000;
        var order = new DataOrder(count, 1, shuffle: true);
        int[,] seen = new int[count, count];
        for (int epoch = 0; epoch < epochs; epoch++)
        {
            foreach (var (item, place) in order.Take(new DataPosition(epoch, 0), count).Items.Select((item, place) => (item, place)))
            {
                seen[item, place]++;
            }
        }

        // Each cell is binomial with mean 1000 and deviation 29; 6 deviations leave a fixed seed no excuse.
        Assert.All(seen.Cast<int>(), times => Assert.InRange(times, 825, 1175));
    }

    [Fact]
    public void Resumed_order_goes_on_where_it_stopped()
    {
        var order = new DataOrder(7, 3, shuffle: true);
        List<int[]> batches = [];
        for (var at = default(DataPosition); at.Epoch < 3;)
        {
            (int[] items, at) = order.Take(at, 3);
            batches.Add(items);
        }

        Assert.Equal([3, 3, 1, 3, 3, 1, 3, 3, 1], batches.Select(batch => batch.Length));
        var (resumed, next) = new DataOrder(7, 3, shuffle: true).Take(new DataPosition(1, 3), 3);
        Assert.Equal(batches[4], resumed);
        Assert.Equal(new DataPosition(1, 6), next);
        Assert.Throws<ArgumentOutOfRangeException>(() => order.Take(new DataPosition(0, 7), 1));
    }

    [Fact]
    public void Unshuffled_order_is_file_order() => Assert.Equal([2, 3], new DataOrder(5, 9, shuffle: false).Take(new DataPosition(4, 2), 2).Items);

    [Theory]
    [InlineData(10, 0.25, 3)]
    [InlineData(10, 0, 0)]
    [InlineData(10, 4, 4)]
    public void Split_takes_a_fraction_or_a_count(int count, double size, int expected)
    {
        var (train, validation) = DataOrder.Split(count, size, 42);
        Assert.Equal(expected, validation.Length);
        Assert.Equal(Enumerable.Range(0, count), train.Concat(validation).Order());
        Assert.Equal(train.Order(), train);
        Assert.Equal(validation, DataOrder.Split(count, size, 42).Validation);
    }

    [Theory]
    [InlineData(10, 10)]
    [InlineData(1, 0.1)]
    [InlineData(10, -1)]
    public void Split_that_leaves_nothing_is_refused(int count, double size) => Assert.Throws<ArgumentException>(() => DataOrder.Split(count, size, 1));

    [Theory]
    [InlineData("a.jsonl", "{\"input_ids\": [1, 2, 3], \"labels\": [-100, 2, 3], \"text\": \"a\\u00e9\"}\n{\"input_ids\": [4, 5]}\n")]
    [InlineData("a.json", "[{\"input_ids\": [1, 2, 3], \"labels\": [-100, 2, 3]},\n {\"input_ids\": [4, 5], \"attention_mask\": [1, 1]}]")]
    [InlineData("a.csv", "input_ids,text\n1,\"a \"\"b\"\"\"\n2,c\r\n")]
    [InlineData("a.csv", "prompt,completion\n1,\"a \"\"b\"\"\"\n2,c\r\n", DatasetType.PromptCompletion)]
    [InlineData("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\\u00e9\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}", DatasetType.ChatTemplate)]
    public void Mutated_file_is_read_or_refused_with_its_name(string name, string text, DatasetType type = DatasetType.Tokenized)
    {
        var tokenizer = type == DatasetType.Tokenized ? null : Stories();
        var options = new DatasetOptions { ChatTemplate = ChatTemplate.Named("chatml") };
        if (!text.StartsWith("input_ids,", StringComparison.Ordinal)) // ids in a CSV are always refused
        {
            Assert.NotEmpty(Load(Source(name, text, type), options, tokenizer).Examples); // most damaged files are refused, so the whole one must be readable
        }

        Mutations.Of(text).Sample(mutated =>
        {
            var source = Source(name, mutated, type);
            try
            {
                _ = Load(source, options, tokenizer);
            }
            catch (InvalidDataException refused)
            {
                Assert.StartsWith(source.Path, refused.Message, StringComparison.Ordinal);
            }
        }, iter: 500, threads: 1);
    }
}
