using System.CommandLine;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Cli;

static class MergeCommand
{
    public static Command Create()
    {
        var (model, adapter) = (Arguments.Folder("--model", "The base model."), Arguments.Folder("--adapter", "PEFT adapter folder."));
        var output = Arguments.Folder("--out", "Where the merged model goes.");
        var type = new Option<string?>("--dtype") { Description = "bf16, f16 or f32. Default: as each tensor is stored." };
        type.AcceptOnlyFromAmong("bf16", "f16", "f32");
        var (storage, device) = (Arguments.Base(), Arguments.Device());
        var command = new Command("merge", "Add an adapter to its base model's weights, and write the sum as a model.") { model, adapter, output, type, storage, device };
        command.SetAction((parse, cancel) =>
        {
            var screen = new Screen(parse.InvocationConfiguration);
            string from = parse.GetRequiredValue(model), to = parse.GetRequiredValue(output);
            Arguments.RequireDevice(parse, device);
            AtomicFile.RequireWritable(to);
            DType? stored = parse.GetValue(type) is { } name ? Enum.Parse<DType>(name, ignoreCase: true) : null;
            SavedModel.Merge(from, parse.GetRequiredValue(adapter), to, stored, Arguments.StorageOf(parse, storage), cancel);
            screen.Say($"{to}: merged, {MemoryAccount.Format(new FileInfo(Path.Combine(to, "model.safetensors")).Length)}");
            return Task.CompletedTask;
        });
        return command;
    }
}
