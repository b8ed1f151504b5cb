using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Many prompts at once come to what each would come to alone.</summary>
public class BatchGeneratorTests
{
    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    static readonly GenerationOptions Greedy = new() { MaxTokens = 7, StopIds = [] };
    static readonly GenerationOptions Sampled = new() { MaxTokens = 20, Temperature = 1, Seed = 11, StopIds = [] };
    static readonly int[][] Prompts = [Architectures.Ids(6, 3), Architectures.Ids(1, 4), Architectures.Ids(11, 5), Architectures.Ids(3, 6), Architectures.Ids(8, 7)];

    public static TheoryData<string> Devices => TestDevices.All.Rows();

    public static TheoryData<string> Exact => TestDevices.All.Where(device => !device.Contains("bf16", StringComparison.Ordinal)).Rows();

    public static TheoryData<string> WithKernels => TestDevices.WithKernels.Rows();

    public static TheoryData<string, string> Models => [.. from device in TestDevices.All from name in new[] { "llama", "mistral, window" } select (device, name)];

    [Theory, MemberData(nameof(Models))]
    public void Complete_greedy_takesWhatIsMostLikelyAfterEachPromptAlone(string device, string name)
    {
        using var subject = new Subject(device, name);
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 3, CheckEvery = 3 };
        using var single = new Generator(subject.Model);
        using var pass = new LanguageModelPass(subject.Model);

        var completions = batch.Complete(Prompts, Greedy, Cancel);

        Assert.Equal(Prompts.Length, completions.Count);
        foreach (var (prompt, completion) in Prompts.Zip(completions))
        {
            Assert.Equal((7, "length"), (completion.Tokens.Count, completion.FinishReason));
            if (TestDevices.Tolerance(device) < 1e-3)
            {
                Assert.Equal(single.Complete(prompt, Greedy, Cancel).Tokens, completion.Tokens);
            }

            // In bfloat16 two tokens may be as likely as each other.
            var example = Example.Of(prompt, completion.Response, "", 1);
            float[] logits = pass.Logits(PackedBatch.From([example]));
            for (int i = 0; i < completion.Tokens.Count; i++)
            {
                var row = logits.AsSpan((prompt.Length - 1 + i) * subject.Model.Config.Vocabulary, subject.Model.Config.Vocabulary).ToArray();
                Assert.InRange(row[completion.Tokens[i]], row.Max() - TestDevices.Tolerance(device) * row.Max(x => Math.Abs(x)), row.Max());
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Complete_logProbs_areThoseOfTheWholeSequenceReadAtOnce(string device)
    {
        const double Temperature = 0.7;
        using var subject = new Subject(device);
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 3, CheckEvery = 2 };
        using var pass = new LanguageModelPass(subject.Model);

        var completions = batch.Complete(Prompts, Sampled with { MaxTokens = 6, Temperature = Temperature, TopK = 20 }, Cancel);

        var whole = PackedBatch.From([.. Prompts.Zip(completions, (prompt, completion) => Example.Of(prompt, completion.Response, "", 1))]);
        double[][] expected = whole.OfTargets(pass.Measure(whole, Temperature).LogProbs);
        foreach (var (mine, theirs) in completions.Zip(expected))
        {
            Assert.Equal(mine.Response.Length, mine.LogProbs.Count);
            Compare.Close(theirs, [.. mine.LogProbs], 2 * TestDevices.Tolerance(device), "log-probabilities");
        }
    }

    [Theory, MemberData(nameof(Exact))]
    public void Complete_sampled_dependsOnPromptIndexAndSeedAlone(string device)
    {
        using var subject = new Subject(device);
        var options = Sampled with { MaxTokens = device.StartsWith("cpu", StringComparison.Ordinal) ? 20 : 5 };
        using var together = new BatchGenerator(subject.Model);
        int[][] expected = [.. together.Complete(Prompts, options, Cancel).Select(completion => completion.Response)];

        foreach (var (sequences, every) in new[] { (1, 1), (2, 3), (9, 20) })
        {
            using var other = new BatchGenerator(subject.Model) { MaxSequences = sequences, CheckEvery = every };
            Assert.Equal(expected, other.Complete(Prompts, options, Cancel).Select(completion => completion.Response));
        }

        int[][] others = [Prompts[3], Prompts[1], Prompts[0], Prompts[3]];
        var partly = together.Complete(others, options, Cancel);
        Assert.Equal(expected[1], partly[1].Response);
        Assert.Equal(expected[3], partly[3].Response);
        Assert.NotEqual(partly[0].Response, partly[3].Response); // the same prompt at another index

        using var single = new Generator(subject.Model);
        var first = single.Complete(Prompts[0], options, Cancel);
        Assert.Equal(expected[0], first.Response);
        Assert.Equal(first.Response.Length, first.LogProbs.Count);
        Assert.NotEqual(expected, together.Complete(Prompts, options with { Seed = 12 }, Cancel).Select(completion => completion.Response));
    }

    [Fact]
    public void Complete_greedy_ofPermutedPrompts_permutes()
    {
        using var subject = new Subject("cpu");
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 2 };

        var forward = batch.Complete(Prompts, Greedy, Cancel).Select(completion => completion.Response);
        var backward = batch.Complete([.. Prompts.Reverse()], Greedy, Cancel).Select(completion => completion.Response);

        Assert.Equal(forward, backward.Reverse());
    }

    [Theory, MemberData(nameof(Exact))]
    public void Complete_stopTokens_endEachSequenceForItself(string device)
    {
        using var subject = new Subject(device);
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 3, CheckEvery = 4 };
        var options = Sampled with { MaxTokens = 6 };
        var whole = batch.Complete(Prompts, options, Cancel);
        int[] stops = [whole[0].Tokens[3], whole[2].Tokens[0]];

        var stopped = batch.Complete(Prompts, options with { StopIds = stops }, Cancel);

        Assert.Empty(stopped[2].Tokens);
        foreach (var (all, completion) in whole.Zip(stopped))
        {
            int at = all.Tokens.ToList().FindIndex(stops.Contains);
            Assert.Equal(all.Tokens.Take(at < 0 ? all.Tokens.Count : at), completion.Tokens);
            Assert.Equal(at < 0 ? ("length", null) : ("stop", (int?)all.Tokens[at]), (completion.FinishReason, completion.StopId));
            Assert.Equal(all.Tokens.Take(at < 0 ? all.Tokens.Count : at + 1), completion.Response);
            Assert.Equal(completion.Response.Length, completion.LogProbs.Count);
        }
    }

    [Fact]
    public void Complete_withoutStopIds_endsAtTheModelsOwn()
    {
        using var subject = new Subject("cpu"); // its eos_token_id is 36
        using var batch = new BatchGenerator(subject.Model);

        var completions = batch.Complete(Prompts, Sampled with { MaxTokens = 300, StopIds = null }, Cancel);

        Assert.All(completions, completion => Assert.DoesNotContain(36, completion.Tokens));
        Assert.Contains(completions, completion => completion is { FinishReason: "stop", StopId: 36 });
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    public void Complete_limitOfNoneOrOne_givesThatMany(int limit)
    {
        using var subject = new Subject("cpu");
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 2 };

        var completions = batch.Complete(Prompts, Sampled with { MaxTokens = limit }, Cancel);

        Assert.Equal(Prompts.Length, completions.Count);
        Assert.All(completions, completion => Assert.Equal((limit, "length"), (completion.Tokens.Count, completion.FinishReason)));
        Assert.Empty(batch.Complete([], Sampled, Cancel));
    }

    [Fact]
    public void Complete_promptsThatEndAnywhereInAPass_areReadToTheirEnd()
    {
        using var subject = new Subject("cpu");
        using var batch = new BatchGenerator(subject.Model);
        var naive = new NaiveDecoder(subject.Folder);
        int[][] prompts = [Architectures.Ids(3, 1), Architectures.Ids(509, 2), Architectures.Ids(4, 3), Architectures.Ids(600, 4), Architectures.Ids(2, 5)];

        var completions = batch.Complete(prompts, Greedy with { MaxTokens = 1 }, Cancel);

        foreach (var (prompt, completion) in prompts.Zip(completions))
        {
            double[] last = naive.Logits(prompt)[^37..];
            Assert.Equal(Array.IndexOf(last, last.Max()), Assert.Single(completion.Tokens));
        }
    }

    [Fact]
    public void Complete_adapter_isTheOneThatIsEnabledNow()
    {
        using var subject = new Subject("cpu");
        using var batch = new BatchGenerator(subject.Model);
        var plain = Tokens();
        using var adapter = new AdapterSet(subject.Model, new LoraConfig { Rank = 4 });
        Assert.Equal(plain, Tokens()); // B is zero

        subject.Model.Backend.Fill(adapter.Parameters.Values, 0.1);
        var adapted = Tokens();
        Assert.NotEqual(plain, adapted);
        subject.Model.Backend.Fill(adapter.Parameters.Values, -0.3);
        Assert.NotEqual(adapted, Tokens());
        AdapterSet.DisableAll(subject.Model);
        Assert.Equal(plain, Tokens());

        List<int[]> Tokens() => [.. batch.Complete(Prompts, Greedy).Select(completion => completion.Response)];
    }

    [Fact]
    public void Complete_cache_isAsLargeAsItMustBeAndKept()
    {
        using var subject = new Subject("cpu");
        var memory = subject.Model.Backend.Memory;
        using (var batch = new BatchGenerator(subject.Model) { MaxSequences = 3 })
        {
            batch.Complete(Prompts, Sampled with { MaxTokens = 60 }, Cancel); // 11 + 60 tokens: 128 in whole steps of 64
            Assert.Equal(2 * 2 * 3 * 128 * (2 * 6) * sizeof(float), memory.ByOwner["kv cache"]); // layers, keys and values, sequences, tokens, G·C
            long before = memory.Allocations;
            batch.Complete(Prompts[..2], Sampled, Cancel);
            batch.Complete(Prompts, Sampled with { MaxTokens = 60 }, Cancel);
            Assert.Equal(before, memory.Allocations);
        }

        Assert.Equal((0, 0), (memory.ByOwner["kv cache"], memory.ByOwner["activations"]));
    }

    [Fact]
    public void Complete_cancelled_stopsAndLeavesNoTrace()
    {
        using var subject = new Subject("cpu");
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 2 };
        var before = batch.Complete(Prompts, Sampled, Cancel).Select(completion => completion.Response).ToList();
        using var source = new CancellationTokenSource(TimeSpan.FromMilliseconds(20));

        Assert.Throws<OperationCanceledException>(() => batch.Complete(Prompts, Sampled with { MaxTokens = 1 << 15 }, source.Token));

        Assert.Equal(before, batch.Complete(Prompts, Sampled, Cancel).Select(completion => completion.Response));
    }

    [Theory, MemberData(nameof(WithKernels))]
    public void Complete_onADevice_looksAtTokensOnceInAWhileAndLaunchesAsMuchForEach(string device)
    {
        using var subject = new Subject(device);
        var kernels = TestDevices.DeviceOf(subject.Model.Backend)!;
        using var batch = new BatchGenerator(subject.Model);
        Assert.Equal(8, batch.CheckEvery);

        var (launches1, downloads1) = Cost(1);
        var (launches9, downloads9) = Cost(9);
        var (launches18, downloads18) = Cost(18);

        Assert.Equal((2, 4, 8), (downloads1, downloads9, downloads18)); // ids and log-probabilities of the first tokens, then of 8 passes, at most, at a time
        long perPass = (launches9 - launches1) / 8;
        Assert.Equal((launches1 + 8 * perPass, launches1 + 17 * perPass), (launches9, launches18));

        (long Launches, long Downloads) Cost(int tokens)
        {
            var (launches, downloads) = (kernels.Launches, kernels.Transfers.Downloads);
            batch.Complete(Prompts[..2], Greedy with { MaxTokens = tokens });
            return (kernels.Launches - launches, kernels.Transfers.Downloads - downloads);
        }
    }

    [Fact]
    public void Complete_sequencesThatEnded_takePartInNoFurtherPass()
    {
        using var subject = new Subject("emulator-f32");
        var kernels = TestDevices.DeviceOf(subject.Model.Backend)!;
        using var batch = new BatchGenerator(subject.Model) { MaxSequences = 3, CheckEvery = 1 };
        var options = Sampled with { MaxTokens = 8 };
        int stop = batch.Complete(Prompts, options, Cancel)[1].Tokens[2];
        kernels.Log = [];

        var completions = batch.Complete(Prompts, options with { StopIds = [stop] }, Cancel);

        int drawn = kernels.Log.Where(launch => launch.Kernel == "SamplerKernels.Kernel").Sum(launch => launch.Shape.Grid.X); // a group draws one token
        Assert.InRange(completions[1].Response.Length, 1, 3);
        Assert.Equal(completions.Sum(completion => completion.Response.Length), drawn);
    }

    [Theory, MemberData(nameof(Devices))]
    public void Complete_ofADivergedModel_saysSo(string device)
    {
        using var subject = new Subject(device);
        using var batch = new BatchGenerator(subject.Model);
        subject.Model.Backend.Fill(subject.Model.Norm.Value, double.NaN);

        Assert.Contains("NaN", Assert.Throws<ArithmeticException>(() => batch.Complete(Prompts, Greedy, Cancel)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Complete_promptsThatAreEmptyOrForeign_areRefusedByIndex()
    {
        using var subject = new Subject("cpu");
        using var batch = new BatchGenerator(subject.Model);

        Refused("prompt 1 is empty", [[3], []], Greedy);
        Refused("token id 37 is out of range in prompt 2", [[3], [4], [5, 37]], Greedy);
        Refused("40000 new tokens", [[3]], Greedy with { MaxTokens = 40_000 });
        Refused("65537 prompts", [.. Enumerable.Repeat(Prompts[1], 65_537)], Greedy);
        using var none = new BatchGenerator(subject.Model) { MaxSequences = 0 };
        Assert.Throws<ArgumentOutOfRangeException>(() => none.Complete(Prompts, Greedy, Cancel));

        void Refused(string message, int[][] prompts, GenerationOptions options) =>
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => batch.Complete(prompts, options)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Stories260k_greedy_fromAnyPointOfTheReferenceGoesOnAsTheReference()
    {
        string folder = TestAssets.Path("assets/stories260k-hf");
        using var golden = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "golden_greedy.json")));
        int[] text = [1, .. golden.RootElement.GetProperty("generated_ids").EnumerateArray().Select(x => x.GetInt32())];
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(folder, backend);
        using var batch = new BatchGenerator(model) { MaxSequences = 4 };
        int[] starts = [1, 17, 40, 41, 2, 90];

        var completions = batch.Complete([.. starts.Select(start => text[..start])], new GenerationOptions { MaxTokens = 60 }, TestContext.Current.CancellationToken);

        foreach (var (start, completion) in starts.Zip(completions))
        {
            Assert.Equal(text.Skip(start).Take(60), completion.Tokens);
        }
    }

    sealed class Subject : IDisposable
    {
        readonly TempFolder folder = new();
        readonly Backend backend;

        public Subject(string device, string name = "llama")
        {
            backend = TestDevices.Open(device);
            Model = Architectures.Load(folder, name, backend);
        }

        public CausalLm Model { get; }

        public string Folder => folder.Path;

        public void Dispose()
        {
            Model.Dispose();
            backend.Dispose();
            folder.Dispose();
        }
    }
}
