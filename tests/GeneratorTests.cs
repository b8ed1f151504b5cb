using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class GeneratorTests
{
    static readonly int[] Prompt = Architectures.Ids(6, 3);
    static readonly GenerationOptions Sampled = new() { MaxTokens = 40, Temperature = 1, Seed = 11, StopIds = [] };

    [Theory]
    [InlineData("llama")]
    [InlineData("mistral, window")]
    public void Complete_greedy_takesTheMostLikelyTokenOfTheFormulasEachTime(string name)
    {
        using var subject = new Subject(name);
        var naive = new NaiveDecoder(subject.Folder.Path);
        List<int> text = [.. Prompt];

        var completion = subject.Complete(Prompt, new GenerationOptions { MaxTokens = 12, StopIds = [] });

        foreach (int token in completion.Tokens)
        {
            double[] last = naive.Logits([.. text])[^37..];
            Assert.Equal(Array.IndexOf(last, last.Max()), token);
            text.Add(token);
        }

        Assert.Equal((12, "length"), (completion.Tokens.Count, completion.FinishReason));
    }

    [Fact]
    public void Complete_sameSeed_givesTheSameText_anotherSeedAnother()
    {
        using var subject = new Subject();
        var first = subject.Complete(Prompt, Sampled);

        Assert.Equal(first.Tokens, subject.Complete(Prompt, Sampled).Tokens);
        Assert.NotEqual(first.Tokens, subject.Complete(Prompt, Sampled with { Seed = 12 }).Tokens);
        Assert.True(first.Tokens.Distinct().Count() > 3);
    }

    [Fact]
    public void Complete_topK1_equalsGreedy()
    {
        using var subject = new Subject();

        Assert.Equal(subject.Complete(Prompt, Sampled with { Temperature = 0 }).Tokens, subject.Complete(Prompt, Sampled with { TopK = 1 }).Tokens);
    }

    [Fact]
    public void Complete_stopToken_endsTheTextBeforeIt()
    {
        using var subject = new Subject();
        var whole = subject.Complete(Prompt, Sampled).Tokens;
        int stop = whole[9], at = whole.ToList().IndexOf(stop);

        var completion = subject.Complete(Prompt, Sampled with { StopIds = [stop] });

        Assert.Equal(whole.Take(at), completion.Tokens);
        Assert.Equal("stop", completion.FinishReason);
    }

    [Fact]
    public void Complete_withoutStopIds_endsAtTheModelsOwn()
    {
        using var subject = new Subject(); // its eos_token_id is 36
        var whole = subject.Complete(Prompt, Sampled with { MaxTokens = 300 }).Tokens;
        int at = whole.ToList().IndexOf(36);
        Assert.True(at >= 0, "the sampled text has no end-of-sequence token, so this test would say nothing");

        var completion = subject.Complete(Prompt, Sampled with { MaxTokens = 300, StopIds = null });

        Assert.Equal(whole.Take(at), completion.Tokens);
        Assert.Equal("stop", completion.FinishReason);
    }

    [Theory]
    [InlineData(512)]
    [InlineData(513)]
    [InlineData(1030)]
    public void Complete_promptAsLongAsAPrefillPassOrLonger_continuesAllOfIt(int length)
    {
        using var subject = new Subject();
        int[] prompt = Architectures.Ids(length, 4);
        double[] last = new NaiveDecoder(subject.Folder.Path).Logits(prompt)[^37..];

        int token = Assert.Single(subject.Complete(prompt, new GenerationOptions { MaxTokens = 1, StopIds = [] }).Tokens);

        Assert.Equal(Array.IndexOf(last, last.Max()), token);
    }

    [Fact]
    public async Task StreamAsync_sameOptions_yieldsWhatCompleteReturns()
    {
        using var subject = new Subject();
        List<int> streamed = [];
        await foreach (int token in subject.Generator.StreamAsync(Prompt, Sampled, TestContext.Current.CancellationToken))
        {
            streamed.Add(token);
        }

        Assert.Equal(subject.Complete(Prompt, Sampled).Tokens, streamed);
    }

    [Fact]
    public void Complete_limitOfZero_givesNothing()
    {
        using var subject = new Subject();
        var completion = subject.Complete(Prompt, Sampled with { MaxTokens = 0 });

        Assert.Empty(completion.Tokens);
        Assert.Equal("length", completion.FinishReason);
    }

    [Fact]
    public void Complete_promptThatIsEmptyOrForeign_isRefused()
    {
        using var subject = new Subject();

        Assert.Contains("the prompt is empty", Assert.Throws<ArgumentException>(() => subject.Complete([], Sampled)).Message, StringComparison.Ordinal);
        Assert.Contains("token id 37 is out of range", Assert.Throws<ArgumentException>(() => subject.Complete([1, 37], Sampled)).Message, StringComparison.Ordinal);
        Assert.Contains("token id -1 is out of range", Assert.Throws<ArgumentException>(() => subject.Complete([-1], Sampled)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Stream_whileAnotherBegan_isRefusedRatherThanMixed()
    {
        using var subject = new Subject();
        using var first = subject.Generator.Stream(Prompt, Sampled).GetEnumerator();
        Assert.True(first.MoveNext());
        using var second = subject.Generator.Stream(Prompt, Sampled).GetEnumerator();
        Assert.True(second.MoveNext());

        Assert.Throws<InvalidOperationException>(() => first.MoveNext());
        Assert.True(second.MoveNext());
    }

    [Fact]
    public void Complete_afterARequestThatIsTooLong_worksAsBefore()
    {
        using var subject = new Subject();
        var before = subject.Complete(Prompt, Sampled);

        Assert.Throws<ArgumentException>(() => subject.Complete(Prompt, Sampled with { MaxTokens = int.MaxValue }));

        Assert.Equal(before.Tokens, subject.Complete(Prompt, Sampled).Tokens);
    }

    [Fact]
    public void Stream_oncePromptIsRead_allocatesNothingMore()
    {
        using var subject = new Subject();
        using var tokens = subject.Generator.Stream(Prompt, Sampled).GetEnumerator();
        Assert.True(tokens.MoveNext());
        long before = subject.Backend.Memory.Allocations;
        while (tokens.MoveNext())
        {
        }

        Assert.Equal(before, subject.Backend.Memory.Allocations);
    }

    sealed class Subject : IDisposable
    {
        readonly Models.CausalLm model;

        public Subject(string name = "llama")
        {
            model = Architectures.Load(Folder, name, Backend);
            Generator = new Generator(model);
        }

        public TempFolder Folder { get; } = new();

        public HostBackend<float> Backend { get; } = new();

        public Generator Generator { get; }

        public Completion Complete(int[] prompt, GenerationOptions options) => Generator.Complete(prompt, options, TestContext.Current.CancellationToken);

        public void Dispose()
        {
            Generator.Dispose();
            model.Dispose();
            Backend.Dispose();
            Folder.Dispose();
        }
    }
}
