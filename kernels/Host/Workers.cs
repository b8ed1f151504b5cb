// Workers: the process-wide threads that every host kernel shares.
//
// A job is a struct with one method; its tasks are numbered and taken dynamically by the calling thread and by every worker that is
// free. Starting a job allocates nothing and costs about a microsecond while workers are still spinning from the job before.
// Kernels split outputs, never a sum, so a result does not depend on who computed which task or on how many threads there are.

using System.Runtime.CompilerServices;
using System.Runtime.ExceptionServices;

namespace IlgpuPeft.Kernels;

/// <summary>Numbered, independent tasks. A struct, so that starting it needs no closure.</summary>
interface IJob
{
    /// <summary>Runs task <paramref name="index"/>; called once per index, on any thread.</summary>
    void Run(int index);
}

/// <summary>Runs jobs on a pool of threads that lives as long as the process.</summary>
static unsafe class Workers
{
    // The state of the current job in one word, so that a worker joins and the caller closes atomically:
    // bits 0-15 workers inside, bit 16 open, bits 32-63 job number. A worker that comes late finds the job closed and touches nothing of it.
    const long Open = 1L << 16, Inside = Open - 1;

    // Some 100 µs of `pause`: longer than the serial stretches between two kernels of a token or a training step, shorter than a scheduler slice.
    const int SpinsBeforeParking = 5000;

    static readonly Lock Gate = new();
    static readonly List<Worker> Pool = [];
    static long state;
    static void* job;
    static delegate*<void*, int, void> run;
    static int tasks, next;
    static ExceptionDispatchInfo? failure;

    [ThreadStatic]
    static bool inside;

    /// <summary>Threads that work on one job, the caller included. Tests set it; results must not change.</summary>
    public static int Count
    {
        get;
        set
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, 1);
            field = value;
        }
    } = Environment.ProcessorCount;

    /// <summary>
    /// Runs <paramref name="body"/> for indices 0 to <paramref name="count"/> - 1 and returns when all are done. A job started inside a
    /// task, or while another thread runs one, executes on the calling thread. The first exception of a task is rethrown here.
    /// </summary>
    public static void Run<TJob>(int count, in TJob body) where TJob : struct, IJob
    {
        TJob local = body; // on this stack frame, hence at a fixed address until the last worker has left
        if (count <= 1 || Count == 1 || inside || !Gate.TryEnter())
        {
            for (int i = 0; i < count; i++)
            {
                local.Run(i);
            }

            return;
        }

        try
        {
            job = Unsafe.AsPointer(ref local);
            run = &Invoke<TJob>;
            tasks = count;
            next = 0;
            failure = null;
            Publish(Math.Min(Count, count) - 1);
            TakeTasks();
            Close();
            failure?.Throw();
        }
        finally
        {
            Gate.Exit();
        }
    }

    /// <summary>As <see cref="Run{TJob}"/>, for code where a closure does not matter.</summary>
    public static void Run(int count, Action<int> body) => Run(count, new DelegateJob(body));

    static void Invoke<TJob>(void* job, int index) where TJob : struct, IJob => Unsafe.AsRef<TJob>(job).Run(index);

    static void Publish(int helpers)
    {
        while (Pool.Count < helpers)
        {
            Pool.Add(new Worker(Pool.Count));
        }

        long number = (state >> 32) + 1;
        Interlocked.Exchange(ref state, (number << 32) | Open); // a full fence: the fields above are visible before, `Wake` reads after
        for (int i = 0; i < helpers; i++)
        {
            Pool[i].Wake();
        }
    }

    static void TakeTasks()
    {
        inside = true;
        try
        {
            for (int i = Interlocked.Increment(ref next) - 1; i < tasks; i = Interlocked.Increment(ref next) - 1)
            {
                run(job, i);
            }
        }
        catch (Exception e)
        {
            Interlocked.CompareExchange(ref failure, ExceptionDispatchInfo.Capture(e), null);
            Interlocked.Exchange(ref next, tasks);
        }
        finally
        {
            inside = false;
        }
    }

    static void Close()
    {
        Interlocked.And(ref state, ~Open);
        for (var wait = new SpinWait(); (Volatile.Read(ref state) & Inside) != 0;)
        {
            wait.SpinOnce(sleep1Threshold: -1);
        }
    }

    readonly struct DelegateJob(Action<int> body) : IJob
    {
        public void Run(int index) => body(index);
    }

    sealed class Worker
    {
        readonly object bed = new();
        readonly int index;
        long seen;
        bool parked;

        public Worker(int index)
        {
            this.index = index;
            new Thread(Loop) { IsBackground = true, Name = $"kernel worker {index}" }.Start();
        }

        public void Wake()
        {
            if (Volatile.Read(ref parked))
            {
                lock (bed)
                {
                    parked = false;
                    Monitor.Pulse(bed);
                }
            }
        }

        void Loop()
        {
            while (true)
            {
                if (Spin())
                {
                    TakeTasks();
                    Interlocked.Decrement(ref state);
                }
                else
                {
                    Park();
                }
            }
        }

        bool Spin()
        {
            for (int i = 0; i < SpinsBeforeParking; i++)
            {
                long now = Volatile.Read(ref state);
                if (IsNew(now))
                {
                    if (Interlocked.CompareExchange(ref state, now + 1, now) == now)
                    {
                        seen = now >> 32;
                        return true;
                    }
                }
                else
                {
                    Thread.SpinWait(1);
                }
            }

            return false;
        }

        void Park()
        {
            lock (bed)
            {
                parked = true;
                Interlocked.MemoryBarrier(); // a job published before this line is seen below; one published after it sees `parked`
                parked = !IsNew(Volatile.Read(ref state));
                while (parked)
                {
                    Monitor.Wait(bed);
                }
            }
        }

        bool IsNew(long now) => (now & Open) != 0 && now >> 32 != seen && index < Count - 1;
    }
}
