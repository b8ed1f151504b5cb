using System.CommandLine;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

static class ScoreCommand
{
    public static Command Create()
    {
        var (model, data, json) = (new ModelArguments(), new DataArguments(required: false), Arguments.Json());
        var text = new Option<string?>("--text") { Description = "The text to score.", HelpName = "TEXT" };
        var tokens = Arguments.Tokens("The text as token ids.");
        var logits = new Option<string?>("--logits") { Description = "Also write the logits [T, V], F32, to this safetensors file.", HelpName = "F" };
        var reward = new Option<bool>("--reward")
        {
            Description = "Print the score that a reward model's adapter gives each text, read at its end-of-sequence token; texts get that token, and --tokens are taken as they are. A prompt " +
                "and its response are a row of --data, such as {\"prompt\": ..., \"completion\": ...}.",
        };
        var command = new Command("score", "Log-probability of each token of a text, given those before it; or a reward model's score.") { text, tokens, logits, reward, json };
        model.AddTo(command);
        data.AddTo(command);
        command.SetAction((parse, cancel) =>
        {
            var (words, ids, rows, file) = (parse.GetValue(text), Arguments.TokensOf(parse, tokens), parse.GetValue(data.File), parse.GetValue(logits));
            if (new object?[] { words, ids, rows }.Count(given => given is not null) != 1)
            {
                throw new ArgumentException("score: expected one of --text, --tokens and --data.");
            }

            if (file is not null && rows is not null)
            {
                throw new ArgumentException("score: --logits needs --text or --tokens: a file holds the logits of one text.");
            }

            if (file is not null && parse.GetValue(reward))
            {
                throw new ArgumentException("score: a reward model has no logits. Leave out --logits or --reward.");
            }

            if (file is not null)
            {
                AtomicFile.RequireWritable(Path.GetDirectoryName(Path.GetFullPath(file))!);
            }

            var screen = new Screen(parse.InvocationConfiguration);
            using var opened = model.Open(parse, screen, parse.GetValue(reward));
            if (parse.GetValue(reward))
            {
                ids ??= words is null ? null : opened.EncodeWhole(words);
                PrintRewards(opened, ids is null ? Whole(data.Read(parse, opened, screen, cancel)) : [new Example(ids, ids, "", 0)], parse.GetValue(json), screen, cancel);
                return Task.CompletedTask;
            }

            using var pass = new LanguageModelPass(opened.Model);
            if (rows is not null)
            {
                foreach (var example in data.Read(parse, opened, screen, cancel))
                {
                    cancel.ThrowIfCancellationRequested();
                    Print(pass, example, parse.GetValue(json), screen);
                }

                return Task.CompletedTask;
            }

            ids ??= opened.Encode(words!);
            opened.RequireInVocabulary(ids);
            if (ids.Length < 2)
            {
                throw new ArgumentException($"score: the text has {ids.Length} tokens, expected at least 2: the first is given, not predicted.");
            }

            var whole = new Example(ids, ids, "", 0);
            if (file is not null)
            {
                float[] values = pass.Logits(PackedBatch.From([whole]));
                SafetensorsWriter.Write(file, [TensorSource.OfFloats(new TensorInfo("logits", DType.F32, ids.Length, opened.Model.Config.Vocabulary), () => values)]);
            }

            Print(pass, whole, parse.GetValue(json), screen);
            return Task.CompletedTask;
        });
        return command;
    }

    // All tokens are scored; the loss is over those that the labels train on, which is all of them unless a data row says otherwise.
    static void Print(LanguageModelPass pass, Example example, bool json, Screen screen)
    {
        double[] logprobs = pass.LogProbs(PackedBatch.From([example with { Labels = example.InputIds }]))[..^1];
        double loss = -logprobs.Where((_, i) => example.Labels[i + 1] != Example.Untrained).Average();
        screen.Out.WriteLine(json
            ? example.Line == 0
                ? Json.Line(new { Tokens = example.InputIds, Logprobs = logprobs, Loss = loss, Perplexity = Math.Exp(loss) })
                : Json.Line(new { Tokens = example.InputIds, Logprobs = logprobs, Loss = loss, Perplexity = Math.Exp(loss), example.File, example.Line })
            : $"loss {loss:0.000000}  perplexity {Math.Exp(loss):0.####}  tokens {example.TrainedTokens}");
    }

    // A row that was cut into pieces would be scored in pieces, each of which ends nowhere.
    static IReadOnlyList<Example> Whole(IReadOnlyList<Example> examples) => examples.Zip(examples.Skip(1)).FirstOrDefault(pair => pair.First.Line == pair.Second.Line).First is { } cut
        ? throw new InvalidDataException($"{cut.File}:{cut.Line}: the text is longer than --sequence-len, and a score is of a whole text. Raise --sequence-len.")
        : examples;

    static void PrintRewards(OpenModel opened, IReadOnlyList<Example> texts, bool json, Screen screen, CancellationToken cancel)
    {
        using var model = new RewardModel(opened.Adapter!);
        foreach (var example in texts)
        {
            cancel.ThrowIfCancellationRequested();
            opened.RequireInVocabulary(example.InputIds);
            double reward = model.Score([example.InputIds])[0];
            screen.Out.WriteLine(!json ? $"reward {reward:0.000000}  tokens {example.Length}"
                : example.Line == 0 ? Json.Line(new { Reward = reward, Tokens = example.Length })
                : Json.Line(new { Reward = reward, Tokens = example.Length, example.File, example.Line }));
        }
    }
}
