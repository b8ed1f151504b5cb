namespace IlgpuPeft.Data;

/// <summary>Tells names on the Hugging Face Hub, <c>owner/name</c>, from paths of files.</summary>
static class HubName
{
    /// <summary>Whether <paramref name="text"/> could be a Hub name: two parts, neither starting with a dot, and no data file's extension.</summary>
    public static bool Matches(string text) => text.Split('/') is [{ Length: > 0 } owner, { Length: > 0 } name]
        && owner[0] is not ('.' or '~') && name[0] != '.' && Path.GetExtension(name) is not (".json" or ".jsonl" or ".csv" or ".txt" or ".parquet");
}
