using System.CommandLine;
using System.Globalization;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Cli;

/// <summary>Prints the numbers of the course in the kernels' README.</summary>
static class LadderCommand
{
    const int BarLength = 32; // the most sectors that a warp's request for 4-byte values can touch

    public static Command Create()
    {
        var device = new Option<string>("--device")
        {
            Description = "emulator, which counts, or cuda:N, which takes the time.",
            HelpName = "NAME",
            DefaultValueFactory = _ => "emulator",
        };
        var size = new Option<int>("--size") { Description = "Rows and columns of the matrices, tokens of the sequence; a multiple of 64.", DefaultValueFactory = _ => 128 };
        var json = Arguments.Json();
        var command = new Command("ladder", "Climb from the formula to tensor cores: what each rung moves, issues and collides with.") { device, size, json };
        command.SetAction((parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            string name = parse.GetRequiredValue(device);
            int extent = parse.GetRequiredValue(size);
            var matMul = Ladder.ClimbMatMul(name, extent);
            cancel.ThrowIfCancellationRequested();
            var attention = Ladder.ClimbAttention(name, extent);
            if (parse.GetValue(json))
            {
                screen.Out.WriteLine(Json.Line(new { size = extent, matmul = matMul.Select(Numbers), attention = attention.Select(Numbers) }));
                return Task.CompletedTask;
            }

            Print(screen, $"C = A·B, {extent} x {extent}, on {name}", matMul);
            screen.Out.WriteLine();
            Print(screen, $"Causal attention, {extent} tokens, one head of 32, on {name}", attention);
            return Task.CompletedTask;
        });
        return command;
    }

    static void Print(Screen screen, string title, IReadOnlyList<RungResult> rungs)
    {
        screen.Out.WriteLine(title);
        screen.Out.WriteLine();
        if (rungs[0].Time is not null)
        {
            screen.Table(["rung", "idea", "time", "error"], rungs.Select(rung => (string[])[rung.Name, rung.Idea, Number(rung.Time!.Value.TotalMicroseconds, "0.0") + " us", Error(rung)]));
            return;
        }

        screen.Table(["rung", "idea", "warp instr.", "global KB", "shared req.", "passes", "mma", "barriers", "error"], rungs.Select(rung => (string[])
        [
            rung.Name, rung.Idea, Number(rung.Instructions, "N0"), Number(rung.GlobalBytes / 1024.0, "N0"), Number(rung.SharedRequests, "N0"), Number(rung.WavefrontsPerRequest, "0.00"),
            Number(rung.MatrixMultiplies, "N0"), Number(rung.Barriers, "N0"), Error(rung),
        ]));
        screen.Out.WriteLine();
        screen.Out.WriteLine("32-byte sectors that one load of a warp touches:");
        screen.Table(["rung", "sectors", "", "", "of what moves is used"], rungs.Select(rung => (string[])
        [
            rung.Name, Number(rung.SectorsPerLoad, "0.0"), Bar(rung.SectorsPerLoad), rung.IsStrided ? "STRIDED" : "coalesced", Number(100 * rung.LoadUse, "0") + " %",
        ]));
    }

    static object Numbers(RungResult rung) => new
    {
        rung.Name,
        rung.Idea,
        rung.RelativeError,
        rung.Instructions,
        rung.GlobalBytes,
        rung.SectorsPerLoad,
        rung.LoadUse,
        rung.SharedRequests,
        rung.WavefrontsPerRequest,
        rung.MatrixMultiplies,
        rung.Barriers,
        microseconds = rung.Time?.TotalMicroseconds,
    };

    static string Bar(double sectors) => new string('#', Math.Clamp((int)Math.Round(sectors), 1, BarLength)).PadRight(BarLength, '.');

    static string Error(RungResult rung) => Number(rung.RelativeError, "0e+0");

    static string Number(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
}
