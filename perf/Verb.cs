namespace IlgpuPeft.Perf;

/// <summary>One of the program's commands.</summary>
/// <param name="Usage">The words and options that it takes, as its usage line shows them: words in capitals, those in brackets optional, then options as <c>--name VALUE</c>.</param>
/// <param name="Run">Does it, and returns the exit code.</param>
sealed record Verb(string Usage, Func<Arguments, int> Run);
