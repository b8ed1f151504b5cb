using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Runs instructions written as PTX text: one block over a buffer of 32-bit words whose address is parameter `p`.</summary>
static class PtxText
{
    /// <summary>A whole module around a kernel body, with registers %p0-7, %rs0-15, %r0-31, %rd0-15, %f0-15 and %fd0-15.</summary>
    public static string Kernel(string body, int shared = 0) => $$"""
        .version 8.0
        .target sm_80
        .address_size 64
        .visible .entry kernel(.param .b64 p)
        {
        {{(shared > 0 ? $".shared .align 16 .b8 tile[{shared}];" : "")}}
        .reg .pred %p<8>;
        .reg .b16 %rs<16>;
        .reg .b32 %r<32>;
        .reg .b64 %rd<16>;
        .reg .f32 %f<16>;
        .reg .f64 %fd<16>;
        {{body}}
        }
        """;

    /// <summary>Runs a body on a buffer of at least 256 words that starts with the given ones, and returns the buffer.</summary>
    public static unsafe uint[] Run(string body, int threads, int shared, params uint[] words)
    {
        using var memory = new AllocationTable();
        int count = Math.Max(256, words.Length);
        var buffer = memory.Allocate(4 * count);
        var device = new Span<uint>((void*)buffer.Start, count);
        device.Clear();
        words.CopyTo(device);
        var launch = new Launch(PtxProgram.Parse(Kernel(body, shared)), memory, new PtxEmulatorOptions())
        {
            BlockDim = (threads, 1, 1),
            Arguments = BitConverter.GetBytes(buffer.Start),
        };
        launch.Run();
        return device.ToArray();
    }

    public static PtxEmulatorException Fails(string body, int threads = 32, int shared = 0) =>
        Assert.Throws<PtxEmulatorException>(() => Run(body, threads, shared));
}
