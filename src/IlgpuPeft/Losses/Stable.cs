// Stable: functions of one number that keep their digits where the textbook formula loses them.
//
// Maths      log1p(x) = ln(1 + x) · expm1(x) = e^x − 1 · σ(x) = 1/(1 + e^−x) · ln σ(x) = min(x, 0) − log1p(e^−|x|)
//            log1mexp(x) = ln(1 − e^x), x < 0 · expm1(x) − x
// Numerics   a few units in the last place for every finite x; .NET's own double.LogP1 and double.ExpM1 cancel near 0
// Source     Kahan's correction of ln(1 + x) (Higham 2002, Accuracy and Stability of Numerical Algorithms, 1.14.1);
//            branch at −ln 2: Mächler 2012, Accurately Computing log(1 − exp(−|a|))

namespace IlgpuPeft.Losses;

static class Stable
{
    const double Ln2 = 0.6931471805599453;

    public static double Sigmoid(double x)
    {
        double e = Math.Exp(-Math.Abs(x));
        return (x >= 0 ? 1 : e) / (1 + e);
    }

    public static double LogSigmoid(double x) => Math.Min(x, 0) - Log1P(Math.Exp(-Math.Abs(x)));

    public static double Log1MinusExp(double x) => x > -Ln2 ? Math.Log(-ExpMinus1(x)) : Log1P(-Math.Exp(x));

    // The quotient repairs the rounding of 1 + x: its numerator and denominator are off by the same factor.
    public static double Log1P(double x)
    {
        double sum = 1 + x;
        return sum == 1 ? x : double.IsInfinity(sum) ? sum : Math.Log(sum) * (x / (sum - 1));
    }

    public static double ExpMinus1(double x)
    {
        double e = Math.Exp(x);
        return e == 1 ? x : e == 0 || double.IsInfinity(e) ? e - 1 : (e - 1) * (x / Math.Log(e));
    }

    /// <summary>e^x − 1 − x, never negative: x²/2 near zero, where the difference would be of rounding errors.</summary>
    public static double ExpMinus1MinusX(double x)
    {
        const double Near = 0.1;
        const int Terms = 12; // 0.1¹¹·2/13! is far below the last place
        if (Math.Abs(x) > Near)
        {
            return ExpMinus1(x) - x;
        }

        double series = 1;
        for (int n = Terms; n > 2; n--)
        {
            series = 1 + x / n * series;
        }

        return x * x / 2 * series;
    }
}
