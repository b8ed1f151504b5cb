using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// Cuts a conversation, as its template writes it, into what the assistant said and everything else. The cuts come from the template itself, by writing ever
/// longer beginnings of the conversation: no search for marker texts, which fails where the data holds them or tokens merge across them.
/// </summary>
static class ChatTurns
{
    /// <summary>
    /// The texts in order, and whether each is trained on: the assistant's answers with the template's end-of-turn token. What follows the last answer is left out.
    /// </summary>
    /// <exception cref="InvalidDataException">The row has no messages of known roles, or none of the assistant at the end.</exception>
    public static List<(string Text, bool Trained)> Of(DataRow row, DatasetSource source, ChatTemplate template)
    {
        var messages = Messages(row, source.FieldMessages ?? "messages", source);
        if (messages.Count == 0 || messages[^1].Role != "assistant")
        {
            throw row.Problem("the conversation does not end with the assistant, expected its answer as the last message. Complete or remove the row.");
        }

        List<(string, bool)> parts = [];
        int done = 0;
        for (int i = 0; i < messages.Count; i++)
        {
            if (messages[i].Role != "assistant")
            {
                continue;
            }

            var (prompt, answer) = Turn(messages[..(i + 1)], template, isLast: i + 1 == messages.Count);
            parts.Add((prompt[done..], false));
            parts.Add((answer, true));
            done = prompt.Length + answer.Length;
        }

        return parts;
    }

    /// <summary>Everything before the last message, which is the assistant's, and what it says, with the template's end-of-turn token.</summary>
    public static (string Prompt, string Answer) Turn(List<ChatMessage> messages, ChatTemplate template, bool isLast = true)
    {
        string prompt = template.Render(messages[..^1], addGenerationPrompt: true);
        string answered = template.Render(messages, addGenerationPrompt: false);
        int end = template.EndOfTurn is { } token
            ? answered.LastIndexOf(token, StringComparison.Ordinal) + token.Length
            : isLast ? answered.TrimEnd('\n').Length : answered.Length;
        return (prompt, answered[prompt.Length..Math.Max(end, prompt.Length)]);
    }

    /// <summary>The messages of a field.</summary>
    /// <exception cref="InvalidDataException">It is absent, or no list of messages of known roles.</exception>
    public static List<ChatMessage> Messages(DataRow row, string field, DatasetSource source) => [.. row.Rows(field).Select(message => Message(message, source))];

    // The names of roles that Axolotl knows without being told.
    static ChatMessage Message(DataRow message, DatasetSource source)
    {
        string role = message.Text(source.MessageRole ?? "role");
        string name = role switch { "human" => "user", "gpt" => "assistant", _ => role };
        return name is "system" or "user" or "assistant"
            ? new ChatMessage(name, message.Text(source.MessageContent ?? "content"))
            : throw message.Problem($"a message has role \"{role}\", expected system, user or assistant. Rename or remove it.");
    }
}
