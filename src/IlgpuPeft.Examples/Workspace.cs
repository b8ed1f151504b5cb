using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Examples;

/// <summary>What all examples start from: a base model in NF4 on a device, its tokenizer, questions to learn and to be judged by, a folder for adapters, and somewhere to print.</summary>
sealed class Workspace : IDisposable
{
    readonly Backend device;
    readonly string folder;
    readonly TextWriter output;

    public Workspace(string folder, TextWriter output)
    {
        (this.folder, this.output) = (folder, output);
        BuiltInModel.Unpack(BaseFolder); // or have a downloaded Hugging Face folder there
        device = Device.Open("auto");
        Model = PretrainedModel.Load(BaseFolder, device, WeightStorage.Nf4Double);
        Tokenizer = Tokenizer.Load(BaseFolder);
        Rows = new TextRows(Tokenizer);
    }

    public string BaseFolder => FolderOf("base");

    /// <summary>The frozen base, which all adapters lie over.</summary>
    public CausalLm Model { get; }

    public Tokenizer Tokenizer { get; }

    /// <summary>Turns texts into rows for trainers.</summary>
    public TextRows Rows { get; }

    /// <summary>Requests such as "Give the plural of cat." with their answers. The base model has read "the plural of cat is cats.", and no request in its life.</summary>
    public static IReadOnlyList<Question> Train { get; } = [.. Instructions.Train.Where(IsAsked)];

    /// <summary>The same about other words.</summary>
    public static IReadOnlyList<Question> HeldOut { get; } = [.. Instructions.HeldOut.Where(IsAsked)];

    /// <summary>People prefer the friendly answer to a question over the plain one.</summary>
    public PreferencePair Preference(Question question) => Rows.Pair(question.Prompt, chosen: Friendliness.Of(question.Answer), rejected: question.Answer);

    /// <summary>What the model answers to the held-out questions, with the adapter that is enabled.</summary>
    public IReadOnlyList<Reply> Ask(CancellationToken cancel) => Quiz.Take(Model, Tokenizer, HeldOut, cancel: cancel);

    /// <summary>Where the example of that name leaves its adapter.</summary>
    public string FolderOf(string name) => Path.Combine(folder, name);

    /// <summary>The same, after that example ran, should it not have before.</summary>
    public async Task<string> AdapterAsync(string name, Func<Workspace, CancellationToken, Task> example, CancellationToken cancel)
    {
        if (!File.Exists(Path.Combine(FolderOf(name), "adapter_config.json")))
        {
            Say($"first the example {name}, whose adapter this one needs:");
            await example(this, cancel);
        }

        return FolderOf(name);
    }

    public void Write(string text) => output.Write(text);

    public void Say(string line) => output.WriteLine(line);

    /// <summary>Prints a number from before and after training.</summary>
    public void Compare(string what, double before, double after) => Say($"{what}: {before:0.000} before, {after:0.000} after");

    /// <summary>Prints what of the answers became friendly, and what stayed or became right.</summary>
    public void Compare(IReadOnlyList<Reply> before, IReadOnlyList<Reply> after)
    {
        Compare("friendly answers", Friendly(before), Friendly(after));
        Compare("right answers", Quiz.Accuracy(before), Quiz.Accuracy(after));
    }

    /// <summary>Prints the loss of every fifth step, and one of the method's measures beside it.</summary>
    public IProgress<StepMetrics> Steps(string? measure = null) => new ImmediateProgress<StepMetrics>(step =>
    {
        if (step.Step % 5 == 0 || step.Step == step.TotalSteps)
        {
            Say($"step {step.Step}/{step.TotalSteps}  loss {step.Loss:0.000}{(measure is null ? "" : $"  {measure} {step[measure]:0.000}")}  {step.TokensPerSecond:N0} tokens/s");
        }
    });

    public void Dispose()
    {
        Model.Dispose();
        device.Dispose();
    }

    static bool IsAsked(Question question) => question.Skill is Skill.Plural or Skill.Capitals or Skill.FirstLetter;

    static double Friendly(IReadOnlyList<Reply> replies) => (double)replies.Count(reply => reply.IsFriendly) / replies.Count;
}
