namespace IlgpuPeft.Models;

/// <summary>Base and scaling of the rotary position embedding.</summary>
/// <param name="Theta">Base of the geometric series of wavelengths.</param>
/// <param name="Type">default, linear or llama3.</param>
/// <param name="Factor">How far the context is stretched.</param>
/// <param name="LowFrequencyFactor">llama3: wavelengths above original / this are stretched in full.</param>
/// <param name="HighFrequencyFactor">llama3: wavelengths below original / this are kept.</param>
/// <param name="OriginalPositions">llama3: the context that the base model was trained on.</param>
public sealed record RopeConfig(double Theta = 10000, string Type = "default", double Factor = 1,
    double LowFrequencyFactor = 1, double HighFrequencyFactor = 4, int OriginalPositions = 8192)
{
    /// <summary>
    /// Radians per position of each of the <paramref name="headWidth"/> / 2 pairs: theta^(-2i / C), then scaled. The llama3 rule keeps short wavelengths,
    /// divides long ones by the factor, and blends between (the Llama 3.1 release's <c>apply_scaling</c>).
    /// </summary>
    public double[] InverseFrequencies(int headWidth)
    {
        var frequencies = new double[headWidth / 2];
        for (int i = 0; i < frequencies.Length; i++)
        {
            double plain = Math.Pow(Theta, -2.0 * i / headWidth);
            frequencies[i] = Type switch
            {
                "linear" => plain / Factor,
                "llama3" => Llama3(plain),
                _ => plain,
            };
        }

        return frequencies;
    }

    internal static RopeConfig Read(ConfigFields fields)
    {
        // Transformers 5 moved everything into rope_parameters; before, theta stood beside rope_scaling, whose type key was once called "type".
        var scaling = fields.Section("rope_parameters") ?? fields.Section("rope_scaling");
        double theta = scaling?.Number("rope_theta", 0) is > 0 and var nested ? nested : fields.Number("rope_theta", 10000);
        if (scaling is null)
        {
            return new RopeConfig(theta);
        }

        scaling.RequireAbsentOr("partial_rotary_factor", 1);
        string type = scaling.Text("rope_type", scaling.Text("type", "default"));
        return type switch
        {
            "default" => new RopeConfig(theta),
            "linear" => new RopeConfig(theta, type, scaling.Number("factor")),
            "llama3" => ReadLlama3(scaling, theta),
            _ => throw scaling.Unsupported("rope_type", type, "default, linear, llama3"),
        };
    }

    static RopeConfig ReadLlama3(ConfigFields scaling, double theta)
    {
        double low = scaling.Number("low_freq_factor"), high = scaling.Number("high_freq_factor");
        if (high <= low)
        {
            throw scaling.Wrong("high_freq_factor", $"expected more than low_freq_factor = {low}, got {high}");
        }

        return new RopeConfig(theta, "llama3", scaling.Number("factor"), low, high, scaling.Positive("original_max_position_embeddings"));
    }

    double Llama3(double frequency)
    {
        double wavelength = 2 * Math.PI / frequency;
        if (wavelength < OriginalPositions / HighFrequencyFactor)
        {
            return frequency;
        }

        if (wavelength > OriginalPositions / LowFrequencyFactor)
        {
            return frequency / Factor;
        }

        double smooth = (OriginalPositions / wavelength - LowFrequencyFactor) / (HighFrequencyFactor - LowFrequencyFactor);
        return (1 - smooth) * frequency / Factor + smooth * frequency;
    }
}
