using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Whole models against <see cref="NaiveDecoder"/>, for every architecture and every way of storing the weights.</summary>
public class ModelTests
{
    // Longer than every window; the second sequence shows that nothing leaks between the two.
    static readonly int[] First = Architectures.Ids(23, 1), Second = Architectures.Ids(7, 2);

    [Theory]
    [MemberData(nameof(Architectures.Names), MemberType = typeof(Architectures))]
    public void Forward_ofEveryArchitecture_equalsTheFormulas(string name)
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, name);
        var naive = new NaiveDecoder(folder.Path);
        double[] expected = [.. naive.Logits(First), .. naive.Logits(Second)];

        Compare.Close(expected, Logits(folder.Path, "cpu-f64"), 1e-9, name + " in double");
        Compare.Close(expected, Logits(folder.Path, "cpu"), 1e-4, name + " in float");
    }

    [Theory]
    [InlineData(DType.F16, false)]
    [InlineData(DType.BF16, false)]
    [InlineData(DType.F16, true)]
    [InlineData(DType.BF16, true)]
    [InlineData(DType.F32, true)]
    [InlineData(DType.F64, false)]
    public void Forward_ofEveryStorage_equalsTheFormulasOnTheStoredValues(DType type, bool sharded)
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, "llama, biases", type);
        double[] expected = [.. new NaiveDecoder(folder.Path).Logits(First), .. new NaiveDecoder(folder.Path).Logits(Second)];
        if (sharded)
        {
            Architectures.Shard(folder.Path, 3);
        }

        Compare.Close(expected, Logits(folder.Path, "cpu-f64"), 1e-9, $"{type} in double");
        Compare.Close(expected, Logits(folder.Path, "cpu"), 1e-4, $"{type} in float");
    }

    [Theory]
    [InlineData(WeightStorage.Nf4, DType.F32)]
    [InlineData(WeightStorage.Nf4Double, DType.F32)]
    [InlineData(WeightStorage.Nf4Double, DType.BF16)]
    public void Load_ofAQuantisedFolder_equalsQuantisingWhileLoading(WeightStorage storage, DType type)
    {
        using TempFolder dense = new(), quantised = new();
        Architectures.Write(dense.Path, "qwen2", type);
        SavedModel.Quantize(dense.Path, quantised.Path, doubleQuant: storage == WeightStorage.Nf4Double, cancel: TestContext.Current.CancellationToken);
        double[] onLoad = Logits(dense.Path, "cpu", storage);

        Compare.Same(onLoad, Logits(quantised.Path, "cpu"));
        Assert.NotEqual(Logits(dense.Path, "cpu"), onLoad); // or nothing was quantised
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("smollm, tied")]
    public void LogProbs_ofABatch_equalTheFormulas(string name)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = Architectures.Load(folder, name, backend);
        using var pass = new LanguageModelPass(model);
        var naive = new NaiveDecoder(folder.Path);

        double[] actual = pass.LogProbs(PackedBatch.From([new Example(First, First, "", 1), new Example(Second, Second, "", 2)]));

        Compare.Close([.. naive.LogProbs(First), 0, .. naive.LogProbs(Second), 0], actual, 1e-9, "log-probabilities");
    }

    [Fact]
    public void ParameterCount_ofEveryArchitecture_isThatOfTheFile()
    {
        foreach (string name in Architectures.Configs.Keys)
        {
            using var folder = new TempFolder();
            using var backend = new HostBackend<float>();
            using var model = Architectures.Load(folder, name, backend);
            using var files = WeightFiles.Open(folder.Path);

            Assert.Equal(files.Tensors.Sum(info => info.Count), model.ParameterCount);
            Assert.Equal(4 * model.ParameterCount, model.Bytes);
        }
    }

    static double[] Logits(string folder, string device, WeightStorage storage = WeightStorage.AsStored)
    {
        using var backend = Architectures.Open(device);
        using var model = PretrainedModel.Load(folder, backend, storage);
        using var arena = new Arena(backend);
        var tape = Tape.ForInference(backend, arena);
        var batch = TokenBatch.Whole(tape, [.. First, .. Second], [First.Length, Second.Length]);
        return backend.ReadDoubles(model.Logits(tape, model.Forward(tape, batch)).Data);
    }
}
