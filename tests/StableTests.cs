using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Functions of one number against values from 50-digit arithmetic.</summary>
public class StableTests
{
    [Theory]
    [InlineData("log1p", 1e-17, 1e-17)]
    [InlineData("log1p", 1e-10, 9.9999999995e-11)]
    [InlineData("log1p", -1e-10, -1.00000000005e-10)]
    [InlineData("log1p", 1.5, 0.91629073187415506)]
    [InlineData("expm1", 1e-17, 1e-17)]
    [InlineData("expm1", 1e-10, 1.00000000005e-10)]
    [InlineData("expm1", -1e-10, -9.9999999995e-11)]
    [InlineData("expm1", -50, -1)]
    [InlineData("expm1", -800, -1)]
    [InlineData("expm1", 2, 6.3890560989306502)]
    [InlineData("logsigmoid", 0, -0.69314718055994531)]
    [InlineData("logsigmoid", 40, -4.2483542552915890e-18)]
    [InlineData("logsigmoid", -40, -40)]
    [InlineData("logsigmoid", -1e6, -1e6)]
    [InlineData("logsigmoid", 1e6, 0)]
    [InlineData("sigmoid", -40, 4.2483542552915890e-18)]
    [InlineData("sigmoid", -2, 0.11920292202211755)]
    [InlineData("sigmoid", 1e6, 1)]
    [InlineData("sigmoid", -1e6, 0)]
    [InlineData("log1mexp", -1e-10, -23.025850929990456)]
    [InlineData("log1mexp", -0.5, -0.93275212956718857)]
    [InlineData("log1mexp", -1, -0.45867514538708189)]
    [InlineData("log1mexp", -40, -4.2483542552915889e-18)]
    [InlineData("k3", 0, 0)]
    [InlineData("k3", 1e-9, 5.0000000016666667e-19)]
    [InlineData("k3", -1e-9, 4.9999999983333333e-19)]
    [InlineData("k3", 0.0999, 0.0051604065095104600)]
    [InlineData("k3", 0.1001, 0.0051814406934939790)]
    [InlineData("k3", -2, 1.1353352832366127)]
    public void Functions_nearAndFarFromZero_keepTheirDigits(string function, double x, double expected)
    {
        double actual = function switch
        {
            "log1p" => Stable.Log1P(x),
            "expm1" => Stable.ExpMinus1(x),
            "sigmoid" => Stable.Sigmoid(x),
            "logsigmoid" => Stable.LogSigmoid(x),
            "log1mexp" => Stable.Log1MinusExp(x),
            _ => Stable.ExpMinus1MinusX(x),
        };

        Assert.True(Math.Abs(actual - expected) <= 4e-15 * Math.Abs(expected), $"{function}({x:r}) = {actual:r}, expected {expected:r}");
    }
}
