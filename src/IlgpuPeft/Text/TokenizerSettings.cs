using System.Text.Json;

namespace IlgpuPeft.Text;

/// <summary>What the files beside tokenizer.json say: which tokens have a role, tokens added after training, and the chat template.</summary>
sealed class TokenizerSettings
{
    readonly List<JsonPart> files = []; // the first that has a key wins

    /// <summary>The source of the chat template, or null.</summary>
    public string? ChatTemplate { get; private init; }

    /// <summary>Reads the files that are there.</summary>
    public static TokenizerSettings Read(string folder)
    {
        string[] names = ["tokenizer_config.json", "special_tokens_map.json"];
        List<JsonPart> files = [.. names.Select(name => Path.Combine(folder, name)).Where(File.Exists).Select(JsonPart.Read)];
        string template = Path.Combine(folder, "chat_template.jinja");
        var settings = new TokenizerSettings
        {
            ChatTemplate = File.Exists(template) ? File.ReadAllText(template) : files.Select(ReadChatTemplate).FirstOrDefault(text => text is not null),
        };
        settings.files.AddRange(files);
        return settings;
    }

    /// <summary>The token with a role (<c>bos_token</c>), written as a string or as an object with <c>content</c>; null where no file has the key.</summary>
    public SpecialToken? Role(string key, Func<string, int?> tokenId)
    {
        if (files.Select(file => file.Optional(key)).FirstOrDefault(part => part is not null) is not JsonPart part)
        {
            return null;
        }

        string text = part.Element.ValueKind == JsonValueKind.Object ? part["content"].Text() : part.Text();
        return tokenId(text) is int id
            ? new SpecialToken(id, text)
            : throw part.Error($"'{text}' is not a token of tokenizer.json. Name one that is, or remove the key");
    }

    /// <summary>The entries of <c>added_tokens</c> in tokenizer.json, and of <c>added_tokens_decoder</c> in tokenizer_config.json where tokenizer.json lacks them.</summary>
    public Dictionary<int, AddedToken> ReadAddedTokens(JsonPart root, Bpe model)
    {
        var owners = model.Vocabulary.ToDictionary(entry => entry.Value, entry => entry.Key);
        var added = new Dictionary<int, AddedToken>();
        var ids = new Dictionary<string, int>();
        foreach (JsonPart part in root.Optional("added_tokens")?.Items() ?? [])
        {
            AddedToken token = AddedToken.Read(part, part["id"].Integer(BpeReader.MaximumIds));
            if (!ids.TryAdd(token.Text, token.Id))
            {
                throw part.Error($"the added token '{token.Text}' occurs twice");
            }

            if (model.Vocabulary.TryGetValue(token.Text, out int id) && id != token.Id)
            {
                throw part.Error($"the added token '{token.Text}' has id {token.Id}, expected {id} as in model.vocab");
            }

            if ((owners.TryGetValue(token.Id, out string? owner) && owner != token.Text) || !added.TryAdd(token.Id, token))
            {
                throw part.Error($"the added token '{token.Text}' has id {token.Id}, which belongs to '{owner ?? added[token.Id].Text}'");
            }
        }

        foreach (JsonPart table in files.Select(file => file.Optional("added_tokens_decoder")).OfType<JsonPart>())
        {
            foreach ((string key, JsonPart part) in table.Properties())
            {
                int id = int.TryParse(key, out int value) && value >= 0 && value < BpeReader.MaximumIds ? value : throw table.Error($"'{key}' is not a token id");
                AddedToken token = AddedToken.Read(part, id);
                if (!model.Vocabulary.ContainsKey(token.Text) && ids.TryAdd(token.Text, id) && (owners.ContainsKey(id) || !added.TryAdd(id, token)))
                {
                    throw table.Error($"'{token.Text}' has id {id}, which belongs to another token of tokenizer.json");
                }
            }
        }

        return added;
    }

    // A string, or a list of named ones of which "default" is the one for conversations.
    static string? ReadChatTemplate(JsonPart file)
    {
        if (file.Optional("chat_template") is not JsonPart part)
        {
            return null;
        }

        return part.Element.ValueKind != JsonValueKind.Array
            ? part.Text()
            : part.Items().Where(item => item["name"].Text() == "default").Select(item => item["template"].Text()).FirstOrDefault();
    }
}
