using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Adapters;

/// <summary>
/// The low-rank updates of one adapter over a frozen model, and a scalar head where it judges texts instead of continuing them. Several sets can live over one base: the one that is
/// enabled sits in the layers' slots, and with none enabled the model is the base model. So policy, reference, reward and value models are roles of one base.
/// </summary>
public sealed class AdapterSet : IDisposable
{
    // Operation numbers of RandomKey for initial values: apart from those of dropout, which count layers from 0.
    const uint InitialDraw = 0x1017_0000, HeadDraw = 0x1017_FFFF;

    const double HeadDeviation = 0.02; // Hugging Face's initializer_range

    readonly List<(Linear Layer, Lora Adapter)> adapted = [];

    /// <summary>Makes an adapter with A uniform in ±1/√K and B zero, so that the model starts unchanged (PEFT's default), and enables it.</summary>
    /// <param name="model">The base model.</param>
    /// <param name="config">Rank, scale, and which layers.</param>
    /// <param name="seed">Of the initial values.</param>
    /// <param name="scalarHead">Whether it has a <see cref="Head"/>, drawn from a normal distribution with standard deviation 0.02.</param>
    /// <exception cref="ArgumentException">The configuration is out of range or matches no layer; the message lists the layers' names.</exception>
    public AdapterSet(CausalLm model, LoraConfig config, ulong seed = 0, bool scalarHead = false) : this(model, config, Targets(model, config), scalarHead)
    {
        if (Head is not null)
        {
            var key = new RandomKey(seed, 0, HeadDraw);
            model.Backend.Write([.. Enumerable.Range(0, Head.Columns).Select(i => (float)(HeadDeviation * key.Normal((ulong)i)))], Head.Value);
        }

        uint layer = InitialDraw;
        foreach (var (_, update) in Updates)
        {
            model.Backend.Write(InitialA(update.A, new RandomKey(seed, 0, layer++)), update.A.Value);
        }
    }

    /// <summary>Makes an adapter of zeros over the given modules, each with its own rank and scale, and enables it: a reader fills it.</summary>
    internal AdapterSet(CausalLm model, LoraConfig config, IReadOnlyDictionary<string, (int Rank, double Scale)> modules, bool scalarHead = false)
    {
        Model = model;
        Config = config;
        List<Linear> layers = [.. model.Linears.Where(layer => modules.ContainsKey(layer.Name))];
        var factors = layers.SelectMany(layer => new[]
        {
            new ParameterSpec(NameOfA(layer), modules[layer.Name].Rank, layer.Inputs),
            new ParameterSpec(NameOfB(layer), layer.Outputs, modules[layer.Name].Rank),
        });
        ParameterSpec[] head = scalarHead ? [new ParameterSpec(HeadName, 1, model.Config.Hidden)] : [];
        Parameters = new ParameterStore(model.Backend, factors.Concat(head), "adapters");
        Head = scalarHead ? Parameters[HeadName] : null;
        foreach (var layer in layers)
        {
            var update = new LowRankUpdate(Parameters[NameOfA(layer)], Parameters[NameOfB(layer)], modules[layer.Name].Scale);
            adapted.Add((layer, new Lora(update, config.Dropout, (uint)adapted.Count)));
        }

        Enable();
    }

    /// <summary>The name of <see cref="Head"/>, as Hugging Face's sequence classifiers have it.</summary>
    public const string HeadName = "score.weight";

    /// <summary>[1, D]: turns a token's last hidden state into one number, the score of a reward model or a value; null in an adapter that continues texts.</summary>
    public Parameter? Head { get; }

    /// <summary>The model whose layers are adapted.</summary>
    public CausalLm Model { get; }

    /// <summary>Rank, scale, and which layers.</summary>
    public LoraConfig Config { get; }

    /// <summary>All factors and the head, flat: what an optimizer trains.</summary>
    public ParameterStore Parameters { get; }

    /// <summary>The adapted layers' names and factors, in the model's order.</summary>
    public IEnumerable<(string Module, LowRankUpdate Update)> Updates => adapted.Select(x => (x.Layer.Name, x.Adapter.Update));

    /// <summary>Makes this set the only one in the model's slots.</summary>
    public void Enable()
    {
        DisableAll(Model);
        adapted.ForEach(x => x.Layer.Adapter = x.Adapter);
    }

    /// <summary>Makes this set the only one in the model's slots until the result is disposed, which puts back what they held: for a role that is taken in the middle of another.</summary>
    public IDisposable EnableForNow()
    {
        List<(Linear Layer, ILinearAdapter? Adapter)> before = [.. Model.Linears.Select(layer => (layer, layer.Adapter))];
        Enable();
        return new Slots(before);
    }

    /// <summary>Puts a model into the role of a reference: with that set alone in its slots, or as the frozen base.</summary>
    internal static void EnableReference(CausalLm model, AdapterSet? reference)
    {
        if (reference is null)
        {
            DisableAll(model);
        }
        else
        {
            reference.Enable();
        }
    }

    /// <summary>Empties every slot: the model is the frozen base.</summary>
    public static void DisableAll(CausalLm model)
    {
        foreach (var layer in model.Linears)
        {
            layer.Adapter = null;
        }
    }

    /// <summary>Takes this set out of the slots that it holds: the model is the frozen base again.</summary>
    public void Disable()
    {
        foreach (var (layer, adapter) in adapted)
        {
            if (layer.Adapter == adapter)
            {
                layer.Adapter = null;
            }
        }
    }

    /// <inheritdoc />
    public void Dispose()
    {
        Disable();
        Parameters.Dispose();
    }

    sealed class Slots(List<(Linear Layer, ILinearAdapter? Adapter)> contents) : IDisposable
    {
        public void Dispose() => contents.ForEach(slot => slot.Layer.Adapter = slot.Adapter);
    }

    static Dictionary<string, (int, double)> Targets(CausalLm model, LoraConfig config)
    {
        config.Validate();
        var targets = model.Linears.Where(layer => config.Matches(layer.Name)).ToDictionary(layer => layer.Name, _ => (config.Rank, config.Scale), StringComparer.Ordinal);
        if (targets.Count == 0)
        {
            var names = model.Linears.Select(layer => layer.Name[(layer.Name.LastIndexOf('.') + 1)..]).Distinct();
            throw new ArgumentException($"AdapterSet: target modules [{config.TargetPattern ?? string.Join(", ", config.Targets)}] match no linear layer of this model. " +
                $"It has {string.Join(", ", names)}; or say {LoraConfig.AllLinear}.", nameof(config));
        }

        return targets;
    }

    static string NameOfA(Linear layer) => layer.Name + ".lora_A.weight";

    static string NameOfB(Linear layer) => layer.Name + ".lora_B.weight";

    static float[] InitialA(Parameter a, RandomKey key)
    {
        double bound = 1 / Math.Sqrt(a.Columns);
        var values = new float[a.Count];
        for (int i = 0; i < values.Length; i++)
        {
            values[i] = (float)((2 * key.Uniform((ulong)i) - 1) * bound);
        }

        return values;
    }
}
