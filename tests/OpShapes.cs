namespace IlgpuPeft.Tests;

/// <summary>Lengths and extents that operations are tested with: those where something changes in a kernel, each with its neighbours.</summary>
static class OpShapes
{
    /// <summary>Nothing, one, vector ends, the 512 and 1024 of the host's tiles, and the 16,384 elements of its tasks.</summary>
    public static readonly int[] HostLengths = [0, 1, 3, 7, 8, 17, 511, 513, 1025, 16384, 16385, 40000];

    // Packets of 4 and 8, a group of 256 packets of either and one over.
    static readonly int[] KernelLengths = [0, 1, 3, 5, 8, 17, 1024, 1025, 2049, 5127];

    static readonly (int Rows, int Width)[] HostMatrices = [(0, 7), (1, 1), (1, 5), (5, 123), (3, 64), (2, 65), (37, 576), (3, 16385)];

    // None, one row, rows of less than a packet, of a warp and one over, of several warps and odd, of a group and beyond it, which is read again.
    static readonly (int Rows, int Width)[] KernelMatrices = [(0, 7), (1, 1), (1, 5), (5, 123), (37, 64), (2, 257), (3, 172), (9, 576), (2, 1025), (2, 4100), (300, 8)];

    /// <summary>Lengths for a device.</summary>
    public static int[] Lengths(string device) => IsHost(device) ? HostLengths : KernelLengths;

    /// <summary>Rows and widths for a device.</summary>
    public static (int Rows, int Width)[] Matrices(string device) => IsHost(device) ? HostMatrices : KernelMatrices;

    static bool IsHost(string device) => device.StartsWith("cpu", StringComparison.Ordinal);
}
