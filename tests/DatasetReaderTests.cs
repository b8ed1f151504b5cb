using IlgpuPeft.Data;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>How data files are read, whatever their rows mean.</summary>
public sealed class DatasetReaderTests : IDisposable
{
    readonly TempFolder folder = new();

    public void Dispose() => folder.Dispose();

    DatasetSource Source(string name, string text)
    {
        File.WriteAllText(folder.File(name), text);
        return new DatasetSource { Path = folder.File(name) };
    }

    [Fact]
    public void Bytes_that_are_not_utf8_in_an_array_have_their_line()
    {
        string path = folder.File("a.json");
        File.WriteAllBytes(path, [0xEF, 0xBB, 0xBF, .. "[{\"text\": \"é\"},\n\n{\"text\": \"ab"u8, 0xE9, .. "cd\"},\n{}]"u8]);
        Assert.StartsWith($"{path}:3: there are bytes that are not UTF-8 text. ",
            Assert.Throws<InvalidDataException>(() => DatasetReader.Read(new DatasetSource { Path = path }, TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("a.jsonl", "{\"input_ids\": [1]}\n{\"input_ids\": [2]}\n")]
    [InlineData("a.json", "[{\"input_ids\": [1]}, {\"input_ids\": [2]}]")]
    [InlineData("a.csv", "input_ids\n1\n2\n")]
    public void Reading_stops_between_rows_when_asked_to(string name, string text)
    {
        using var stop = new CancellationTokenSource();
        int rows = 0;
        Assert.Throws<OperationCanceledException>(() =>
        {
            foreach (var row in DatasetReader.Read(Source(name, text), stop.Token))
            {
                rows++;
                stop.Cancel();
            }
        });
        Assert.Equal(1, rows);
        Assert.Throws<OperationCanceledException>(() => DatasetReader.Read(Source(name, text), stop.Token).Count());
    }

    [Fact]
    public void Errors_advise_in_the_words_of_who_named_the_file()
    {
        var (options, stories) = (new DatasetOptions(), Tokenizer.Load(TestAssets.Path("assets/stories260k-hf")));
        var source = Source("a.jsonl", "{\"text\": 5}") with { Type = DatasetType.Completion, Hints = new DatasetHints("Look there.", "Say so.", "Say which.") };
        Assert.EndsWith("Say which.", Assert.Throws<InvalidDataException>(() => Dataset.Load([source with { Field = "body" }], options, stories)).Message, StringComparison.Ordinal);
        Assert.EndsWith("Say which.", Assert.Throws<InvalidDataException>(() => Dataset.Load([source], options, stories)).Message, StringComparison.Ordinal);
        Assert.EndsWith("Look there.", Assert.Throws<FileNotFoundException>(() => Dataset.Load([source with { Path = source.Path + "l" }], options, stories)).Message, StringComparison.Ordinal);
        File.Copy(source.Path, source.Path + ".txt");
        Assert.EndsWith("Say so.", Assert.Throws<InvalidDataException>(() => Dataset.Load([source with { Path = source.Path + ".txt" }], options, stories)).Message, StringComparison.Ordinal);
    }
}
