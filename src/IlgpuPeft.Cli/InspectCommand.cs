using System.CommandLine;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;

namespace IlgpuPeft.Cli;

static class InspectCommand
{
    public static Command Create()
    {
        var path = new Argument<string>("PATH") { Description = "A model folder, an adapter folder, or a safetensors file." };
        var (json, device, dtype) = (Arguments.Json(), Arguments.Device(), Arguments.Dtype());
        var command = new Command("inspect", "Show what a model, an adapter or a safetensors file holds.") { path, json, device, dtype };
        command.SetAction((parse, cancel) =>
        {
            Arguments.RequireDevice(parse, device, dtype);
            cancel.ThrowIfCancellationRequested(); // each of the three below takes moments
            var (screen, asJson, at) = (new Screen(parse.InvocationConfiguration), parse.GetValue(json), parse.GetRequiredValue(path));
            if (File.Exists(at))
            {
                ShowFile(at, asJson, screen);
            }
            else if (File.Exists(Path.Combine(at, PeftFiles.ConfigName)))
            {
                ShowAdapter(at, asJson, screen);
            }
            else if (File.Exists(Path.Combine(at, "config.json")))
            {
                ShowModel(at, asJson, screen);
            }
            else
            {
                throw new DirectoryNotFoundException($"{at}: expected a folder with config.json or {PeftFiles.ConfigName}, or a safetensors file, found " +
                    $"{(Directory.Exists(at) ? "a folder with neither" : "nothing")}. Check the path.");
            }

            return Task.CompletedTask;
        });
        return command;
    }

    static void ShowFile(string path, bool json, Screen screen)
    {
        if (!IsSafetensors(path))
        {
            throw new InvalidDataException($"{path}: expected a folder with config.json or {PeftFiles.ConfigName}, or a safetensors file, found a file of another kind. Check the path.");
        }

        using var file = Safetensors.Open(path);
        if (json)
        {
            var tensors = file.Tensors.Select(info => new { info.Name, Dtype = info.TypeName, info.Shape, info.Bytes });
            screen.Out.WriteLine(Json.Line(new { Kind = "safetensors", file.Metadata, Tensors = tensors }));
            return;
        }

        screen.Table(["tensor", "dtype", "shape", "bytes"], file.Tensors.Select(info => (string[])[info.Name, info.TypeName, info.ShapeText, info.Bytes.ToString("N0")]));
        screen.Out.WriteLine($"{file.Tensors.Count} tensors, {MemoryAccount.Format(file.Tensors.Sum(info => info.Bytes))}");
    }

    // By its name, so that a damaged one is told as such; or by the brace that opens a header, after eight bytes of its length.
    static bool IsSafetensors(string path)
    {
        using var file = File.OpenRead(path);
        Span<byte> start = stackalloc byte[9];
        return Path.GetExtension(path) == ".safetensors" || (file.ReadAtLeast(start, start.Length, throwOnEndOfStream: false) == start.Length && start[^1] == '{');
    }

    static void ShowAdapter(string folder, bool json, Screen screen)
    {
        var (adapter, notes) = PeftFiles.Read(folder);
        notes.ToList().ForEach(screen.Warn);
        var (config, pairs) = (adapter.Config, adapter.Pairs);
        var ranks = pairs.Select(pair => pair.Rank).Distinct().Order().ToList();
        var targets = pairs.Select(pair => pair.Module[(pair.Module.LastIndexOf('.') + 1)..]).Distinct().Order().ToList();
        long trainable = pairs.Sum(pair => (long)pair.A.Length + pair.B.Length) + (adapter.Head?.Length ?? 0);
        var untrained = pairs.Where(pair => pair.B.All(value => value == 0)).Select(pair => pair.Module).ToList();
        if (json)
        {
            screen.Out.WriteLine(Json.Line(new
            {
                Kind = "adapter", Ranks = ranks, config.LoraAlpha, config.UseRsLora, config.LoraDropout, Targets = targets, Modules = pairs.Count,
                Trainable = trainable, config.TaskType, Head = adapter.Head?.Length, BaseModel = config.BaseModelNameOrPath, ZeroB = untrained,
            }));
            return;
        }

        screen.Out.WriteLine($"LoRA adapter of {config.BaseModelNameOrPath ?? "an unnamed model"}");
        screen.Out.WriteLine($"rank {string.Join(", ", ranks)}, alpha {config.LoraAlpha}{(config.UseRsLora ? ", rank-stabilised" : "")}, dropout {config.LoraDropout}");
        screen.Out.WriteLine($"{pairs.Count} layers: {string.Join(", ", targets)}");
        if (adapter.Head is { } head)
        {
            screen.Out.WriteLine($"a head of {head.Length} weights: it scores texts, as a reward or value model");
        }

        screen.Out.WriteLine($"{trainable:N0} trained weights");
        if (untrained.Count > 0)
        {
            string some = string.Join(", ", untrained.Take(3)) + (untrained.Count > 3 ? " ..." : "");
            screen.Out.WriteLine($"warning: B is all zero in {untrained.Count} of {pairs.Count} layers, which therefore change nothing: {some}");
        }
    }

    static void ShowModel(string folder, bool json, Screen screen)
    {
        var config = ModelConfig.Load(Path.Combine(folder, "config.json"));
        using var files = WeightFiles.Open(folder);
        var groups = files.Tensors.GroupBy(info => info.TypeName).OrderByDescending(group => group.Sum(info => info.Bytes))
            .Select(group => new { Dtype = group.Key, Tensors = group.Count(), Bytes = group.Sum(info => info.Bytes) }).ToList();
        int quantized = files.Tensors.Count(info => IsQuantized(files, info));
        long parameters = files.Tensors.Where(info => !BitsAndBytes.IsPart(info.Name) && !(config.TiedEmbeddings && info.Name == "lm_head.weight"))
            .Sum(info => IsQuantized(files, info) ? BitsAndBytes.Read(files, Module(info)).Count : info.Count);
        if (json)
        {
            screen.Out.WriteLine(Json.Line(new
            {
                Kind = "model", config.ModelType, Parameters = parameters, config.Layers, config.Hidden, config.Intermediate, config.Heads, config.KeyValueHeads,
                HeadDim = config.HeadWidth, config.Vocabulary, config.MaxPositions, config.TiedEmbeddings, Nf4Layers = quantized, Tensors = groups,
            }));
            return;
        }

        screen.Out.WriteLine($"{config.ModelType}: {parameters:N0} weights{(quantized > 0 ? $", {quantized} layers in NF4" : "")}");
        screen.Out.WriteLine($"{config.Layers} layers, width {config.Hidden}, MLP {config.Intermediate}, {config.Heads} heads of {config.HeadWidth}, " +
            $"{config.KeyValueHeads} for keys and values");
        screen.Out.WriteLine($"vocabulary {config.Vocabulary}{(config.TiedEmbeddings ? ", head tied to the embedding" : "")}, made for {config.MaxPositions} positions");
        screen.Table(["dtype", "tensors", "bytes"], groups.Select(group => (string[])[group.Dtype, group.Tensors.ToString(), group.Bytes.ToString("N0")]));
    }

    static bool IsQuantized(WeightFiles files, TensorInfo info) =>
        info.Name.EndsWith(".weight", StringComparison.Ordinal) && BitsAndBytes.IsQuantized(files, Module(info));

    static string Module(TensorInfo info) => info.Name[..^".weight".Length];
}
