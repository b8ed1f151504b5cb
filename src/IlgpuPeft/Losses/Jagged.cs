namespace IlgpuPeft.Losses;

/// <summary>Arrays of different lengths, one per response with one number per token, and the checks that losses make of them.</summary>
static class Jagged
{
    public static int Count(IReadOnlyList<double[]> arrays) => arrays.Sum(array => array.Length);

    public static double[][] Like(IReadOnlyList<double[]> arrays) => [.. arrays.Select(array => new double[array.Length])];

    public static double[][] Map(IReadOnlyList<double[]> x, Func<double, double> function) => [.. x.Select(array => Array.ConvertAll(array, value => function(value)))];

    /// <summary>As many arrays as <paramref name="first"/> has, each as long as there.</summary>
    public static void SameShape(string operation, string firstName, IReadOnlyList<double[]> first, string name, IReadOnlyList<double[]> arrays)
    {
        SameLength(operation, name, arrays.Count, first.Count, $"sequences, as {firstName} has");
        for (int s = 0; s < first.Count; s++)
        {
            SameLength(operation, $"{name}[{s}]", arrays[s].Length, first[s].Length, $"tokens, as {firstName}[{s}] has");
        }
    }

    public static void SameLength(string operation, string name, int got, int expected, string unit)
    {
        if (got != expected)
        {
            throw new ArgumentException($"{operation}: {name} has {got}, expected {expected} {unit}.", name);
        }
    }

    /// <summary>A mean's denominator counts the whole step, of which this call is a part.</summary>
    public static void Denominator(string operation, string name, long whole, long part)
    {
        if (whole < Math.Max(1, part))
        {
            throw new ArgumentException($"{operation}: {name} is {whole}, expected at least {Math.Max(1, part)}. Pass the count over all micro-batches of the step.", name);
        }
    }

    public static void That(bool condition, string operation, string problem)
    {
        if (!condition)
        {
            throw new ArgumentException($"{operation}: {problem}");
        }
    }
}
