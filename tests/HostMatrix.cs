using System.Numerics;
using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Random host memory as a strided matrix, with canaries between its rows and around it.</summary>
sealed unsafe class HostMatrix<T> : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    const int Margin = 40;
    static readonly T Canary = T.CreateTruncating(-987.25);
    readonly T* memory;
    readonly long total;

    public HostMatrix(int rows, int columns, int stride, int seed)
    {
        (Rows, Columns, Stride) = (rows, columns, stride);
        total = (long)rows * stride + 2 * Margin;
        memory = (T*)NativeMemory.Alloc((nuint)(total * sizeof(T)));
        new Span<T>(memory, checked((int)total)).Fill(Canary);
        var random = new Random(seed);
        for (int i = 0; i < rows; i++)
        {
            for (int j = 0; j < columns; j++)
            {
                Pointer[(long)i * stride + j] = T.CreateTruncating(random.NextDouble() * 2 - 1);
            }
        }
    }

    public int Rows { get; }

    public int Columns { get; }

    public int Stride { get; }

    public T* Pointer => memory + Margin;

    public double this[int i, int j]
    {
        get => double.CreateTruncating(Pointer[(long)i * Stride + j]);
        set => Pointer[(long)i * Stride + j] = T.CreateTruncating(value);
    }

    /// <summary>All elements as a slice; the stride must equal the columns.</summary>
    public Slice Slice => Stride == Columns
        ? new((nint)Pointer, (long)Rows * Columns, sizeof(T) == 4 ? DType.F32 : DType.F64)
        : throw new InvalidOperationException("a slice is contiguous");

    public T[] ToArray() => new Span<T>(Pointer, Rows * Stride).ToArray();

    /// <summary>Fills the elements with NaN, which an output that must not be read may hold.</summary>
    public void Poison(bool yes = true)
    {
        for (int i = 0; yes && i < Rows; i++)
        {
            new Span<T>(Pointer + (long)i * Stride, Columns).Fill(T.NaN);
        }
    }

    public void AssertClose(double[,] expected, double tolerance, string what)
    {
        for (int i = 0; i < Rows; i++)
        {
            for (int j = 0; j < Columns; j++)
            {
                double got = this[i, j];
                if (!(Math.Abs(got - expected[i, j]) <= tolerance * (1 + Math.Abs(expected[i, j]))))
                {
                    Assert.Fail($"{what}: [{i}, {j}] expected {expected[i, j]:R}, got {got:R}");
                }
            }
        }

        for (long at = 0; at < total; at++)
        {
            long inside = at - Margin;
            bool canary = inside < 0 || inside >= (long)Rows * Stride || inside % Stride >= Columns;
            if (canary && memory[at] != Canary)
            {
                Assert.Fail($"{what}: wrote outside the matrix, {inside} elements from its start");
            }
        }
    }

    public void Dispose() => NativeMemory.Free(memory);
}
