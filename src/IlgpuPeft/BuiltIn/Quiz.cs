using IlgpuPeft.Generation;
using IlgpuPeft.Models;
using IlgpuPeft.Text;

namespace IlgpuPeft.BuiltIn;

/// <summary>What a model said to a question.</summary>
/// <param name="Question">The question.</param>
/// <param name="Text">The model's continuation.</param>
public sealed record Reply(Question Question, string Text)
{
    /// <summary>Whether it is the answer, to the letter, in whatever manner.</summary>
    public bool IsRight => Friendliness.Without(Text) == Question.Answer;

    /// <summary>Whether it is friendly.</summary>
    public bool IsFriendly => Friendliness.IsIn(Text);
}

/// <summary>Puts questions to a model.</summary>
public static class Quiz
{
    internal const int MaxTokens = 20;

    /// <summary>The most likely continuation of each prompt.</summary>
    /// <param name="model">The model, with whatever adapters are enabled.</param>
    /// <param name="tokenizer">Its tokenizer.</param>
    /// <param name="questions">The prompts.</param>
    /// <param name="end">A token that ends an answer as the end of the sequence does, or null.</param>
    /// <param name="cancel">Stops after the current tokens.</param>
    public static IReadOnlyList<Reply> Take(CausalLm model, Tokenizer tokenizer, IEnumerable<Question> questions, string? end = null, CancellationToken cancel = default)
    {
        using var generator = new BatchGenerator(model);
        int[] stops = [.. model.Config.EosIds, .. end is not null && tokenizer.TokenId(end) is { } id ? [id] : Array.Empty<int>()];
        var options = new GenerationOptions { MaxTokens = MaxTokens, StopIds = stops };
        List<Question> asked = [.. questions];
        var answers = generator.Complete([.. asked.Select(question => tokenizer.Encode(question.Prompt))], options, cancel);
        return [.. asked.Zip(answers, (question, answer) => new Reply(question, tokenizer.Decode([.. answer.Tokens])))];
    }

    /// <summary>The share of right answers.</summary>
    public static double Accuracy(IReadOnlyCollection<Reply> replies) => (double)replies.Count(reply => reply.IsRight) / replies.Count;
}
