using System.Text;
using IlgpuPeft.Data;
using IlgpuPeft.Text;

namespace IlgpuPeft.Cli;

/// <summary>Tokenised rows as people read them, with every run of trained tokens in ⟦ ⟧, and as <c>type: tokenized</c> reads them.</summary>
/// <param name="tokenizer">Turns tokens into text; null shows ids.</param>
sealed class DataView(Tokenizer? tokenizer)
{
    public static string Of(Example example, DataView view) =>
        $"--- {example.File}:{example.Line}: {example.Length} tokens, {example.TrainedTokens} trained on\n{view.Marked(example)}";

    public static string Of(PreferencePair pair, DataView view) =>
        $"--- {pair.File}:{pair.Line}: {pair.Prompt.Length} tokens of prompt, {pair.Chosen.Length} chosen, {pair.Rejected.Length} rejected\n{view.Text(pair.Prompt)}\n" +
        $"chosen: ⟦{view.Text(pair.Chosen)}⟧\nrejected: ⟦{view.Text(pair.Rejected)}⟧";

    public static string Of(LabelledResponse row, DataView view) =>
        $"--- {row.File}:{row.Line}: {row.Prompt.Length} tokens of prompt, {row.Response.Length} of response, {(row.IsDesirable ? "liked" : "not liked")}\n{view.Marked(row.Example)}";

    public static string Of(Prompt prompt, DataView view) =>
        $"--- {prompt.File}:{prompt.Line}: {prompt.Ids.Length} tokens of prompt\n{view.Text(prompt.Ids)}{string.Concat(prompt.Fields.Select(field => $"\n{field.Key}: {field.Value}"))}";

    public static object Row(Example example) => new { example.InputIds, example.Labels, example.File, example.Line };

    public static object Row(PreferencePair pair) => new { PromptIds = pair.Prompt, ChosenIds = pair.Chosen, RejectedIds = pair.Rejected, pair.Margin, pair.File, pair.Line };

    public static object Row(LabelledResponse row) => new { PromptIds = row.Prompt, CompletionIds = row.Response, Label = row.IsDesirable, row.File, row.Line };

    // Fields keep their names beside the tokens: rules look for them there.
    public static object Row(Prompt prompt)
    {
        var row = new Dictionary<string, object> { ["input_ids"] = prompt.Ids, ["file"] = prompt.File, ["line"] = prompt.Line };
        foreach (var (name, value) in prompt.Fields)
        {
            row.TryAdd(name, value);
        }

        return row;
    }

    string Text(int[] ids) => tokenizer is null ? string.Join(' ', ids) : tokenizer.Decode(ids, skipSpecialTokens: false);

    string Marked(Example example)
    {
        var text = new StringBuilder();
        bool inside = false;
        var decoder = tokenizer?.Stream(skipSpecialTokens: false);
        for (int i = 0; i < example.Length; i++)
        {
            bool trained = i > 0 && example.Labels[i] != Example.Untrained;
            text.Append(trained == inside ? "" : trained ? "⟦" : "⟧").Append(decoder is null ? $"{example.InputIds[i]} " : decoder.Push(example.InputIds[i]));
            inside = trained;
        }

        return text.Append(decoder?.Flush()).Append(inside ? "⟧" : "").ToString();
    }
}
