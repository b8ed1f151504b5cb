using System.Runtime.InteropServices;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Gradients of whole models against difference quotients of the loss, parameter by parameter, in double.</summary>
public class ModelGradientTests
{
    const int Seed = 5;
    static readonly (ulong, uint) Randomness = (21, 4);

    // Two sequences; the second has a prompt that is not trained on.
    static readonly PackedBatch Batch = PackedBatch.From(
    [
        new Example(Architectures.Ids(9, 1), Architectures.Ids(9, 1), "", 1),
        new Example(Architectures.Ids(6, 2), [Example.Untrained, Example.Untrained, .. Architectures.Ids(6, 2)[2..]], "", 2),
    ]);

    [Theory]
    [InlineData("llama", WeightStorage.AsStored, 0, false)]
    [InlineData("llama", WeightStorage.AsStored, 0.3, false)]
    [InlineData("llama", WeightStorage.Nf4, 0, false)]
    [InlineData("llama", WeightStorage.Nf4Double, 0.3, true)]
    [InlineData("mistral, window", WeightStorage.AsStored, 0, true)]
    [InlineData("qwen3, biases", WeightStorage.AsStored, 0.3, false)]
    public void Train_loraOfEveryLinearLayer_hasTheGradientOfItsLoss(string name, WeightStorage storage, double dropout, bool checkpointing)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        Architectures.Write(folder.Path, name);
        using var model = PretrainedModel.Load(folder.Path, backend, storage);
        using var adapter = Adapter(model, dropout);
        model.GradientCheckpointing = checkpointing;

        Assert.Equal(2 * 7 * model.Config.Layers, adapter.Parameters.Parameters.Count);
        CheckAll(model, adapter.Parameters);
    }

    [Theory]
    [InlineData("llama", false)]
    [InlineData("llama, biases", false)]
    [InlineData("smollm, tied", false)]
    [InlineData("qwen2, window from layer 1", false)]
    [InlineData("qwen3, biases", false)]
    [InlineData("qwen3", true)]
    public void Train_ofAllWeights_hasTheGradientOfItsLoss(string name, bool checkpointing)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = Architectures.Load(folder, name, backend);
        long before = model.ParameterCount;
        var store = model.MakeTrainable();
        model.GradientCheckpointing = checkpointing;

        Assert.Equal(before, store.Count);
        CheckAll(model, store);
    }

    [Theory]
    [InlineData("cpu", "llama", 0.25)]
    [InlineData("cpu-f64", "mistral, window", 0.25)]
    [InlineData("cpu", "qwen3", 0)]
    public void Train_withCheckpointing_hasTheSameLossAndGradientsBitForBit(string device, string name, double dropout)
    {
        using var folder = new TempFolder();
        using var backend = Architectures.Open(device);
        using var model = Architectures.Load(folder, name, backend);
        using var adapter = Adapter(model, dropout);

        var (plainLoss, plain) = Gradients(model, adapter.Parameters);
        model.GradientCheckpointing = true;
        var (loss, gradients) = Gradients(model, adapter.Parameters);

        Assert.Equal(plainLoss, loss);
        Compare.Same(plain, gradients);
    }

    [Fact]
    public void Train_ofAllWeightsWithCheckpointing_hasTheSameLossAndGradientsBitForBit()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama, biases", backend);
        var store = model.MakeTrainable();

        var (plainLoss, plain) = Gradients(model, store);
        model.GradientCheckpointing = true;
        var (loss, gradients) = Gradients(model, store);

        Assert.Equal(plainLoss, loss);
        Compare.Same(plain, gradients);
    }

    [Fact]
    public void Train_withDropout_dependsOnSeedAndStepAlone()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);
        using var adapter = Adapter(model, 0.25);
        using var pass = new LanguageModelPass(model);
        double first = Loss(pass, backend, (1, 1));

        Assert.Equal(first, Loss(pass, backend, (1, 1)));
        Assert.NotEqual(first, Loss(pass, backend, (1, 2)));
        Assert.NotEqual(first, Loss(pass, backend, (2, 1)));
        Assert.NotEqual(first, (float)(-pass.LogProbs(Batch).Sum() / Batch.TrainedTokens)); // without dropout
    }

    [Fact]
    public void Train_twice_addsTheGradients()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = Architectures.Load(folder, "smollm, tied", backend);
        var store = model.MakeTrainable();
        var (_, once) = Gradients(model, store);
        using var pass = new LanguageModelPass(model);

        pass.Train(Batch, Batch.TrainedTokens, Randomness);

        Compare.Close([.. once.Select(x => 2 * x)], backend.ReadDoubles(store.Gradients), 1e-12, "twice the gradient");
    }

    [Fact]
    public void MakeTrainable_ofANf4Model_isRefused_andSoIsASecondCall()
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, "llama");
        using var backend = new HostBackend<float>();
        using (var model = PretrainedModel.Load(folder.Path, backend, WeightStorage.Nf4))
        {
            Assert.Contains("NF4, which has no gradient", Assert.Throws<InvalidOperationException>(model.MakeTrainable).Message, StringComparison.Ordinal);
        }

        using var dense = PretrainedModel.Load(folder.Path, backend);
        dense.MakeTrainable();
        Assert.Contains("trainable already", Assert.Throws<InvalidOperationException>(dense.MakeTrainable).Message, StringComparison.Ordinal);
    }

    /// <summary>An adapter of every linear layer whose B is not zero, so that A has a gradient too.</summary>
    static AdapterSet Adapter(CausalLm model, double dropout)
    {
        var adapter = new AdapterSet(model, new LoraConfig { Rank = 4, Alpha = 7, Dropout = dropout }, seed: 9);
        var random = new Random(Seed);
        foreach (var (_, update) in adapter.Updates)
        {
            model.Backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(_ => random.NextSingle() - 0.5f)], update.B.Value);
        }

        return adapter;
    }

    static (double Loss, double[] Gradients) Gradients(CausalLm model, ParameterStore store)
    {
        using var pass = new LanguageModelPass(model);
        store.ZeroGradients();
        return (Loss(pass, model.Backend, Randomness), model.Backend.ReadDoubles(store.Gradients));
    }

    /// <summary>Trains on the batch and returns its loss a token.</summary>
    static double Loss(LanguageModelPass pass, Backend backend, (ulong Seed, uint Step) randomness)
    {
        var loss = backend.Allocate(backend.Parameter, 1, "test");
        pass.Train(Batch, Batch.TrainedTokens, randomness, loss);
        double value = backend.ReadDoubles(loss)[0];
        backend.Free(loss);
        return value;
    }

    static void CheckAll(CausalLm model, ParameterStore store)
    {
        var backend = model.Backend;
        using var pass = new LanguageModelPass(model);
        store.ZeroGradients();
        pass.Train(Batch, Batch.TrainedTokens, Randomness);
        var gradients = store.Parameters.Values.ToDictionary(parameter => parameter, parameter => backend.ReadDoubles(parameter.Gradient));
        foreach (var (parameter, gradient) in gradients)
        {
            double[] start = backend.ReadDoubles(parameter.Value);
            FiniteDifference.Check(parameter.Name, Seed, start, gradient, x =>
            {
                Set(x);
                return Loss(pass, backend, Randomness);
            });
            Set(start);

            void Set(double[] x) => backend.Upload(MemoryMarshal.AsBytes<double>(x), parameter.Value);
        }
    }
}
