using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// Makes rows for trainers of texts that a program has in memory, with the tokens that the same texts get from <see cref="Dataset"/> when a file holds them as prompts and completions: the
/// beginning-of-sequence token once in front of the prompt, the end-of-sequence token once at the end of a response.
/// </summary>
public sealed class TextRows
{
    readonly RowTokenizer texts;
    readonly string name;
    int rows;

    /// <param name="tokenizer">The model's tokenizer.</param>
    /// <param name="name">What messages call the rows; their number, from 1, stands behind it.</param>
    /// <exception cref="ArgumentException">The tokenizer names no end-of-sequence token.</exception>
    public TextRows(Tokenizer tokenizer, string name = "rows")
    {
        texts = new RowTokenizer(new DatasetSource { Path = name, Type = DatasetType.PromptCompletion }, new DatasetOptions(), tokenizer);
        this.name = name;
    }

    /// <summary>A prompt and the response to learn, for supervised training.</summary>
    /// <exception cref="ArgumentException">The response is empty, or the prompt is and the tokenizer begins texts with no token.</exception>
    public Example Example(string prompt, string response)
    {
        rows++;
        return Data.Example.Of(PromptIds(prompt), Response(response), name, rows);
    }

    /// <summary>A prompt, the response that was preferred and the one that was not; <paramref name="margin"/> is by how much, 0 where nobody said.</summary>
    /// <exception cref="ArgumentException">As for <see cref="Example"/>.</exception>
    public PreferencePair Pair(string prompt, string chosen, string rejected, double margin = 0)
    {
        rows++;
        return new PreferencePair(PromptIds(prompt), Response(chosen), Response(rejected), margin, name, rows);
    }

    /// <summary>A prompt and a response that was liked or not.</summary>
    /// <exception cref="ArgumentException">As for <see cref="Example"/>.</exception>
    public LabelledResponse Labelled(string prompt, string response, bool isDesirable)
    {
        rows++;
        return new LabelledResponse(PromptIds(prompt), Response(response), isDesirable, name, rows);
    }

    /// <summary>A prompt for a policy to answer, and what else rewards are to know of it, by name.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, and the tokenizer begins texts with no token.</exception>
    public Prompt Prompt(string prompt, params ReadOnlySpan<(string Name, string Value)> fields)
    {
        rows++;
        return new Prompt(PromptIds(prompt), prompt, fields.ToArray().ToDictionary(field => field.Name, field => field.Value, StringComparer.Ordinal), name, rows);
    }

    int[] PromptIds(string prompt) => texts.Beginning(prompt) is { Length: > 0 } ids ? ids
        : throw new ArgumentException($"{name}:{rows}: the prompt is empty and the tokenizer begins texts with no token, expected at least one token before the response.", nameof(prompt));

    int[] Response(string response) => response.Length > 0 ? texts.Response(response) : throw new ArgumentException($"{name}:{rows}: a response is empty, expected a text.", nameof(response));
}
