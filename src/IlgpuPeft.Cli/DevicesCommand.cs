using System.CommandLine;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Cli;

static class DevicesCommand
{
    public static Command Create()
    {
        var json = Arguments.Json();
        var command = new Command("devices", "What --device may name, and whether it opens here.") { json };
        command.SetAction(parse =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            var found = Device.Probe();
            if (parse.GetValue(json))
            {
                screen.Out.WriteLine(Json.Line(found));
            }
            else
            {
                screen.Table(["device", "opens", "detail"], found.Select(device => (string[])[device.Name, device.Opens ? "yes" : "no", device.Detail]));
            }
        });
        return command;
    }
}
