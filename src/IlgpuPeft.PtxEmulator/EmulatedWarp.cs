using System.Numerics;
using System.Runtime.InteropServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Where a warp stopped running.</summary>
enum WarpState { Ready, AtBarrier, Finished }

/// <summary>
/// 32 threads in lockstep. Where they disagree on a branch, a stack holds the paths still to run: each entry is a program
/// counter, the lanes on that path, and the instruction at which they meet the others again (the immediate post-dominator).
/// </summary>
sealed unsafe class EmulatedWarp
{
    public const int Size = 32;

    const int MaxDepth = 64;

    struct Path
    {
        public int Pc;
        public int Join;
        public uint Lanes;
        public int Depth;
    }

    readonly PtxProgram program;
    readonly AlignedMemory memory;
    readonly byte* initialRegisters;
    Path[] paths = new Path[16];
    int top, current;

    public EmulatedWarp(Block block, int index)
    {
        Block = block;
        Index = index;
        program = block.Launch.Program;
        int lanes = Math.Min(Size, block.ThreadCount - (index * Size));
        AllLanes = lanes == Size ? uint.MaxValue : (1u << lanes) - 1;
        memory = new AlignedMemory((2 * program.RegisterBytes) + (program.LaneBytes * Size));
        Registers = memory.Pointer;
        initialRegisters = Registers + program.RegisterBytes;
        LaneMemory = initialRegisters + program.RegisterBytes;
    }

    public Block Block { get; }

    /// <summary>Position in the block.</summary>
    public int Index { get; }

    /// <summary>Lanes that have a thread: all 32, except in the last warp of a block.</summary>
    public uint AllLanes { get; }

    /// <summary>Lanes whose thread has not returned.</summary>
    public uint Alive { get; private set; }

    public byte* Registers { get; }

    /// <summary>`.local` memory and function parameters, one stretch of <see cref="PtxProgram.LaneBytes"/> per lane.</summary>
    public byte* LaneMemory { get; }

    /// <summary>The instruction being executed, for errors.</summary>
    public Instruction Current => program.Code[current];

    public WarpState State { get; private set; }

    /// <summary>Grows at each warp or block barrier; two accesses of a warp at the same time are not ordered.</summary>
    public int Time { get; set; }

    /// <summary>
    /// For every warp, the <see cref="Time"/> of its up to which barriers of parts of the block have ordered its accesses before what this
    /// warp does now. Null if this warp has passed none since the last barrier of the whole block.
    /// </summary>
    public int[]? Seen { get; set; }

    public Counters Counters => Block.Counters;

    public AsyncCopies Copies { get; } = new();

    /// <summary>Computes what registers hold at the start of every block of a launch: literals, special registers, else zeros.</summary>
    public void Prepare()
    {
        foreach (var (register, bits) in program.Constants)
            RegisterLanes.Fill(initialRegisters, register, bits, uint.MaxValue);
        foreach (var (name, register) in program.SpecialRegisters)
            for (int lane = 0; lane < Size; lane++)
                ((uint*)(initialRegisters + register.Slot))[lane] = SpecialRegisters.Value(name, this, lane);
    }

    /// <summary>Puts all threads at the entry point.</summary>
    public void Start()
    {
        NativeMemory.Copy(initialRegisters, Registers, (nuint)program.RegisterBytes);
        NativeMemory.Clear(LaneMemory, (nuint)(program.LaneBytes * Size));
        foreach (var (name, register) in program.BlockRegisters)
            Vectors.Fill((uint*)(Registers + register.Slot), SpecialRegisters.Value(name, this, lane: 0), uint.MaxValue);
        Alive = AllLanes;
        State = WarpState.Ready;
        Seen = null;
        Copies.Clear();
        top = 0;
        paths[0] = new Path { Pc = program.EntryPc, Join = -1, Lanes = AllLanes, Depth = 0 };
    }

    /// <summary>Runs until the warp waits at a barrier, ends, or has run <paramref name="budget"/> instructions; returns how many it ran.</summary>
    public long Run(long budget)
    {
        var code = program.Code;
        var classes = program.Classes;
        var counters = Counters;
        long ran = 0;
        while (State == WarpState.Ready && ran < budget)
        {
            ref var path = ref paths[top];
            if (path.Lanes == 0 || path.Pc == path.Join)
            {
                if (top == 0)
                {
                    State = WarpState.Finished;
                    break;
                }
                top--;
                continue;
            }
            current = path.Pc++;
            var kind = classes[current];
            var instruction = code[current];
            uint mask = path.Lanes;
            if (instruction.Guard >= 0)
            {
                uint guard = *(uint*)(Registers + instruction.Guard);
                mask &= instruction.GuardNegated ? ~guard : guard;
            }
            ran++;
            counters.Instruction(kind, mask);
            if (instruction.Guard >= 0 && kind == InstructionClass.Control)
                counters.Branches++;
            if (mask != 0)
                instruction.Execute(this, mask);
        }
        return ran;
    }

    /// <summary>Sends the lanes of <paramref name="taken"/> to <paramref name="target"/>; the others go on with the next instruction.</summary>
    public void Branch(uint taken, int target, int join)
    {
        ref var path = ref paths[top];
        if (taken == path.Lanes)
        {
            path.Pc = target;
            return;
        }
        Counters.DivergentBranches++;
        int next = path.Pc, depth = path.Depth;
        uint others = path.Lanes & ~taken;
        path.Pc = join;
        // Without a common instruction to meet at, the paths run to their end one after the other.
        if (join < 0)
            path.Lanes = 0;
        if (next != join)
            Push(new Path { Pc = next, Join = join, Lanes = others, Depth = depth });
        if (target != join)
            Push(new Path { Pc = target, Join = join, Lanes = taken, Depth = depth });
    }

    /// <summary>Whether the mask is all lanes of the running path.</summary>
    public bool Runs(uint mask) => mask == paths[top].Lanes;

    /// <summary>Sends lanes to several targets; lanes that are in no set go on with the next instruction.</summary>
    public void Scatter(uint[] lanesOf, int[] targets, int join)
    {
        int only = Array.FindIndex(lanesOf, Runs);
        if (only >= 0)
        {
            paths[top].Pc = targets[only];
            return;
        }
        Counters.DivergentBranches++;
        var path = paths[top];
        uint others = path.Lanes;
        paths[top].Pc = join;
        if (join < 0)
            paths[top].Lanes = 0;
        for (int i = 0; i < targets.Length; i++)
        {
            others &= ~lanesOf[i];
            if (lanesOf[i] != 0 && targets[i] != join)
                Push(new Path { Pc = targets[i], Join = join, Lanes = lanesOf[i], Depth = path.Depth });
        }
        if (others != 0 && path.Pc != join)
            Push(new Path { Pc = path.Pc, Join = join, Lanes = others, Depth = path.Depth });
    }

    /// <summary>Lets the running lanes execute a function; they go on behind the call when all have returned.</summary>
    public void Call(int target, uint lanes)
    {
        if (lanes != paths[top].Lanes)
            throw Fault("a call under a predicate that differs between threads is not supported");
        // Registers are laid out once per function, so a function cannot be inside itself.
        if (paths[top].Depth == MaxDepth)
            throw Fault("functions call each other too deeply; recursion is not supported");
        Push(new Path { Pc = target, Join = -1, Lanes = lanes, Depth = paths[top].Depth + 1 });
    }

    /// <summary>The lanes return from the function they are in; from the kernel itself, they end.</summary>
    public void Return(uint lanes)
    {
        int depth = paths[top].Depth;
        for (int i = top; i >= 0 && paths[i].Depth == depth; i--)
            paths[i].Lanes &= ~lanes;
        if (depth == 0)
            Alive &= ~lanes;
    }

    /// <summary>The lanes end, in whatever function they are.</summary>
    public void Exit(uint lanes)
    {
        for (int i = 0; i <= top; i++)
            paths[i].Lanes &= ~lanes;
        Alive &= ~lanes;
    }

    /// <summary>A barrier needs all threads of the warp together.</summary>
    public void RequireWhole(uint lanes)
    {
        if (lanes == AllLanes)
            return;
        int missing = BitOperations.TrailingZeroCount(AllLanes & ~lanes);
        string why = (Alive >> missing & 1) == 0 ? "it has returned" : "it is on another path";
        throw Fault($"divergent barrier: lane {missing} does not reach the barrier together with the other threads of its warp; {why}", lanes);
    }

    /// <summary>Stops the warp at a barrier.</summary>
    public void Wait() => State = WarpState.AtBarrier;

    /// <summary>Lets a warp that waits go on.</summary>
    public void Resume() => State = WarpState.Ready;

    /// <summary>Warp-wide instructions need every living lane that they name.</summary>
    public void RequireConverged(uint lanes, uint named)
    {
        uint missing = named & Alive & ~lanes;
        if (missing != 0)
            throw Fault($"lane {BitOperations.TrailingZeroCount(missing)} is named by the member mask but is on another path", lanes);
    }

    /// <summary>An error of the current instruction at its first lane.</summary>
    public PtxEmulatorException Fault(string problem, uint lanes = 0, ulong? address = null) =>
        PtxEmulatorException.At(this, BitOperations.TrailingZeroCount((lanes == 0 ? paths[top].Lanes : lanes) | 0x8000_0000), problem, address);

    void Push(Path path)
    {
        if (top + 1 == paths.Length)
            Array.Resize(ref paths, 2 * paths.Length);
        paths[++top] = path;
    }
}
