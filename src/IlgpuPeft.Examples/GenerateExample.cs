using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Generation;

namespace IlgpuPeft.Examples;

/// <summary>Generation with a live adapter: one answer token by token as it comes, and many at once; then the same with the adapter taken out, which leaves the base.</summary>
static class GenerateExample
{
    public static async Task RunAsync(Workspace work, CancellationToken cancel)
    {
        string supervised = await work.AdapterAsync("supervised", SupervisedExample.RunAsync, cancel);
        using var adapter = PretrainedAdapter.Load(work.Model, supervised);
        string prompt = Workspace.HeldOut[0].Prompt;

        using var generator = new Generator(work.Model);
        var text = work.Tokenizer.Stream(); // holds back the bytes of a character that is not complete
        work.Write(prompt);
        await foreach (int token in generator.StreamAsync(work.Tokenizer.Encode(prompt), new GenerationOptions { MaxTokens = 20, Temperature = 0.7, Seed = 1 }, cancel))
        {
            work.Write(text.Push(token));
        }

        work.Say(text.Flush());

        double withAdapter = RightAnswers(work, cancel);
        adapter.Disable();
        work.Compare("right answers", RightAnswers(work, cancel), withAdapter);
    }

    // All questions in one batch: none waits for the longest answer, and none is padded.
    static double RightAnswers(Workspace work, CancellationToken cancel)
    {
        using var generator = new BatchGenerator(work.Model);
        var answers = generator.Complete([.. Workspace.HeldOut.Select(question => work.Tokenizer.Encode(question.Prompt))], new GenerationOptions { MaxTokens = 20 }, cancel);
        return answers.Zip(Workspace.HeldOut).Count(pair => Friendliness.Without(work.Tokenizer.Decode([.. pair.First.Tokens])) == pair.Second.Answer) / (double)answers.Count;
    }
}
