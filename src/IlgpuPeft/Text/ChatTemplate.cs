using System.Text;

namespace IlgpuPeft.Text;

/// <summary>One turn of a conversation.</summary>
/// <param name="Role"><c>system</c>, <c>user</c> or <c>assistant</c>.</param>
/// <param name="Content">What was said.</param>
public readonly record struct ChatMessage(string Role, string Content);

/// <summary>A built-in way to write a conversation as text. The text leaves out the bos token, which <see cref="Tokenizer.Encode"/> adds where the model has one.</summary>
public sealed class ChatTemplate
{
    const string AlpacaPreamble = "Below is an instruction that describes a task. Write a response that appropriately completes the request.";

    static readonly ChatTemplate[] All =
    [
        new("chatml", "<|im_end|>", message => $"<|im_start|>{message.Role}\n{message.Content}<|im_end|>\n", "<|im_start|>assistant\n"),
        new("llama3", "<|eot_id|>", message => $"<|start_header_id|>{message.Role}<|end_header_id|>\n\n{message.Content.Trim()}<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n"),
        new("alpaca", null, message => message.Role switch
        {
            "system" => $"{message.Content}\n\n",
            "user" => $"### Instruction:\n{message.Content}\n\n",
            _ => $"### Response:\n{message.Content}\n\n",
        }, "### Response:\n"),
        new("plain", null, message => $"{message.Content}\n", ""),
    ];

    readonly Func<ChatMessage, string> turn;
    readonly string generationPrompt;

    ChatTemplate(string name, string? endOfTurn, Func<ChatMessage, string> turn, string generationPrompt)
    {
        (Name, EndOfTurn) = (name, endOfTurn);
        (this.turn, this.generationPrompt) = (turn, generationPrompt);
    }

    /// <summary>The name: <c>chatml</c>, <c>llama3</c>, <c>alpaca</c> or <c>plain</c>.</summary>
    public string Name { get; }

    /// <summary>The token that ends a turn, at which generation should stop besides eos; null where the format has none.</summary>
    public string? EndOfTurn { get; }

    /// <summary>The template with a name.</summary>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static ChatTemplate Named(string name) => All.FirstOrDefault(template => template.Name == name)
        ?? throw new ArgumentException($"ChatTemplate: there is no template '{name}', expected one of {string.Join(", ", All.Select(template => template.Name))}.", nameof(name));

    /// <summary>The built-in template that a model's own Jinja source amounts to, judged by its marker tokens. The source is not evaluated: what it adds beyond turns
    /// (a default system prompt, dates, tools) is not reproduced.</summary>
    /// <param name="source"><see cref="Tokenizer.ChatTemplateSource"/>.</param>
    /// <exception cref="NotSupportedException">There is no source, or it has the markers of no built-in template.</exception>
    public static ChatTemplate Detect(string? source)
    {
        if (source is null)
        {
            throw new NotSupportedException($"ChatTemplate: the model has no chat template. Choose one by name: {string.Join(", ", All.Select(template => template.Name))}.");
        }

        return source.Contains("<|im_start|>", StringComparison.Ordinal) ? Named("chatml")
            : source.Contains("<|start_header_id|>", StringComparison.Ordinal) ? Named("llama3")
            : throw new NotSupportedException("ChatTemplate: this version does not evaluate Jinja templates, and the model's has the markers of no built-in one. "
                + $"Choose one by name: {string.Join(", ", All.Select(template => template.Name))}.");
    }

    /// <summary>The text of a conversation.</summary>
    /// <param name="messages">The turns in order.</param>
    /// <param name="addGenerationPrompt">Whether to open a turn of the assistant at the end.</param>
    /// <exception cref="ArgumentException">A role is not known.</exception>
    public string Render(IReadOnlyList<ChatMessage> messages, bool addGenerationPrompt = true)
    {
        var text = new StringBuilder(Name == "alpaca" && (messages.Count == 0 || messages[0].Role != "system") ? $"{AlpacaPreamble}\n\n" : "");
        foreach (ChatMessage message in messages)
        {
            text.Append(message.Role is "system" or "user" or "assistant"
                ? turn(message)
                : throw new ArgumentException($"ChatTemplate: a message has role '{message.Role}', expected system, user or assistant.", nameof(messages)));
        }

        return text.Append(addGenerationPrompt ? generationPrompt : "").ToString();
    }
}
