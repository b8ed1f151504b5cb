using System.CommandLine;
using IlgpuPeft.Generation;
using IlgpuPeft.Text;

namespace IlgpuPeft.Cli;

static class GenerateCommand
{
    public static Command Create()
    {
        var (model, sampling, json) = (new ModelArguments(), new SamplingArguments(128, warmth: 0, mass: 1), Arguments.Json());
        var prompt = new Option<string?>("--prompt") { Description = "The text to continue.", HelpName = "TEXT" };
        var tokens = Arguments.Tokens("The prompt as token ids.");
        var command = new Command("generate", "Continue a text.") { prompt, tokens, json };
        model.AddTo(command);
        sampling.AddTo(command);
        command.SetAction((parse, cancel) =>
        {
            var (text, ids) = (parse.GetValue(prompt), Arguments.TokensOf(parse, tokens));
            if (text is null == ids is null)
            {
                throw new ArgumentException("generate: expected either --prompt or --tokens. Give one of them.");
            }

            var screen = new Screen(parse.InvocationConfiguration);
            using var opened = model.Open(parse, screen);
            ids ??= opened.Encode(text!);
            opened.RequireInVocabulary(ids);
            var options = sampling.Read(parse);
            if (ids.Length + options.MaxTokens > opened.Model.Config.MaxPositions)
            {
                screen.Warn($"prompt and continuation may reach {ids.Length + options.MaxTokens} tokens; the model was made for {opened.Model.Config.MaxPositions}.");
            }

            using var generator = new Generator(opened.Model);
            if (parse.GetValue(json))
            {
                var completion = generator.Complete(ids, options, cancel);
                var decoder = Continuation(opened.Tokenizer, ids);
                string? continuation = decoder is null ? null : string.Concat(completion.Tokens.Select(decoder.Push)) + decoder.Flush();
                screen.Out.WriteLine(Json.Line(new { PromptTokens = ids, completion.Tokens, Text = continuation, completion.FinishReason }));
            }
            else
            {
                Write(generator.Stream(ids, options), Continuation(opened.Tokenizer, ids), screen.Out, cancel);
            }

            return Task.CompletedTask;
        });
        return command;
    }

    /// <summary>Writes tokens as text while they come, or as ids where there is no tokenizer, and ends the line. Returns them.</summary>
    public static List<int> Write(IEnumerable<int> stream, StreamingDecoder? decoder, TextWriter output, CancellationToken cancel)
    {
        List<int> tokens = [];
        foreach (int token in stream)
        {
            cancel.ThrowIfCancellationRequested();
            output.Write(decoder is null ? $"{(tokens.Count > 0 ? " " : "")}{token}" : decoder.Push(token));
            output.Flush();
            tokens.Add(token);
        }

        output.WriteLine(decoder?.Flush());
        return tokens;
    }

    /// <summary>A decoder that has read the prompt, so that the continuation keeps the space it begins with.</summary>
    public static StreamingDecoder? Continuation(Tokenizer? tokenizer, IEnumerable<int> prompt)
    {
        var decoder = tokenizer?.Stream();
        foreach (int id in prompt)
        {
            decoder?.Push(id);
        }

        return decoder;
    }
}
