using System.Globalization;
using System.Reflection;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using IlgpuPeft.Adapters;
using IlgpuPeft.Generation;
using IlgpuPeft.Optim;
using IlgpuPeft.Preferences;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Every option of every method: what is out of range is refused by its name, and the documentation states the default that it has.</summary>
public partial class OptionsTests
{
    static readonly Type[] Methods = [.. typeof(TrainingOptions).Assembly.GetTypes().Where(type => type.IsSubclassOf(typeof(TrainingOptions)))];

    /// <summary>What is refused and what is allowed beside <see cref="Impossible"/>: where a range starts and ends, as the keys of the configuration file have it.</summary>
    static readonly (Type Type, string Name, object[] Refused, object[] Allowed)[] Ranges =
    [
        (typeof(TrainingOptions), "Epochs", [0.0], [1e-3, 1e6]),
        (typeof(TrainingOptions), "MicroBatchSize", [0], [1, int.MaxValue]),
        (typeof(TrainingOptions), "GradientAccumulation", [0], [1]),
        (typeof(TrainingOptions), "LearningRate", [10.1], [0.0, 10.0]),
        (typeof(TrainingOptions), "WarmupSteps", [], [0]),
        (typeof(TrainingOptions), "WarmupRatio", [1.01, 50.0], [0.0, 1.0]),
        (typeof(TrainingOptions), "MinimumLearningRateRatio", [9.0], [0.0, 1.0]),
        (typeof(TrainingOptions), "OutputFolder", ["", " "], ["run"]),
        (typeof(TrainingOptions), "SaveEvery", [], [0, int.MaxValue]),
        (typeof(TrainingOptions), "LossWatchdogThreshold", [], [0.0]),
        (typeof(TrainingOptions), "LossWatchdogPatience", [0], [1]),
        (typeof(AdamWOptions), "Beta1", [1.0, 2.0], [0.0, 0.9999999]),
        (typeof(AdamWOptions), "Beta2", [1.0], [0.0, 0.9999999]),
        (typeof(AdamWOptions), "Epsilon", [0.0, 1.1], [double.Epsilon, 1.0]),
        (typeof(AdamWOptions), "WeightDecay", [], [0.0]),
        (typeof(AdamWOptions), "MaxGradientNorm", [], [0.0]),
        (typeof(LoraConfig), "Rank", [0], [1]),
        (typeof(LoraConfig), "Alpha", [0.0], [double.Epsilon]),
        (typeof(LoraConfig), "Dropout", [1.0], [0.0, 0.99]),
        (typeof(SftOptions), "SequenceLength", [1], [2]),
        (typeof(RewardOptions), "CenterRewardsCoefficient", [], [0.0]),
        (typeof(RewardOptions), "MaxLength", [1], [2]),
        (typeof(DpoOptions), "Beta", [0.0], [double.Epsilon]),
        (typeof(DpoOptions), "LabelSmoothing", [0.5], [0.0, 0.4999999]),
        (typeof(KtoOptions), "Beta", [0.0], [double.Epsilon]),
        (typeof(KtoOptions), "DesirableWeight", [0.0], [double.Epsilon]),
        (typeof(KtoOptions), "UndesirableWeight", [0.0], [double.Epsilon]),
        (typeof(OrpoOptions), "Beta", [], [0.0]),
        (typeof(PpoOptions), "ValueLearningRate", [10.1], [0.0, 10.0]),
        (typeof(PpoOptions), "ResponseLength", [0], [1]),
        (typeof(PpoOptions), "Temperature", [0.0], [double.Epsilon]),
        (typeof(PpoOptions), "KlCoefficient", [], [0.0]),
        (typeof(PpoOptions), "AdaptiveKlTarget", [0.0], [double.Epsilon]),
        (typeof(PpoOptions), "AdaptiveKlHorizon", [0.0], [double.Epsilon]),
        (typeof(PpoOptions), "ClipRange", [0.0, 1.0], [0.9999999]),
        (typeof(PpoOptions), "ClipRangeValue", [0.0], [double.Epsilon]),
        (typeof(PpoOptions), "ValueCoefficient", [0.0], [double.Epsilon]),
        (typeof(PpoOptions), "Gamma", [1.1], [0.0, 1.0]),
        (typeof(PpoOptions), "Lambda", [1.1], [0.0, 1.0]),
        (typeof(PpoOptions), "PpoEpochs", [0], [1]),
        (typeof(PpoOptions), "MiniBatches", [0, 2], [1]),
        (typeof(PpoOptions), "MaxSequences", [0], [1]),
        (typeof(GrpoOptions), "NumGenerations", [1], [2]),
        (typeof(GrpoOptions), "MaxCompletionLength", [0], [1]),
        (typeof(GrpoOptions), "Temperature", [0.0], [double.Epsilon]),
        (typeof(GrpoOptions), "TopP", [0.0, 1.1], [double.Epsilon, 1.0]),
        (typeof(GrpoOptions), "Beta", [], [0.0]),
        (typeof(GrpoOptions), "NumIterations", [0], [1]),
        (typeof(GrpoOptions), "Epsilon", [0.0, 1.0], [0.9999999]),
        (typeof(GrpoOptions), "EpsilonHigh", [0.0], [double.Epsilon, 5.0]),
        (typeof(GrpoOptions), "Delta", [1.0, 1.2], [1.21]),
        (typeof(GrpoOptions), "MaxSequences", [0], [1]),
    ];

    public static TheoryData<Type> Checked => [.. Methods, typeof(AdamWOptions), typeof(LoraConfig)];

    public static TheoryData<Type> Documented => [.. Methods, typeof(TrainingOptions), typeof(AdamWOptions), typeof(LoraConfig), typeof(GenerationOptions)];

    [Theory, MemberData(nameof(Checked))]
    public void Option_outOfRange_isRefusedByItsName(Type type)
    {
        Validate(Activator.CreateInstance(type)!);
        foreach (var property in Settable(type))
        {
            var range = Ranges.Where(range => range.Type.IsAssignableFrom(type) && range.Name == property.Name).ToList();
            foreach (object value in Impossible(property.PropertyType).Concat(range.SelectMany(range => range.Refused)))
            {
                Assert.StartsWith($"{type.Name}: {property.Name} is ", Refusal(type, property, value) ?? $"{type.Name}.{property.Name} = {value} was not refused", StringComparison.Ordinal);
            }

            foreach (object value in range.SelectMany(range => range.Allowed))
            {
                Assert.Null(Refusal(type, property, value));
            }
        }
    }

    [Fact]
    public void Ranges_areOfOptionsThatThereAre() => Assert.All(Ranges, range => Assert.NotNull(range.Type.GetProperty(range.Name)));

    [Fact]
    public void Optimizer_outOfRange_isRefusedByEveryMethodAndByTheOptimizer()
    {
        AdamWOptions bad = new() { Beta1 = 2 };

        Assert.All(Methods, type => Assert.StartsWith("AdamWOptions: Beta1 is 2, expected from 0 to below 1.", Refusal(type, type.GetProperty("Optimizer")!, bad), StringComparison.Ordinal));
        using var setup = new PpoSetup();
        Assert.Contains("Beta1 is 2", Assert.Throws<ArgumentException>(() => new AdamWOptimizer(setup.Backend, setup.Policy.Parameters, bad)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(1 << 20, 1 << 20)]
    [InlineData(2_000_000_000, 2_000_000_000)]
    [InlineData(2, 1 << 30)]
    public void Step_ofMoreRowsThanCanBeCounted_isRefused(int micro, int accumulation) => Assert.All(Methods, type =>
    {
        var options = (TrainingOptions)Activator.CreateInstance(type)! with { MicroBatchSize = micro, GradientAccumulation = accumulation };
        Assert.Contains($"GradientAccumulation is {accumulation}, expected at most {int.MaxValue / micro} with a MicroBatchSize of {micro} (gradient_accumulation_steps and micro_batch_size)",
            Assert.Throws<ArgumentException>(options.Validate).Message, StringComparison.Ordinal);
    });

    [Fact]
    public void Step_ofAsManyRowsAsCanBeCounted_isTheWholeEpoch()
    {
        SftOptions options = new() { MicroBatchSize = int.MaxValue };
        options.Validate();
        Assert.Equal((1, 3), (options.StepsPerEpoch(1000), (options with { Epochs = 3 }).TotalSteps(1000)));
    }

    [Theory, MemberData(nameof(Documented))]
    public void Documentation_statesTheDefaultThatThereIs(Type type)
    {
        string file = Path.ChangeExtension(type.Assembly.Location, ".xml");
        Assert.SkipUnless(File.Exists(file), $"needs {Path.GetFileName(file)}, which the build writes beside the library");
        var members = XDocument.Load(file).Descendants("member").ToDictionary(member => member.Attribute("name")!.Value, member => member.Element("summary")?.Value ?? "");
        object defaults = Activator.CreateInstance(type == typeof(TrainingOptions) ? typeof(SftOptions) : type)!; // which changes none of what it inherits but the learning rate
        foreach (var property in Settable(type).Where(property => property.DeclaringType == type && !(type == typeof(TrainingOptions) && property.Name == "LearningRate")))
        {
            string documented = DefaultIn().Match(members[$"P:{type.FullName}.{property.Name}"]).Groups["value"].Value.TrimEnd('.', ',', ':', ';');
            object? value = property.GetValue(defaults);
            Assert.True(States(documented, value), $"{type.Name}.{property.Name}: the default is {value ?? "null"}, and the documentation states \"{documented}\"");
        }
    }

    static bool States(string documented, object? value) => value switch
    {
        null => documented == "null",
        double number => double.TryParse(documented, CultureInfo.InvariantCulture, out double said) && said == number,
        int or ulong => documented == Convert.ToString(value, CultureInfo.InvariantCulture),
        bool or Enum => string.Equals(documented, value.ToString(), StringComparison.OrdinalIgnoreCase),
        IEnumerable<string> words => documented == string.Join(' ', words),
        AdamWOptions => documented == "a" && value.Equals(new AdamWOptions()), // a new AdamWOptions
        _ => false,
    };

    /// <summary>Values that no option of that type may have: all are counts, factors, shares or words.</summary>
    static object[] Impossible(Type type) => (Nullable.GetUnderlyingType(type) ?? type) switch
    {
        { IsEnum: true } words => [Enum.ToObject(words, 77)],
        var number when number == typeof(double) => [double.NaN, double.PositiveInfinity, double.NegativeInfinity, -1.0],
        var number when number == typeof(int) => [-1, int.MinValue],
        _ => [],
    };

    static string? Refusal(Type type, PropertyInfo property, object value)
    {
        object options = Activator.CreateInstance(type)!;
        property.SetValue(options, value);
        return (Record.Exception(() => Validate(options)) as ArgumentException)?.Message;
    }

    static void Validate(object options)
    {
        switch (options)
        {
            case TrainingOptions method: method.Validate(); break;
            case AdamWOptions optimizer: optimizer.Validate(); break;
            default: ((LoraConfig)options).Validate(); break;
        }
    }

    static IEnumerable<PropertyInfo> Settable(Type type) => type.GetProperties().Where(property => property.CanWrite);

    [GeneratedRegex(@"\bDefault (?<value>\S+)")]
    private static partial Regex DefaultIn();
}
