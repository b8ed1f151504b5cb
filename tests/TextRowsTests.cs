using IlgpuPeft.BuiltIn;
using IlgpuPeft.Data;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Rows of texts in memory are those of the same texts in a file.</summary>
public sealed class TextRowsTests : IDisposable
{
    readonly TempFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Theory]
    [InlineData("built-in")]
    [InlineData("assets/stories260k-hf")]
    public void Rows_ofTexts_areThoseOfAFile(string model)
    {
        var tokenizer = Load(model);
        DatasetSource Source(string row)
        {
            File.WriteAllText(folder.File("rows.jsonl"), row);
            return new DatasetSource { Path = folder.File("rows.jsonl"), Type = DatasetType.PromptCompletion };
        }

        var options = new DatasetOptions();
        var rows = new TextRows(tokenizer, "mine");

        var example = rows.Example("the plural", " of cat");
        var exampleInFile = Dataset.Load([Source("""{"prompt": "the plural", "completion": " of cat"}""")], options, tokenizer).Examples[0];
        Assert.Equal(exampleInFile.InputIds, example.InputIds);
        Assert.Equal(exampleInFile.Labels, example.Labels);

        var pair = rows.Pair("the plural", " of cat", " of", margin: 0.5);
        var pairInFile = Dataset.LoadPairs([Source("""{"prompt": "the plural", "chosen": " of cat", "rejected": " of", "margin": 0.5}""")], options, tokenizer).Items[0];
        Assert.Equal([pairInFile.Prompt, pairInFile.Chosen, pairInFile.Rejected], [pair.Prompt, pair.Chosen, pair.Rejected]);
        Assert.Equal(pairInFile.Margin, pair.Margin);

        var labelled = rows.Labelled("the plural", " of cat", isDesirable: true);
        var labelledInFile = Dataset.LoadLabelled([Source("""{"prompt": "the plural", "completion": " of cat", "label": true}""")], options, tokenizer).Items[0];
        Assert.Equal([labelledInFile.Prompt, labelledInFile.Response], [labelled.Prompt, labelled.Response]);
        Assert.True(labelled.IsDesirable);

        var prompt = rows.Prompt("the plural", ("answer", "cats"), ("kind", "animal"));
        var promptInFile = Dataset.LoadPrompts([Source("""{"prompt": "the plural", "answer": "cats", "kind": "animal"}""")], options, tokenizer).Items[0];
        Assert.Equal(promptInFile.Ids, prompt.Ids);
        Assert.Equal(promptInFile.Text, prompt.Text);
        Assert.Equal(promptInFile.Fields.OrderBy(field => field.Key), prompt.Fields.OrderBy(field => field.Key));

        Assert.Equal(["mine:1", "mine:2", "mine:3", "mine:4"], [$"{example.File}:{example.Line}", $"{pair.File}:{pair.Line}", $"{labelled.File}:{labelled.Line}", $"{prompt.File}:{prompt.Line}"]);
    }

    [Fact]
    public void Response_withoutText_isAnErrorThatNamesTheRow()
    {
        var rows = new TextRows(Load("built-in"));
        rows.Example("the plural", " of cat");

        Assert.Contains("rows:2: a response is empty", Assert.Throws<ArgumentException>(() => rows.Pair("the plural", "", " of")).Message, StringComparison.Ordinal);
    }

    Tokenizer Load(string model)
    {
        if (model != "built-in")
        {
            return Tokenizer.Load(TestAssets.Path(model));
        }

        BuiltInModel.Unpack(folder.Path);
        return Tokenizer.Load(folder.Path);
    }
}
