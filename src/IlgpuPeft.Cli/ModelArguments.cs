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
    /// <param name="parse">The command line.</param>
    /// <param name="screen">Hears what was read and ignored.</param>
    /// <param name="scores">Whether the adapter is to score texts, as a reward model, instead of continuing them.</param>
    /// <exception cref="ArgumentException">It is to score texts, and there is none.</exception>
    public OpenModel Open(ParseResult parse, Screen screen, bool scores = false)
    {
        if (scores && parse.GetValue(adapter) is null)
        {
            throw new ArgumentException("--reward: a base model has no head that scores texts. Give the folder of a reward model's adapter with --adapter.");
        }

        string folder = parse.GetRequiredValue(model);
        var backend = RunDevice.Open(parse.GetRequiredValue(device), parse.GetRequiredValue(dtype), screen.Warn);
        CausalLm? loaded = null;
        try
        {
            loaded = PretrainedModel.Load(folder, backend, Arguments.StorageOf(parse, storage));
            var update = parse.GetValue(adapter) is { } path ? PretrainedAdapter.Load(loaded, path, screen.Warn, scores) : null;
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

    /// <summary>The tokens of a text that nothing follows, as in training: with its end-of-sequence token.</summary>
    /// <exception cref="ArgumentException">The model has no tokenizer, or that names no end-of-sequence token.</exception>
    public int[] EncodeWhole(string text)
    {
        int[] ids = Encode(text);
        int eos = Tokenizer!.Eos?.Id ?? throw new ArgumentException($"{Folder}: the tokenizer names no end-of-sequence token, at which a text is scored. Give token ids with --tokens.");
        return ids is [.., var last] && last == eos ? ids : [.. ids, eos];
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
