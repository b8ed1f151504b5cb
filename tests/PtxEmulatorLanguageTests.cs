using ILGPU;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;
using Half = ILGPU.Half;

namespace IlgpuPeft.Tests;

/// <summary>What C# can say in a kernel: loops, structures, functions, jump tables, votes; run unchanged and compared with plain C#.</summary>
public sealed class PtxEmulatorLanguageTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorLanguageTests() => accelerator = context.CreatePtxEmulator();

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    static void Mandelbrot(Index1D i, ArrayView<int> to, int width, int limit)
    {
        float cx = (3f * (i % width) / width) - 2, cy = (2f * (i / width) / width) - 1, x = 0, y = 0;
        int n = 0;
        while (n < limit && (x * x) + (y * y) < 4)
        {
            float next = (x * x) - (y * y) + cx;
            y = (2 * x * y) + cy;
            x = next;
            n++;
        }
        to[i] = n;
    }

    [Fact]
    public void Mandelbrot_lanes_leave_their_loop_one_by_one()
    {
        const int width = 40;
        using var to = accelerator.Allocate1D<int>(width * width);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>, int, int>(Mandelbrot)(width * width, to.View, width, 50);
        int[] result = to.GetAsArray1D();
        for (int i = 0; i < width * width; i++)
        {
            float cx = (3f * (i % width) / width) - 2, cy = (2f * (i / width) / width) - 1, x = 0, y = 0;
            int n = 0;
            for (; n < 50 && (x * x) + (y * y) < 4; n++)
                (x, y) = ((x * x) - (y * y) + cx, (2 * x * y) + cy);
            Assert.Equal(n, result[i]);
        }
        Assert.True(accelerator.LastLaunch!.DivergentBranches > 0);
    }

    // Public, because ILGPU generates a structure of kernel arguments around it.
    public struct Particle
    {
        public float X;
        public byte Kind;
        public double Mass;
        public Half Charge;
    }

    static void Move(Index1D i, ArrayView<Particle> particles, Particle by, SpecializedValue<int> factor)
    {
        var p = particles[i];
        p.X += by.X * factor;
        p.Kind = (byte)(p.Kind + by.Kind);
        p.Mass *= by.Mass;
        p.Charge = (Half)((float)p.Charge + (float)by.Charge);
        particles[i] = p;
    }

    [Fact]
    public void Structures_and_specialised_constants_reach_the_kernel()
    {
        Particle[] data = [.. Enumerable.Range(0, 100).Select(i => new Particle { X = i, Kind = (byte)(200 + i), Mass = i, Charge = (Half)0.5f })];
        using var particles = accelerator.Allocate1D(data);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<Particle>, Particle, SpecializedValue<int>>(Move)(
            100, particles.View, new Particle { X = 0.25f, Kind = 10, Mass = 3, Charge = (Half)1f }, SpecializedValue.New(4));
        Particle[] result = particles.GetAsArray1D();
        for (int i = 0; i < 100; i++)
        {
            Assert.Equal(i + 1, result[i].X);
            Assert.Equal((byte)(210 + i), result[i].Kind);
            Assert.Equal(3.0 * i, result[i].Mass);
            Assert.Equal(1.5f, (float)result[i].Charge);
        }
    }

    static void Votes(ArrayView<int> to, int limit)
    {
        int t = Group.IdxX;
        to[t] = Group.BarrierPopCount(t < limit) + (Group.BarrierAnd(t < limit) ? 1000 : 0) + (Group.BarrierOr(t < limit) ? 2000 : 0);
        to[t + 64] = Group.Broadcast(t, 5) + Warp.Broadcast(t, 3);
    }

    [Fact]
    public void Group_votes_and_broadcasts_see_the_whole_block()
    {
        using var to = accelerator.Allocate1D<int>(128);
        accelerator.LoadStreamKernel<ArrayView<int>, int>(Votes)(new KernelConfig(1, 64), to.View, 40);
        Assert.Equal([.. Enumerable.Repeat(2040, 64), .. Enumerable.Range(0, 64).Select(t => t < 32 ? 8 : 40)], to.GetAsArray1D());
    }

    [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.NoInlining)]
    static Particle Twice(Particle p, int n)
    {
        if (n > 3)
            return p;
        p.X *= 2;
        return p;
    }

    static void CallFunction(Index1D i, ArrayView<Particle> particles)
    {
        if ((i & 1) == 0)
            particles[i] = Twice(particles[i], i % 8);
    }

    [Fact]
    public void Functions_are_called_by_some_lanes_and_return_on_two_ways()
    {
        using var particles = accelerator.Allocate1D<Particle>([.. Enumerable.Range(0, 64).Select(i => new Particle { X = i })]);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<Particle>>(CallFunction)(64, particles.View);
        float[] positions = [.. particles.GetAsArray1D().Select(p => p.X)];
        Assert.Equal(Enumerable.Range(0, 64).Select(i => (float)(i % 2 == 0 && i % 8 <= 3 ? 2 * i : i)), positions);
    }

    static void SwitchAndLocals(Index1D i, ArrayView<int> data)
    {
        var table = new int[8];
        for (int j = 0; j < 8; j++)
            table[j] = j * j;
        int chosen;
        switch (data[i])
        {
            case 0: chosen = 5; break;
            case 1: chosen = 7; break;
            case 2: chosen = 1; break;
            case 3: chosen = 99; break;
            default: chosen = table[data[i] & 7]; break;
        }
        data[i] = chosen;
    }

    [Fact]
    public void Jump_tables_and_local_arrays_work()
    {
        using var data = accelerator.Allocate1D<int>([.. Enumerable.Range(0, 32).Select(i => i % 8)]);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>>(SwitchAndLocals)(32, data.View);
        int[] expected = [.. Enumerable.Range(0, 32).Select(i => (i % 8) switch { 0 => 5, 1 => 7, 2 => 1, 3 => 99, var n => n * n })];
        Assert.Equal(expected, data.GetAsArray1D());
        Assert.True(accelerator.LastLaunch!.LocalBytes > 0);
    }
}
