using IlgpuPeft.Adapters;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>What a run trains: an adapter, or all of a model. Knows how to save itself, and how to read itself back.</summary>
public abstract class TrainedWeights
{
    /// <summary>The trainable values.</summary>
    public abstract ParameterStore Parameters { get; }

    /// <summary>Writes what other tools read: a PEFT adapter folder, or a Hugging Face model folder.</summary>
    public abstract void Save(string folder);

    /// <summary>Reads values that <see cref="Save"/> wrote, bit for bit.</summary>
    /// <exception cref="CheckpointException">The folder holds something else.</exception>
    public abstract void Restore(string folder);

    /// <summary>The parameters whose gradient must not be zero after a first backward pass: if one is, it is not connected.</summary>
    public abstract IEnumerable<Parameter> MustLearn { get; }

    /// <summary>What is trained over what, in words: two runs whose descriptions differ do not continue each other.</summary>
    public abstract string Description { get; }

    /// <summary>An adapter over the model at <paramref name="baseModel"/>.</summary>
    public static TrainedWeights Of(AdapterSet adapter, string baseModel) => new AdapterWeights(adapter, baseModel);

    /// <summary>All weights of a model on which <see cref="CausalLm.MakeTrainable"/> was called.</summary>
    /// <param name="model">The model.</param>
    /// <param name="sourceFolder">Its tokenizer files are copied beside the saved weights; null for none.</param>
    public static TrainedWeights Of(CausalLm model, string? sourceFolder) => new ModelWeights(model, sourceFolder);

    static string Describe(CausalLm model)
    {
        var first = model.Linears.First().Weight;
        string storage = first.Scales is { } scales ? scales.IsDouble ? "NF4 double" : "NF4" : first.Values.Type.ToString();
        return $"{model.Config.ModelType} of {model.ParameterCount} weights in {storage}";
    }

    sealed class AdapterWeights(AdapterSet adapter, string baseModel) : TrainedWeights
    {
        public override ParameterStore Parameters => adapter.Parameters;

        public override IEnumerable<Parameter> MustLearn => [.. adapter.Updates.Select(x => x.Update.B), .. adapter.Head is { } head ? [head] : (Parameter[])[]];

        public override string Description =>
            $"LoRA of {adapter.Updates.Count()} layers{(adapter.Head is null ? "" : " and a scalar head")}, {adapter.Parameters.Count} values, rank {adapter.Config.Rank}, scale {adapter.Config.Scale}, dropout {adapter.Config.Dropout} over {Describe(adapter.Model)}";

        public override void Save(string folder) => PretrainedAdapter.Save(adapter, folder, baseModel);

        public override void Restore(string folder) => PretrainedAdapter.Restore(adapter, folder);
    }

    sealed class ModelWeights(CausalLm model, string? sourceFolder) : TrainedWeights
    {
        public override ParameterStore Parameters => model.Trainable ?? throw new InvalidOperationException("TrainedWeights: call MakeTrainable on the model first.");

        public override IEnumerable<Parameter> MustLearn => Parameters.Parameters.Values.Where(parameter => parameter.Name.EndsWith("_proj.weight", StringComparison.Ordinal));

        public override string Description => $"all of {Describe(model)}";

        public override void Save(string folder) => SavedModel.Write(model, folder, Kernels.DType.F32, sourceFolder);

        public override void Restore(string folder)
        {
            using var files = WeightFiles.Open(folder);
            foreach (var parameter in Parameters.Parameters.Values)
            {
                var info = files.Find(parameter.Name) ?? throw new CheckpointException(files.Path, parameter.Name, "is missing.");
                if (info.Count != parameter.Count)
                {
                    throw new CheckpointException(files.FileOf(info.Name), info.Name, $"has shape {info.ShapeText}, expected [{parameter.Rows}, {parameter.Columns}].");
                }

                files.Upload(info.Name, model.Backend, parameter.Value);
            }
        }
    }
}
