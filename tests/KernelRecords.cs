using System.Text.RegularExpressions;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What a device has compiled and launched: the PTX of its kernels and the emulator's counters.</summary>
static partial class KernelRecords
{
    /// <summary>All that <paramref name="run"/> launches, in order.</summary>
    public static List<KernelLaunch> Launches(this KernelDevice device, Action run)
    {
        device.Log = [];
        run();
        return device.Log;
    }

    /// <summary>The only launch of <paramref name="run"/>, or its only launch of a kernel.</summary>
    public static KernelLaunch Launch(this KernelDevice device, Action run, string? kernel = null) =>
        Assert.Single(device.Launches(run), launch => kernel is null || launch.Kernel == kernel);

    /// <summary>The counters of the only launch of <paramref name="run"/>, or of its only launch of a kernel.</summary>
    public static LaunchCounters Counters(this KernelDevice device, Action run, string? kernel = null) => device.Launch(run, kernel).Counters!;

    /// <summary>Bytes of the sectors that all requests to global memory touch.</summary>
    public static long SectorBytes(this LaunchCounters counters) => 32 * (counters.GlobalLoadSectors + counters.GlobalStoreSectors);

    /// <summary>The kernels that were compiled, by name, and their PTX: one for each combination of types.</summary>
    public static IEnumerable<(string Name, string Ptx)> Texts(this KernelDevice device) =>
        device.Compiled.Select(compiled => (compiled.Name, ((EmulatedKernel)compiled.Kernel).Ptx));

    /// <summary>The PTX that a launch executed. A device keeps the kernels of all who used it before, so a name alone may mean several.</summary>
    public static string Ptx(this KernelLaunch launch) => ((EmulatedKernel)launch.Compiled).Ptx;

    /// <summary>A launch moves at least its floor, at most 10 % more, and nothing through local memory.</summary>
    public static void CheckFloor(this LaunchCounters counters, long floor, string what)
    {
        long bytes = counters.SectorBytes();
        Assert.True(bytes >= floor && bytes <= 1.1 * floor, $"{what} moves {bytes} bytes in sectors, expected {floor} to 10 % more");
        Assert.Equal(0, counters.LocalBytes);
    }

    /// <summary>All values of a kernel are in registers, and each access says which memory it means.</summary>
    public static void CheckMemory(string ptx, string what)
    {
        Assert.False(ptx.Contains(".local", StringComparison.Ordinal), $"{what} keeps something in local memory");
        Assert.False(GenericAccess().IsMatch(ptx), $"{what} accesses memory without saying which");
    }

    [GeneratedRegex(@"\b(ld|st)\.(v\d\.)?[busf]\d+\b")]
    private static partial Regex GenericAccess();
}
