using System.CommandLine;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Cli;

static class QuantizeCommand
{
    public static Command Create()
    {
        var (model, output) = (Arguments.Folder("--model", "A model in 16 or 32 bits."), Arguments.Folder("--out", "Where the 4-bit model goes."));
        var (device, dtype) = (Arguments.Device(), Arguments.Dtype());
        var plain = new Option<bool>("--no-double-quant") { Description = "Keep the scales of blocks in 32 bits: 4.5 bits a weight instead of 4.13." };
        var command = new Command("quantize", "Write a bitsandbytes-compatible NF4 checkpoint.") { model, output, plain, device, dtype };
        command.SetAction((parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            string from = parse.GetRequiredValue(model), to = parse.GetRequiredValue(output);
            Arguments.RequireDevice(parse, device, dtype);
            AtomicFile.RequireWritable(to);
            SavedModel.Quantize(from, to, doubleQuant: !parse.GetValue(plain), cancel: cancel);
            screen.Say($"{to}: {MemoryAccount.Format(Size(from))} -> {MemoryAccount.Format(Size(to))}");
            return Task.CompletedTask;
        });
        return command;
    }

    static long Size(string folder) => Directory.EnumerateFiles(folder, "*.safetensors").Sum(file => new FileInfo(file).Length);
}
