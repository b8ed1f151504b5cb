using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tests;

/// <summary>The operations in double, in plain loops written from their formulas: what the devices are compared with. Speed and memory do not matter.</summary>
static class Naive
{
    public static (double[] Y, double[] Rstd) RmsNorm(double[] x, double[] weight, double eps)
    {
        int width = weight.Length, rows = x.Length / width;
        var y = new double[x.Length];
        var rstd = new double[rows];
        for (int i = 0; i < rows; i++)
        {
            double squares = 0;
            for (int j = 0; j < width; j++)
            {
                squares += x[i * width + j] * x[i * width + j];
            }

            rstd[i] = 1 / Math.Sqrt(squares / width + eps);
            for (int j = 0; j < width; j++)
            {
                y[i * width + j] = x[i * width + j] * rstd[i] * weight[j];
            }
        }

        return (y, rstd);
    }

    public static (double[] Dx, double[] DWeight) RmsNormBackward(double[] dy, double[] x, double[] weight, double eps)
    {
        int width = weight.Length, rows = x.Length / width;
        double[] rstd = RmsNorm(x, weight, eps).Rstd, dx = new double[x.Length], dWeight = new double[width];
        for (int i = 0; i < rows; i++)
        {
            double r = rstd[i], dr = 0;
            for (int j = 0; j < width; j++)
            {
                int at = i * width + j;
                dr += dy[at] * weight[j] * x[at];
                dWeight[j] += dy[at] * x[at] * r;
            }

            // y depends on x directly and through r: dr/dx = -r³ x / width.
            for (int j = 0; j < width; j++)
            {
                int at = i * width + j;
                dx[at] = dy[at] * weight[j] * r + dr * -(r * r * r) * x[at] / width;
            }
        }

        return (dx, dWeight);
    }

    public static double[] Rope(double[] x, double[] cos, double[] sin, int[] positions, int heads, int headWidth, bool inverse)
    {
        double[] y = new double[x.Length];
        int half = headWidth / 2;
        for (int n = 0; n < positions.Length; n++)
        {
            for (int h = 0; h < heads; h++)
            {
                for (int i = 0; i < half; i++)
                {
                    int a = (n * heads + h) * headWidth + i, b = a + half;
                    double c = cos[positions[n] * half + i], s = sin[positions[n] * half + i] * (inverse ? -1 : 1);
                    y[a] = x[a] * c - x[b] * s;
                    y[b] = x[b] * c + x[a] * s;
                }
            }
        }

        return y;
    }

    public static double Silu(double x) => x / (1 + Math.Exp(-x));

    public static double SiluSlope(double x)
    {
        double sigmoid = 1 / (1 + Math.Exp(-x));
        return sigmoid + x * sigmoid * (1 - sigmoid);
    }

    public static double[] Dropout(double[] x, double p, RandomKey key) => [.. x.Select((value, i) => key.Uniform((ulong)i) >= p ? value / (1 - p) : 0)];

    public static double[] Gather(double[] x, int[] rows, int width) => [.. rows.SelectMany(row => x[(row * width)..((row + 1) * width)])];

    public static double[] Scatter(double[] x, int[] rows, int width, double[] y, bool add)
    {
        double[] result = [.. y];
        for (int i = 0; i < rows.Length; i++)
        {
            for (int j = 0; j < width; j++)
            {
                ref double element = ref result[rows[i] * width + j];
                element = x[i * width + j] + (add ? element : 0);
            }
        }

        return result;
    }

    public static double Norm(double[] x) => Math.Sqrt(x.Sum(value => value * value));

    public static (double[] P, double[] M, double[] V) AdamW(double[] p, double[] g, double[] m, double[] v, AdamWStep step, double norm)
    {
        double clip = step.MaxNorm > 0 ? Math.Min(1, step.MaxNorm / (norm + 1e-6)) : 1;
        double[] p1 = [.. p], m1 = [.. m], v1 = [.. v];
        for (int i = 0; i < p.Length; i++)
        {
            double gradient = g[i] * clip;
            p1[i] -= i < step.Decaying ? step.LearningRate * step.WeightDecay * p1[i] : 0;
            m1[i] = step.Beta1 * m[i] + (1 - step.Beta1) * gradient;
            v1[i] = step.Beta2 * v[i] + (1 - step.Beta2) * gradient * gradient;
            double mean = m1[i] / (1 - Math.Pow(step.Beta1, step.Step)), variance = v1[i] / (1 - Math.Pow(step.Beta2, step.Step));
            p1[i] -= step.LearningRate * mean / (Math.Sqrt(variance) + step.Epsilon);
        }

        return (p1, m1, v1);
    }

    /// <summary>y [N, O] = x [N, K] · wᵀ, w [O, K].</summary>
    public static double[] Linear(double[] x, double[] w, int inputs)
    {
        int rows = x.Length / inputs, outputs = w.Length / inputs;
        var y = new double[rows * outputs];
        for (int n = 0; n < rows; n++)
        {
            for (int o = 0; o < outputs; o++)
            {
                for (int k = 0; k < inputs; k++)
                {
                    y[n * outputs + o] += x[n * inputs + k] * w[o * inputs + k];
                }
            }
        }

        return y;
    }

    /// <summary>The nearest bfloat16, of two equally near ones the even: by comparing both neighbours.</summary>
    public static double RoundToBFloat16(double value)
    {
        if (!double.IsFinite(value))
        {
            return value;
        }

        double unit = Math.Pow(2, Math.Max(Math.ILogB(value), -126) - 7); // 8 significant bits; below 2^-126 the spacing stays
        double low = Math.Floor(value / unit), rest = value / unit - low;
        double rounded = rest < 0.5 || rest == 0.5 && low % 2 == 0 ? low : low + 1;
        double result = rounded * unit;
        return Math.Abs(result) >= Math.Pow(2, 128) ? double.CopySign(double.PositiveInfinity, result) : result;
    }
}
