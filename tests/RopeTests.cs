using System.Text.Json;
using IlgpuPeft.Models;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Frequencies against the literals of transformers' own tests, which have five digits.</summary>
public class RopeTests
{
    const double FiveDigits = 5e-5; // half of the last of five digits

    // The file also has "dynamic" and "yarn", which this library refuses by name: ModelConfigTests.Load_fieldThatIsWrong_isNamed.
    [Theory]
    [InlineData("default")]
    [InlineData("linear")]
    [InlineData("llama3")]
    public void InverseFrequencies_ofTheGoldenCase_equalTransformers(string type)
    {
        using var golden = JsonDocument.Parse(File.ReadAllText(TestAssets.Path("assets/golden-hf-tests/rope.json")));
        var root = golden.RootElement;
        double theta = root.GetProperty("rope_theta").GetDouble();
        double[] plain = Doubles(root.GetProperty("default"));
        var (rope, expected) = type switch
        {
            "default" => (new RopeConfig(theta), plain),
            "linear" => (new RopeConfig(theta, type, 10), [.. plain.Select(x => x / 10)]), // the file says: default / factor
            _ => Llama3(root.GetProperty(type)),
        };

        double[] actual = rope.InverseFrequencies(root.GetProperty("head_dim").GetInt32());

        Assert.Equal(64, expected.Length);
        Assert.Equal(expected.Length, actual.Length);
        Assert.All(expected.Zip(actual), pair => Assert.Equal(1, pair.Second / pair.First, FiveDigits));

        (RopeConfig, double[]) Llama3(JsonElement fields) =>
            (new RopeConfig(theta, type, Number("factor"), Number("low_freq_factor"), Number("high_freq_factor"), (int)Number("original_max_position_embeddings")),
                Doubles(fields.GetProperty("inv_freq")));

        double Number(string name) => root.GetProperty(type).GetProperty(name).GetDouble();
    }

    [Fact]
    public void InverseFrequencies_llama3_keepShortWavesAndStretchLongOnes()
    {
        var rope = new RopeConfig(500000, "llama3", 32, 1, 4, 8192);
        double[] plain = new RopeConfig(500000).InverseFrequencies(64), scaled = rope.InverseFrequencies(64);

        for (int i = 0; i < plain.Length; i++)
        {
            double turns = 8192 * plain[i] / (2 * Math.PI);
            double expected = turns > 4 ? plain[i] : turns < 1 ? plain[i] / 32 : plain[i] * ((turns - 1) / 3 + (4 - turns) / 3 / 32);
            Assert.Equal(expected, scaled[i], expected * 1e-14);
        }

        Assert.Contains(plain.Zip(scaled), pair => pair.Second < pair.First && pair.Second > pair.First / 32); // some are blended
    }

    static double[] Doubles(JsonElement list) => [.. list.EnumerateArray().Select(x => x.GetDouble())];
}
