using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Models;

/// <summary>A Llama-family decoder: embedding, blocks, final norm, output head. Owns its weights; adapters own theirs.</summary>
public sealed class CausalLm : IDisposable
{
    readonly List<Slice> owned;
    ParameterStore? store;

    internal CausalLm(Backend backend, ModelConfig config, Weight embedding, IReadOnlyList<DecoderBlock> blocks, Parameter norm, Weight? head, List<Slice> owned)
    {
        Backend = backend;
        Config = config;
        Embedding = embedding;
        Blocks = blocks;
        Norm = norm;
        Head = head ?? embedding;
        this.owned = owned;
        Rope = new RopeTables(backend, config.Rope.InverseFrequencies(config.HeadWidth));
    }

    /// <summary>The device that holds the model.</summary>
    public Backend Backend { get; }

    /// <summary>The fields of <c>config.json</c>.</summary>
    public ModelConfig Config { get; }

    /// <summary>[V, D].</summary>
    public Weight Embedding { get; private set; }

    /// <summary>[V, D]; the embedding itself where the two are tied.</summary>
    public Weight Head { get; private set; }

    /// <summary>[D], before the head.</summary>
    public Parameter Norm { get; private set; }

    /// <summary>The decoder blocks in order.</summary>
    public IReadOnlyList<DecoderBlock> Blocks { get; }

    /// <summary>Whether blocks are recomputed in the backward pass, which keeps only their inputs.</summary>
    public bool GradientCheckpointing { get; set; }

    /// <summary>The trainable weights, if <see cref="MakeTrainable"/> was called.</summary>
    public ParameterStore? Trainable => store;

    /// <summary>∂loss/∂head [V, D], added to; empty while frozen.</summary>
    public Slice HeadGradient { get; private set; }

    /// <summary>Number of weights, whatever their storage.</summary>
    public long ParameterCount =>
        (long)Embedding.Rows * Embedding.Columns + (Config.TiedEmbeddings ? 0 : (long)Head.Rows * Head.Columns) + Norm.Count +
        Blocks.Sum(block => block.Linears.Sum(x => (long)x.Outputs * x.Inputs + (x.Bias?.Count ?? 0)) +
            block.InputNorm.Count + block.MlpNorm.Count + (block.QueryNorm?.Count ?? 0) + (block.KeyNorm?.Count ?? 0));

    /// <summary>Bytes of device memory that the weights take.</summary>
    public long Bytes => owned.Sum(slice => slice.Bytes) + (store is null ? 0 : store.Values.Bytes);

    Slice EmbeddingGradient { get; set; }

    RopeTables Rope { get; }

    /// <summary>Every linear layer of every block.</summary>
    public IEnumerable<Linear> Linears => Blocks.SelectMany(block => block.Linears);

    /// <summary>The last hidden states, normalised: [N, D]. <see cref="Logits"/> or <see cref="Backend.TokenLogProbs"/> takes them further.</summary>
    public Tensor Forward(Tape tape, TokenBatch batch)
    {
        Rope.Reserve(batch.MaxPositions);
        var x = tape.Embedding(batch.Ids, Embedding, EmbeddingGradient);
        foreach (var block in Blocks)
        {
            var input = x;
            x = !tape.IsRecording
                ? tape.WithoutRecording(inner => block.Forward(inner, input, batch, Rope))
                : GradientCheckpointing
                    ? tape.Checkpoint(input, (inner, again) => block.Forward(inner, again, batch, Rope))
                    : block.Forward(tape, input, batch, Rope);
            tape.Release(input);
        }

        return tape.RmsNorm(x, Norm, Config.RmsNormEpsilon);
    }

    /// <summary>hidden [N, D] → logits [N, V]. No gradient: training goes through <see cref="Backend.TokenLogProbs"/>, which never holds all of them.</summary>
    public Tensor Logits(Tape tape, Tensor hidden)
    {
        var logits = tape.New(hidden.Rows, Config.Vocabulary);
        Backend.LinearForward(hidden.Data, Head, default, null, hidden.Data, default, logits.Data, accumulate: false);
        return logits;
    }

    /// <summary>
    /// Moves every weight into one trainable store, for training from scratch or in full. Linear weights must be dense.
    /// </summary>
    /// <exception cref="InvalidOperationException">A weight is NF4, or this was called before.</exception>
    public ParameterStore MakeTrainable()
    {
        if (store is not null || Linears.Any(layer => layer.Weight.Scales is not null))
        {
            throw new InvalidOperationException(store is not null
                ? "CausalLm.MakeTrainable: the weights are trainable already."
                : "CausalLm.MakeTrainable: the weights are NF4, which has no gradient. Load the model without load_in_4bit, or train an adapter.");
        }

        List<(ParameterSpec Spec, Slice Old, Action<Parameter> Install)> all = [];
        Matrix("model.embed_tokens.weight", Embedding, p =>
        {
            (Embedding, EmbeddingGradient) = (Dense(p), p.Gradient);
            if (Config.TiedEmbeddings)
            {
                (Head, HeadGradient) = (Embedding, p.Gradient);
            }
        });
        if (!Config.TiedEmbeddings)
        {
            Matrix("lm_head.weight", Head, p => (Head, HeadGradient) = (Dense(p), p.Gradient));
        }

        Vector(Norm, p => Norm = p);
        foreach (var block in Blocks)
        {
            Vector(block.InputNorm, p => block.InputNorm = p);
            Vector(block.MlpNorm, p => block.MlpNorm = p);
            Vector(block.QueryNorm, p => block.QueryNorm = p);
            Vector(block.KeyNorm, p => block.KeyNorm = p);
            foreach (var layer in block.Linears)
            {
                Matrix(layer.Name + ".weight", layer.Weight, p => (layer.Weight, layer.WeightGradient) = (Dense(p), p.Gradient));
                Vector(layer.Bias, p => layer.Bias = p);
            }
        }

        store = new ParameterStore(Backend, all.Select(x => x.Spec), "weights");
        foreach (var (spec, old, install) in all)
        {
            var parameter = store[spec.Name];
            Backend.Copy(old, parameter.Value);
            install(parameter);
        }

        Backend.Synchronize();
        owned.ForEach(Backend.Free);
        owned.Clear();
        return store;

        void Matrix(string name, Weight weight, Action<Parameter> install) => all.Add((new ParameterSpec(name, weight.Rows, weight.Columns), weight.Values, install));

        void Vector(Parameter? old, Action<Parameter> install)
        {
            if (old is not null)
            {
                all.Add((new ParameterSpec(old.Name, 1, (int)old.Count, Decays: false), old.Value, install));
            }
        }

        static Weight Dense(Parameter p) => new(p.Rows, p.Columns, p.Value);
    }

    /// <inheritdoc />
    public void Dispose()
    {
        owned.ForEach(Backend.Free);
        owned.Clear();
        store?.Dispose();
        Rope.Dispose();
    }
}
