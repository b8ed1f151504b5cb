using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Losses, gradients and trained adapters against PyTorch's, computed in double precision.</summary>
public class GoldenTrainingTests
{
    public static TheoryData<string, WeightStorage, string> Cases => new(
        from golden in new[] { ("lora", WeightStorage.AsStored), ("qlora_nf4", WeightStorage.Nf4) } from device in TestDevices.All select (golden.Item1, golden.Item2, device));

    [Theory, MemberData(nameof(Cases))]
    public async Task Sft_ofTheGoldenCase_reproducesEveryStepAndTheAdapter(string name, WeightStorage storage, string device)
    {
        string folder = TestAssets.Path($"golden/cases/{name}");
        double tolerance = TestDevices.Tolerance(device);
        using var backend = TestDevices.Open(device);
        using var model = PretrainedModel.Load(Path.Combine(folder, "model"), backend, storage);
        using var adapter = PretrainedAdapter.Load(model, Path.Combine(folder, "adapter"));
        Dictionary<string, double[]> firstGradients = [];
        var steps = new Steps(step =>
        {
            if (step.Step == 1) // the gradients are still in place
            {
                foreach (var parameter in adapter.Parameters.Parameters.Values)
                {
                    firstGradients[parameter.Name] = backend.ReadDoubles(parameter.Gradient);
                }
            }
        });
        using var trainer = new SftTrainer(adapter, "../model", Rows(Path.Combine(folder, "train.jsonl")), new SftOptions
        {
            MaxSteps = 6,
            GradientAccumulation = 2,
            LearningRate = 2e-3,
            Schedule = ScheduleKind.Constant,
            Shuffle = false,
            Optimizer = new AdamWOptions { WeightDecay = 0.01, MaxGradientNorm = 1 },
        });

        await trainer.RunAsync(steps, cancel: TestContext.Current.CancellationToken);

        using var expected = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "expected.json")));
        Compare.Close(Doubles(expected, "losses"), steps.Losses, tolerance, "losses");
        Compare.Close(Doubles(expected, "grad_norms"), [.. steps.All.Select(step => step.GradientNorm)], tolerance, "grad_norms");
        using var tensors = Safetensors.Open(Path.Combine(folder, "expected.safetensors"));
        foreach (var (module, update) in adapter.Updates)
        {
            foreach (var (key, parameter) in new[] { (".lora_A.weight", update.A), (".lora_B.weight", update.B) })
            {
                Compare.Close(Compare.Read(tensors, "grad.base_model.model." + module + key), firstGradients[parameter.Name], tolerance, "gradient of " + parameter.Name);
                Compare.Close(Compare.Read(tensors, "final.base_model.model." + module + key), backend.ReadDoubles(parameter.Value), tolerance, "final " + parameter.Name);
            }
        }
    }

    [Fact]
    public void Nf4_ofTheGoldenCase_packsTheSameBytes()
    {
        string folder = TestAssets.Path("golden/cases/qlora_nf4");
        using var model = WeightFiles.Open(Path.Combine(folder, "model"));
        using var expected = Safetensors.Open(Path.Combine(folder, "nf4.safetensors"));
        int compared = 0;
        foreach (var info in model.Tensors.Where(info => info.Name.EndsWith("_proj.weight", StringComparison.Ordinal)))
        {
            var values = new float[info.Count];
            model.Read(info.Name, values);
            var tensor = Nf4Tensor.Quantize(values, (int)info.Shape[0], (int)info.Shape[1], doubleQuant: false, DType.F32);
            Assert.Equal(expected.Bytes($"nf4.{info.Name}.packed"), tensor.Packed);
            Assert.Equal(Compare.Read(expected, $"nf4.{info.Name}.absmax"), tensor.AbsMax!.Select(x => (double)x));
            compared++;
        }

        Assert.Equal(21, compared);
    }

    static List<Example> Rows(string path) =>
        [.. File.ReadLines(path).Select((line, i) =>
        {
            using var row = JsonDocument.Parse(line);
            return new Example(Ints(row, "input_ids"), Ints(row, "labels"), path, i + 1);
        })];

    static int[] Ints(JsonDocument row, string name) => [.. row.RootElement.GetProperty(name).EnumerateArray().Select(x => x.GetInt32())];

    static double[] Doubles(JsonDocument document, string name) => [.. document.RootElement.GetProperty(name).EnumerateArray().Select(x => x.GetDouble())];
}
