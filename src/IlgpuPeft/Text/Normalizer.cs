namespace IlgpuPeft.Text;

/// <summary>The <c>normalizer</c> of tokenizer.json: what is done to text before it is split.</summary>
sealed class Normalizer
{
    readonly List<Func<string, string>> steps = [];

    /// <summary>Reads the component; null is the identity.</summary>
    public static Normalizer Read(JsonPart? part)
    {
        var normalizer = new Normalizer();
        if (part is JsonPart present)
        {
            normalizer.Add(present);
        }

        return normalizer;
    }

    /// <summary>Applies the steps in order.</summary>
    public string Normalize(string text) => steps.Aggregate(text, (current, step) => step(current));

    void Add(JsonPart part)
    {
        switch (part.Type)
        {
            case "Sequence":
                foreach (JsonPart item in part["normalizers"].Items())
                {
                    Add(item);
                }

                break;
            case "NFC":
                steps.Add(Nfc.Normalize);
                break;
            case "Prepend":
                string prefix = part["prepend"].Text();
                steps.Add(text => text.Length == 0 ? text : prefix + text);
                break;
            case "Replace":
                TextPattern pattern = TextPattern.Read(part["pattern"]);
                string content = part["content"].Text();
                steps.Add(text => pattern.Replace(text, content));
                break;
            case string other:
                throw part.Unsupported($"normalizer '{other}'", "NFC, Prepend, Replace, Sequence");
        }
    }
}
