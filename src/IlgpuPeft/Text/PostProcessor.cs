namespace IlgpuPeft.Text;

/// <summary>The <c>post_processor</c> of tokenizer.json: the ids around a single text. Components that only correct character offsets change nothing here.</summary>
static class PostProcessor
{
    /// <summary>Reads the component; null adds nothing. <paramref name="tokenText"/> gives null for an id without a token.</summary>
    public static (int[] Before, int[] After) Read(JsonPart? part, Func<int, string?> tokenText)
    {
        List<int> before = [], after = [];
        if (part is JsonPart present)
        {
            Add(present, tokenText, before, after);
        }

        return ([.. before], [.. after]);
    }

    static void Add(JsonPart part, Func<int, string?> tokenText, List<int> before, List<int> after)
    {
        switch (part.Type)
        {
            case "Sequence":
                foreach (JsonPart item in part["processors"].Items())
                {
                    Add(item, tokenText, before, after);
                }

                break;
            case "ByteLevel":
                break;
            case "TemplateProcessing":
                List<int> ids = before;
                foreach (JsonPart piece in part["single"].Items())
                {
                    if (piece.Optional("SpecialToken") is JsonPart token)
                    {
                        ids.AddRange(part["special_tokens"][token["id"].Text()]["ids"].Items().Select(id => Known(id, tokenText)));
                    }
                    else
                    {
                        _ = piece["Sequence"];
                        ids = after;
                    }
                }

                break;
            case string other:
                throw part.Unsupported($"post-processor '{other}'", "TemplateProcessing, ByteLevel, Sequence");
        }
    }

    static int Known(JsonPart part, Func<int, string?> tokenText)
    {
        int id = part.Integer(BpeReader.MaximumIds);
        return tokenText(id) is null ? throw part.Error($"no token has the id {id}") : id;
    }
}
