using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>How many groups of how many threads a kernel runs in.</summary>
/// <param name="Grid">Groups in each dimension.</param>
/// <param name="Group">Threads of a group; the kernel is compiled for exactly this many.</param>
/// <param name="SharedBytes">Shared memory whose size the launch chooses.</param>
readonly record struct LaunchShape(Index3D Grid, int Group, int SharedBytes = 0)
{
    /// <summary>Groups of an elementwise kernel.</summary>
    public const int Threads = 256;

    /// <summary>One thread for each of <paramref name="items"/> items, or for each <paramref name="perThread"/> of them.</summary>
    public static LaunchShape Over(long items, int perThread = 1) => Groups((items + (long)Threads * perThread - 1) / ((long)Threads * perThread), Threads);

    /// <summary>So many groups in a row.</summary>
    public static LaunchShape Groups(long groups, int threads, int sharedBytes = 0) => new(new Index3D(checked((int)groups), 1, 1), threads, sharedBytes);

    /// <summary>What ILGPU launches with.</summary>
    public KernelConfig Config => new(Grid, new Index3D(Group, 1, 1), SharedBytes > 0 ? SharedMemoryConfig.RequestDynamic<byte>(SharedBytes) : default);

    /// <inheritdoc />
    public override string ToString() => $"{Grid.X} x {Grid.Y} x {Grid.Z} groups of {Group} threads" + (SharedBytes > 0 ? $", {SharedBytes} bytes of shared memory" : "");
}
