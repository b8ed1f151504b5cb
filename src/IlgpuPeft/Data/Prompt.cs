namespace IlgpuPeft.Data;

/// <summary>What a policy is asked, and what else its row says.</summary>
/// <param name="Ids">Token ids, the beginning-of-sequence token included.</param>
/// <param name="Text">The same as text.</param>
/// <param name="Fields">The other fields of the row as text, by name: what rewards compare a response with, such as <c>answer</c>.</param>
/// <param name="File">The data file, for messages.</param>
/// <param name="Line">Line of the row in <paramref name="File"/>, from 1.</param>
public sealed record Prompt(int[] Ids, string Text, IReadOnlyDictionary<string, string> Fields, string File, int Line);
