using System.CommandLine;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Text;

namespace IlgpuPeft.Cli;

/// <summary>The options of every command that runs a model.</summary>
sealed class ModelArguments
{
    readonly Option<string> model = Arguments.Folder("--model", "Model folder in Hugging Face format.");
    readonly Option<string?> adapter = new("--adapter") { Description = "PEFT adapter folder.", HelpName = "DIR" };
    readonly Option<string> storage = Arguments.Base();
    readonly Option<string> device = Arguments.Device();
    readonly Option<string> dtype = Arguments.Dtype();

    public void AddTo(Command command)
    {
        foreach (Option option in (Option[])[model, adapter, storage, device, dtype])
        {
            command.Add(option);
        }
    }

    /// <summary>Loads what the command line names.</summary>
    public OpenModel Open(ParseResult parse, Screen screen)
    {
        string folder = parse.GetRequiredValue(model);
        var backend = RunDevice.Open(parse.GetRequiredValue(device), parse.GetRequiredValue(dtype));
        CausalLm? loaded = null;
        try
        {
            loaded = PretrainedModel.Load(folder, backend, Arguments.StorageOf(parse, storage));
            var update = parse.GetValue(adapter) is { } path ? PretrainedAdapter.Load(loaded, path, screen.Warn) : null;
            return new OpenModel(folder, backend, loaded, update, Tokenizer.LoadIfPresent(folder));
        }
        catch
        {
            loaded?.Dispose();
            backend.Dispose();
            throw;
        }
    }
}

/// <summary>A model ready to run.</summary>
sealed record OpenModel(string Folder, Backend Backend, CausalLm Model, AdapterSet? Adapter, Tokenizer? Tokenizer) : IDisposable
{
    /// <summary>The tokens of a text that something may follow.</summary>
    /// <exception cref="ArgumentException">The model has no tokenizer.</exception>
    public int[] Encode(string text)
    {
        if (Tokenizer is null)
        {
            throw new ArgumentException($"{Folder}: there is no tokenizer.json, so text cannot be read. Give token ids with --tokens.");
        }

        int[] ids = Tokenizer.Encode(text);
        return Tokenizer.AddEos ? ids[..^1] : ids;
    }

    /// <summary>Checks token ids that were given as numbers.</summary>
    /// <exception cref="ArgumentException">One is outside the vocabulary.</exception>
    public void RequireInVocabulary(IEnumerable<int> ids)
    {
        foreach (int id in ids.Where(id => (uint)id >= Model.Config.Vocabulary))
        {
            throw new ArgumentException($"--tokens: token id {id} is out of range, expected 0 to {Model.Config.Vocabulary - 1}. The text was tokenised for another model.");
        }
    }

    public void Dispose()
    {
        Adapter?.Dispose();
        Model.Dispose();
        Backend.Dispose();
    }
}
