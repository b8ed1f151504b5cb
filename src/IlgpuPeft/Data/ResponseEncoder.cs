using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// Turns rows of one source into prompts with the responses that preference and policy methods learn from. Prompt and response have the tokens that <see cref="RowEncoder"/> gives them in
/// supervised training.
/// </summary>
sealed class ResponseEncoder
{
    const string ByTokenizer = "the tokenizer gives";

    readonly DatasetSource source;
    readonly RowTokenizer texts;

    /// <exception cref="ArgumentException">
    /// The source holds running text, or holds text and there is no tokenizer or no end-of-sequence token; or it holds conversations, no template is named, and the tokenizer's own is not
    /// built in.
    /// </exception>
    public ResponseEncoder(DatasetSource source, DatasetOptions options, Tokenizer? tokenizer)
    {
        if (source.Type == DatasetType.Completion)
        {
            throw new ArgumentException($"{source.Path}: type: completion is running text, which has no prompt. Use type: prompt_completion, alpaca, chat_template or tokenized.", nameof(source));
        }

        (this.source, texts) = (source, new RowTokenizer(source, options, tokenizer));
    }

    string Chosen => source.FieldChosen ?? "chosen";

    string Rejected => source.FieldRejected ?? "rejected";

    /// <summary>The prompt of a row, its preferred response and the other; an optional field <c>margin</c> says by how much.</summary>
    /// <exception cref="InvalidDataException">A field is absent, of the wrong kind or empty, conversations do not part at their last answer, or a token id is outside the vocabulary.</exception>
    public PreferencePair Pair(DataRow row)
    {
        double margin = row.OptionalNumber("margin") ?? 0;
        if (source.Type == DatasetType.Tokenized)
        {
            return new PreferencePair(Ids(row, "prompt_ids"), Ids(row, "chosen_ids"), Ids(row, "rejected_ids"), margin, row.File, row.Line);
        }

        if (source.Type == DatasetType.ChatTemplate)
        {
            var (prompt, chosen, rejected) = Conversations(row);
            var (before, answer) = Turn([.. prompt, chosen]);
            return new PreferencePair(PromptIds(row, before), Response(row, answer, Chosen), Response(row, Turn([.. prompt, rejected]).Answer, Rejected), margin, row.File, row.Line);
        }

        return new PreferencePair(PromptIds(row, PromptText(row)), Response(row, row.Text(Chosen), Chosen), Response(row, row.Text(Rejected), Rejected), margin, row.File, row.Line);
    }

    /// <summary>A row with a response and whether it was liked, or a row with a pair as its two responses.</summary>
    /// <exception cref="InvalidDataException">As for <see cref="Pair"/>.</exception>
    public IReadOnlyList<LabelledResponse> Labelled(DataRow row)
    {
        if (row.Has(source.Type == DatasetType.Tokenized ? "chosen_ids" : Chosen))
        {
            var pair = Pair(row);
            return IsEqual(pair) ? [] :
                [new LabelledResponse(pair.Prompt, pair.Chosen, true, row.File, row.Line), new LabelledResponse(pair.Prompt, pair.Rejected, false, row.File, row.Line)];
        }

        bool liked = row.Boolean(source.FieldLabel ?? "label");
        var (prompt, response) = source.Type switch
        {
            DatasetType.Tokenized => (Ids(row, "prompt_ids"), Ids(row, "completion_ids")),
            DatasetType.ChatTemplate => Answered(row),
            _ => (PromptIds(row, PromptText(row)), Response(row, row.Text(ResponseField), ResponseField)),
        };
        return [new LabelledResponse(prompt, response, liked, row.File, row.Line)];
    }

    /// <summary>The prompt of a row, and its other texts, numbers and booleans by name.</summary>
    /// <exception cref="InvalidDataException">A field is absent, of the wrong kind or empty, or a token id is outside the vocabulary.</exception>
    public Prompt Prompt(DataRow row)
    {
        var fields = row.Scalars();
        if (source.Type == DatasetType.Tokenized)
        {
            int[] ids = Ids(row, "input_ids");
            return new Prompt(ids, texts.Text(ids), fields, row.File, row.Line);
        }

        if (source.Type == DatasetType.ChatTemplate)
        {
            var messages = ChatTurns.Messages(row, PromptMessages(row) ?? "messages", source);
            return messages.Count > 0 && messages[^1].Role != "assistant"
                ? Of(texts.Template.Render(messages, addGenerationPrompt: true))
                : throw row.Problem("the conversation ends with the assistant or is empty, expected something to answer. Leave the last answer out, or remove the row.");
        }

        fields.Remove(PromptField);
        if (source.Type == DatasetType.Alpaca)
        {
            fields.Remove(InputField);
        }

        return Of(PromptText(row));

        Prompt Of(string text) => new(PromptIds(row, text), text, fields, row.File, row.Line);
    }

    /// <summary>Whether both responses of a pair are the same, so that there is nothing to prefer.</summary>
    public static bool IsEqual(PreferencePair pair) => pair.Chosen.AsSpan().SequenceEqual(pair.Rejected);

    string ResponseField => source.FieldOutput ?? (source.Type == DatasetType.Alpaca ? "output" : "completion");

    string PromptField => source.FieldInstruction ?? (source.Type == DatasetType.Alpaca ? "instruction" : "prompt");

    string InputField => source.FieldInput ?? "input";

    string PromptText(DataRow row) => source.Type == DatasetType.Alpaca ? AlpacaPrompt.Text(row.Text(PromptField), row.OptionalText(InputField)) : row.Text(PromptField);

    // The prompt is what both conversations begin with, whether it also has a field of its own, as in TRL's explicit form, or not.
    (List<ChatMessage> Prompt, ChatMessage Chosen, ChatMessage Rejected) Conversations(DataRow row)
    {
        List<ChatMessage> apart = PromptMessages(row) is { } field ? ChatTurns.Messages(row, field, source) : [];
        if (apart.Count == 0 && row.HasText(Chosen) && PromptTextField(row) is { } question)
        {
            apart = [new ChatMessage("user", row.Text(question))];
        }

        List<ChatMessage> chosen = Whole(Chosen), rejected = Whole(Rejected);
        int common = chosen.Zip(rejected).TakeWhile(pair => pair.First == pair.Second).Count();
        common = Math.Min(common, Math.Min(chosen.Count, rejected.Count) - 1); // of equal answers one is still an answer
        return common > 0
            ? (chosen[..common], Answer(row, chosen, common, Chosen), Answer(row, rejected, common, Rejected))
            : throw row.Problem($"{Chosen} and {Rejected} have no message in common at their beginning, expected the prompt. Put it into both, or into a field prompt.");

        List<ChatMessage> Whole(string name)
        {
            List<ChatMessage> messages = row.HasText(name) ? [new ChatMessage("assistant", row.Text(name))] : ChatTurns.Messages(row, name, source);
            messages = messages.Take(apart.Count).SequenceEqual(apart) ? messages : [.. apart, .. messages];
            return messages is not [{ Role: "system" }, ..] && row.HasText("system") && row.Text("system") is { Length: > 0 } system
                ? [new ChatMessage("system", system), .. messages]
                : messages;
        }
    }

    // Axolotl's bradley_terry rows name the question input; others of one turn name it prompt.
    string? PromptTextField(DataRow row) => new[] { source.FieldMessages ?? "messages", InputField, PromptField }.FirstOrDefault(row.HasText);

    static ChatMessage Answer(DataRow row, List<ChatMessage> messages, int prompt, string field) => messages.Count == prompt + 1 && messages[^1].Role == "assistant"
        ? messages[^1]
        : throw row.Problem($"{field} has {messages.Count - prompt} messages where the conversations part, expected one answer of the assistant. Cut the conversations after it.");

    (int[] Prompt, int[] Response) Answered(DataRow row)
    {
        List<ChatMessage> messages = row.HasList(ResponseField) && PromptMessages(row) is { } field
            ? [.. ChatTurns.Messages(row, field, source), .. ChatTurns.Messages(row, ResponseField, source)]
            : ChatTurns.Messages(row, source.FieldMessages ?? "messages", source);
        if (messages.Count < 2 || messages[^1].Role != "assistant")
        {
            throw row.Problem("the conversation does not end with an answer of the assistant, expected a prompt and its answer as the last message. Complete or remove the row.");
        }

        var (prompt, answer) = Turn(messages);
        return (PromptIds(row, prompt), Response(row, answer, "the answer"));
    }

    // In some data sets the field named prompt is the first question as text, beside whole conversations.
    string? PromptMessages(DataRow row) => source.FieldMessages ?? (row.HasList("prompt") ? "prompt" : row.HasList("messages") ? "messages" : null);

    (string Prompt, string Answer) Turn(List<ChatMessage> messages) => ChatTurns.Turn(messages, texts.Template);

    int[] PromptIds(DataRow row, string text)
    {
        int[] ids = texts.Beginning(text);
        texts.CheckVocabulary(row, ByTokenizer, ids);
        return ids.Length > 0 ? ids : throw row.Problem("the prompt is empty and the tokenizer begins texts with no token, expected at least one token before the response. Complete or remove the row.");
    }

    int[] Response(DataRow row, string text, string field)
    {
        if (text.Length == 0)
        {
            throw row.Problem($"{field} is empty, expected a response. Complete or remove the row.");
        }

        int[] ids = texts.Response(text);
        texts.CheckVocabulary(row, ByTokenizer, ids);
        return ids;
    }

    int[] Ids(DataRow row, string field)
    {
        int[] ids = row.Integers(field);
        texts.CheckVocabulary(row, $"{field} has", ids);
        return ids.Length > 0 ? ids : throw row.Problem($"{field} is empty, expected at least one token. Complete or remove the row.");
    }
}
