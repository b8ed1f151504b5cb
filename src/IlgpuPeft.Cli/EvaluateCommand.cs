using System.CommandLine;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

static class EvaluateCommand
{
    const int TokensPerPass = 2048;

    public static Command Create()
    {
        var (model, data, json) = (new ModelArguments(), new DataArguments(required: true), Arguments.Json());
        var command = new Command("evaluate", "Loss and perplexity over a data file: over responses, where rows have prompt and response.") { json };
        model.AddTo(command);
        data.AddTo(command);
        command.SetAction((parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            using var opened = model.Open(parse, screen);
            var examples = data.Read(parse, opened, screen, cancel);
            using var pass = new LanguageModelPass(opened.Model);
            var (loss, tokens) = pass.Evaluate(examples, TokensPerPass, cancel);
            screen.Out.WriteLine(parse.GetValue(json)
                ? Json.Line(new { Loss = loss, Perplexity = Math.Exp(loss), Tokens = tokens, Rows = examples.Count })
                : $"loss {loss:0.000000}  perplexity {Math.Exp(loss):0.####}  tokens {tokens}  rows {examples.Count}");
            return Task.CompletedTask;
        });
        return command;
    }
}
