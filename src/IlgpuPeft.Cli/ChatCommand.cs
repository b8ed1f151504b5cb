using System.CommandLine;
using IlgpuPeft.Generation;
using IlgpuPeft.Text;

namespace IlgpuPeft.Cli;

static class ChatCommand
{
    public static Command Create()
    {
        var (model, sampling) = (new ModelArguments(), new SamplingArguments(256, warmth: 0.7, mass: 0.9));
        var template = new Option<string?>("--chat-template") { Description = "chatml, llama3, alpaca or plain. Default: the model's own.", HelpName = "NAME" };
        var system = new Option<string?>("--system") { Description = "The system message.", HelpName = "TEXT" };
        var command = new Command("chat", "Talk with a model. /reset forgets the conversation, /exit ends it.") { template, system };
        model.AddTo(command);
        sampling.AddTo(command);
        command.SetAction(async (parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            var named = parse.GetValue(template) is { } name ? ChatTemplate.Named(name) : null;
            using var opened = model.Open(parse, screen);
            var tokenizer = opened.Tokenizer
                ?? throw new ArgumentException($"{opened.Folder}: there is no tokenizer.json, and a conversation is text. Add it, or use generate --tokens.");
            await TalkAsync(opened, tokenizer, named ?? Detect(tokenizer, screen), parse.GetValue(system), sampling.Read(parse), screen, Console.In, cancel);
        });
        return command;
    }

    static async Task TalkAsync(
        OpenModel opened, Tokenizer tokenizer, ChatTemplate template, string? system, GenerationOptions options, Screen screen, TextReader input, CancellationToken cancel)
    {
        int? end = template.EndOfTurn is { } token ? tokenizer.TokenId(token) : null;
        options = options with { StopIds = [.. opened.Model.Config.EosIds, .. end is { } id ? [id] : Array.Empty<int>()] };
        List<ChatMessage> beginning = system is null ? [] : [new ChatMessage("system", system)], turns = [.. beginning];
        using var generator = new Generator(opened.Model);
        while (true)
        {
            screen.Ask("> ");
            // Standard input cannot be told to stop waiting: the thread that reads it is left behind, and ends with the process.
            string? line = await Task.Run(input.ReadLine, CancellationToken.None).WaitAsync(cancel);
            if (line is null or "/exit")
            {
                return;
            }

            if (line == "/reset")
            {
                turns = [.. beginning];
                screen.Say("the conversation starts anew");
                continue;
            }

            if (string.IsNullOrWhiteSpace(line))
            {
                continue;
            }

            turns.Add(new ChatMessage("user", line));
            int[] prompt = opened.Encode(template.Render(turns));
            if (prompt.Length + options.MaxTokens > opened.Model.Config.MaxPositions)
            {
                screen.Warn($"the conversation has {prompt.Length} tokens and the model was made for {opened.Model.Config.MaxPositions}; /reset starts anew.");
            }

            var answer = GenerateCommand.Write(generator.Stream(prompt, options), GenerateCommand.Continuation(tokenizer, prompt), screen.Out, cancel);
            turns.Add(new ChatMessage("assistant", tokenizer.Decode(answer.ToArray())));
            options = options with { Seed = options.Seed + 1 }; // else the same words would answer every turn's draw
        }
    }

    static ChatTemplate Detect(Tokenizer tokenizer, Screen screen)
    {
        try
        {
            return ChatTemplate.Detect(tokenizer.ChatTemplateSource);
        }
        catch (NotSupportedException cause)
        {
            screen.Warn($"{cause.Message} Messages are sent as plain lines.");
            return ChatTemplate.Named("plain");
        }
    }
}
