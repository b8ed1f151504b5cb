using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

[Collection(nameof(HostProducts))]
public sealed class WorkersTests : IDisposable
{
    readonly int threads = Workers.Count;

    public void Dispose() => Workers.Count = threads;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void Run_runs_every_task_once(int count)
    {
        Workers.Count = count;
        for (int round = 0; round < 2000; round++)
        {
            var runs = new int[round % 37];
            Workers.Run(runs.Length, i => Interlocked.Increment(ref runs[i]));
            Assert.All(runs, times => Assert.Equal(1, times));
        }
    }

    [Fact]
    public void Run_uses_more_than_one_thread()
    {
        Workers.Count = 2;
        using var both = new Barrier(2);
        // Each task waits for the other one, which only a second thread can run.
        Workers.Run(2, _ => Assert.True(both.SignalAndWait(TimeSpan.FromSeconds(30))));
    }

    [Fact]
    public void Run_rethrows_the_exception_of_a_task_and_stays_usable()
    {
        Workers.Count = 3;
        for (int round = 0; round < 100; round++)
        {
            int bad = round % 20;
            var error = Assert.Throws<InvalidOperationException>(() => Workers.Run(20, i =>
            {
                if (i == bad)
                {
                    throw new InvalidOperationException("planted");
                }
            }));
            Assert.Equal("planted", error.Message);
        }

        int done = 0;
        Workers.Run(10, _ => Interlocked.Increment(ref done));
        Assert.Equal(10, done);
    }

    [Fact]
    public void Run_inside_a_task_executes_on_the_same_thread()
    {
        Workers.Count = 3;
        int total = 0;
        Workers.Run(8, _ =>
        {
            int thread = Environment.CurrentManagedThreadId;
            Workers.Run(5, _ =>
            {
                Assert.Equal(thread, Environment.CurrentManagedThreadId);
                Interlocked.Increment(ref total);
            });
        });
        Assert.Equal(40, total);
    }

    [Fact]
    public void Run_from_several_threads_at_once_completes()
    {
        Workers.Count = 3;
        var totals = new int[4];
        var callers = Enumerable.Range(0, totals.Length).Select(t => new Thread(() =>
        {
            for (int round = 0; round < 500; round++)
            {
                Workers.Run(7, _ => Interlocked.Increment(ref totals[t]));
            }
        })).ToList();
        callers.ForEach(caller => caller.Start());
        callers.ForEach(caller => caller.Join());
        Assert.All(totals, total => Assert.Equal(3500, total));
    }

    [Fact]
    public void Count_refuses_zero() => Assert.Throws<ArgumentOutOfRangeException>(() => Workers.Count = 0);
}
