namespace IlgpuPeft.Kernels;

/// <summary>A number that a kernel is compiled for.</summary>
interface IConstant
{
    static abstract int Value { get; }
}

readonly struct One : IConstant
{
    public static int Value => 1;
}

readonly struct Two : IConstant
{
    public static int Value => 2;
}

readonly struct Four : IConstant
{
    public static int Value => 4;
}

readonly struct Eight : IConstant
{
    public static int Value => 8;
}
