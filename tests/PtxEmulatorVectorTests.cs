using System.Numerics;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What the emulator computes for a whole warp at once is what it would be lane by lane.</summary>
public sealed unsafe class PtxEmulatorVectorTests
{
    /// <summary>Of three operands a, b, c of 64 bits: lanes whose bit of a random mask is clear must keep c.</summary>
    static void Check(string instructions, Func<ulong, ulong, ulong, ulong> expected)
    {
        var random = new Random(3);
        foreach (uint mask in (uint[])[uint.MaxValue, 0x8000_0001, (uint)random.NextInt64(1L << 32), 0])
        {
            ulong[] operands = [.. Enumerable.Range(0, 96).Select(_ => Operand(random))];
            uint[] result = PtxText.Run(
                "ld.param.u64 %rd0, [p]; mov.u32 %r0, %tid.x; shr.u32 %r9, MASK, %r0; and.b32 %r9, %r9, 1; setp.eq.u32 %p1, %r9, 1; ".Replace("MASK", $"{mask}")
                + "shl.b32 %r1, %r0, 3; cvt.u64.u32 %rd1, %r1; add.u64 %rd1, %rd1, %rd0; "
                + "ld.global.b64 %rd2, [%rd1]; ld.global.b64 %rd3, [%rd1+256]; ld.global.b64 %rd4, [%rd1+512]; mov.b64 %rd5, %rd4; "
                + "cvt.u32.u64 %r2, %rd2; cvt.u32.u64 %r3, %rd3; cvt.u32.u64 %r4, %rd4; mov.b32 %r5, %r4; "
                + "mov.b32 %f2, %r2; mov.b32 %f3, %r3; mov.b32 %f4, %r4; mov.b32 %f5, %r4; " + instructions + " st.global.b64 [%rd1+768], %rd5; ret;",
                32, 0, [.. operands.SelectMany(x => new[] { (uint)x, (uint)(x >> 32) })]);
            for (int lane = 0; lane < 32; lane++)
            {
                ulong got = result[192 + (2 * lane)] | ((ulong)result[193 + (2 * lane)] << 32), c = operands[64 + lane];
                ulong wanted = (mask >> lane & 1) != 0 ? expected(operands[lane], operands[32 + lane], c) : c;
                Assert.True(wanted == got, $"{instructions} a {operands[lane]:x} b {operands[32 + lane]:x} c {c:x}, lane {lane} of {mask:x}: got {got:x}, expected {wanted:x}");
            }
        }
    }

    static ulong Operand(Random random) => random.Next(6) switch
    {
        0 => (ulong)random.NextInt64() << 1,
        1 => (ulong)random.Next(40),
        2 => (ulong)-random.Next(40),
        3 => BitConverter.SingleToUInt32Bits(random.Next(3) switch { 0 => float.NaN, 1 => float.PositiveInfinity, _ => -1e-41f }),
        4 => 0x7FFF_FFFF_8000_0000,
        _ => BitConverter.SingleToUInt32Bits((random.NextSingle() - 0.5f) * 1000),
    };

    [Fact]
    public void Integers_are_multiplied_shifted_and_converted()
    {
        Check("@%p1 mul.wide.u32 %rd5, %r2, %r3;", (a, b, _) => (ulong)(uint)a * (uint)b);
        Check("@%p1 mul.wide.s32 %rd5, %r2, %r3;", (a, b, _) => (ulong)((long)(int)a * (int)b));
        Check("@%p1 mul.wide.u32 %rd5, %r2, 16;", (a, _, _) => (ulong)(uint)a * 16);
        Check("@%p1 mul.wide.s32 %rd5, %r2, 4;", (a, _, _) => (ulong)((long)(int)a * 4));
        Check("@%p1 mul.wide.s32 %rd5, %r2, 12;", (a, _, _) => (ulong)((long)(int)a * 12));
        Check("@%p1 mul.wide.s32 %rd5, %r2, -8;", (a, _, _) => (ulong)((long)(int)a * -8));
        Check("@%p1 mul.wide.s32 %rd5, %r2, 0x80000000;", (a, _, _) => (ulong)((long)(int)a * int.MinValue));
        Check("@%p1 mad.wide.u32 %rd5, %r2, %r3, %rd4;", (a, b, c) => ((ulong)(uint)a * (uint)b) + c);
        Check("@%p1 mad.wide.s32 %rd5, %r2, %r3, %rd4;", (a, b, c) => (ulong)((long)(int)a * (int)b) + c);
        Check("@%p1 mad.lo.u64 %rd5, %rd2, %rd3, %rd4;", (a, b, c) => (a * b) + c);
        Check32("@%p1 mad.lo.s32 %r5, %r2, %r3, %r4;", (a, b, c) => (a * b) + c);
        Check32("@%p1 shl.b32 %r5, %r2, 7;", (a, _, _) => a << 7);
        Check32("@%p1 shl.b32 %r5, %r2, 32;", (_, _, _) => 0);
        Check32("@%p1 shr.u32 %r5, %r2, 31;", (a, _, _) => (uint)a >> 31);
        Check32("@%p1 shr.s32 %r5, %r2, 9;", (a, _, _) => (uint)((int)a >> 9));
        Check32("@%p1 shr.s32 %r5, %r2, 40;", (a, _, _) => (uint)((int)a >> 31));
        Check("@%p1 shl.b64 %rd5, %rd2, 33;", (a, _, _) => a << 33);
        Check("@%p1 shr.u64 %rd5, %rd2, 5;", (a, _, _) => a >> 5);
        Check("@%p1 shr.s64 %rd5, %rd2, 63;", (a, _, _) => (ulong)((long)a >> 63));
        Check("@%p1 cvt.u64.u32 %rd5, %r2;", (a, _, _) => (uint)a);
        Check("@%p1 cvt.s64.s32 %rd5, %r2;", (a, _, _) => (ulong)(int)a);
        Check32("@%p1 cvt.u32.u64 %r5, %rd2;", (a, _, _) => a);
    }

    [Fact]
    public void Lanes_are_selected_compared_moved_and_added()
    {
        Check("setp.lt.s64 %p2, %rd2, %rd3; @%p1 selp.b64 %rd5, %rd2, %rd3, %p2;", (a, b, _) => (ulong)Math.Min((long)a, (long)b));
        Check("setp.hi.u64 %p2, %rd2, %rd3; @%p1 selp.b64 %rd5, %rd2, %rd3, %p2;", (a, b, _) => Math.Max(a, b));
        Check("mov.pred %p2, %p1; @%p1 setp.lt.u32 %p2, %r2, %r3; @%p1 selp.b64 %rd5, 5, 6, %p2;", (a, b, _) => (uint)a < (uint)b ? 5u : 6u);
        Check("@%p1 mov.b64 %rd5, %rd3;", (_, b, _) => b);
        Check("@%p1 add.s64 %rd5, %rd2, %rd3;", (a, b, _) => a + b);
        Check32("@%p1 xor.b32 %r5, %r2, %r3;", (a, b, _) => a ^ b);
        Check("cvt.u16.u32 %rs0, %r2; cvt.u16.u32 %rs1, %r3; cvt.u16.u32 %rs2, %r4; @%p1 add.s16 %rs2, %rs0, %rs1; cvt.u64.u16 %rd6, %rs2; @%p1 mov.b64 %rd5, %rd6;",
            (a, b, _) => (ushort)(a + b));
    }

    [Fact]
    public void Floats_are_fused_and_narrowed()
    {
        // Which of the NaNs is for other tests to say.
        Check32("@%p1 fma.rn.f32 %f5, %f2, %f3, %f4; setp.nan.f32 %p3, %f5, %f5; mov.b32 %r5, %f5; @%p3 mov.b32 %r5, 1;", (a, b, c) =>
        {
            float result = MathF.FusedMultiplyAdd(Float(a), Float(b), Float(c));
            return float.IsNaN(result) ? 1 : BitConverter.SingleToUInt32Bits(result);
        });
        Check32("@%p1 cvt.rn.bf16x2.f32 %r5, %f2, %f3;", (a, b, _) => ((uint)Floats.ToBf16(Float(a)) << 16) | Floats.ToBf16(Float(b)));
    }

    static float Float(ulong bits) => BitConverter.UInt32BitsToSingle((uint)bits);

    /// <summary>The same for a result of 32 bits.</summary>
    static void Check32(string instructions, Func<ulong, ulong, ulong, ulong> expected) => Check(
        instructions + " cvt.u64.u32 %rd6, %r5; @%p1 mov.b64 %rd5, %rd6;", (a, b, c) => (uint)expected(a, b, c));

    /// <summary>Addresses of 32 lanes, multiples of the size: in a row, with a stride, all one, in two rows, or anywhere.</summary>
    static ulong[] Addresses(Random random, int size, int range)
    {
        int kind = random.Next(6), stride = random.Next(-3, 40), start = random.Next(range / size);
        int Index(int lane) => kind switch
        {
            0 => start + lane,
            1 => start + (stride * lane),
            2 => start,
            3 => start + (lane % 16) + (lane / 16 * stride),
            4 => start + (lane ^ 5),
            _ => random.Next(range / size),
        };
        return [.. Enumerable.Range(0, 32).Select(lane => (ulong)((((Index(lane) * size) % range) + range) % range / size * size))];
    }

    [Fact]
    public void Shapes_know_what_a_request_costs_wherever_it_is()
    {
        var random = new Random(4);
        var shape = new AccessShape();
        for (int i = 0; i < 4000; i++)
        {
            int size = 1 << random.Next(5);
            ulong[] pattern = Addresses(random, size, 2048);
            uint mask = random.Next(3) == 0 ? uint.MaxValue : (uint)random.NextInt64(1, 1L << 32);
            // Several times elsewhere: what is kept from the first time must hold.
            for (int times = random.Next(1, 4); times > 0; times--)
            {
                ulong move = (ulong)(random.Next(200) * size) + (1ul << 40);
                ulong[] addresses = [.. pattern.Select(address => address + move)];
                ulong[] running = [.. addresses.Where((_, lane) => (mask >> lane & 1) != 0)];
                fixed (ulong* all = addresses)
                {
                    shape.Fit(all, mask, size);
                    Assert.Equal(running.Select(address => address / 32).Distinct().Count(), shape.Sectors(all));
                    Assert.Equal(Wavefronts(addresses, mask, size), shape.Wavefronts(all));
                }
                Assert.Equal((running.Min(), running.Max()), shape.Range);
                Assert.True(shape.IsAligned(size));
                Assert.Equal(running.All(address => address % 64 == 0), shape.IsAligned(64));
                Assert.Equal(running.Distinct().Count() == 1, shape.IsUniform);
                Assert.Equal(mask == uint.MaxValue && addresses.Select((a, lane) => a - (ulong)(lane * size)).Distinct().Count() == 1, shape.IsContiguous);
            }
        }
    }

    /// <summary>The most words that one bank must deliver, for each part of the warp that is served together.</summary>
    static int Wavefronts(ulong[] addresses, uint mask, int size)
    {
        int words = Math.Max(1, size / 4);
        return Enumerable.Range(0, 32).Where(lane => (mask >> lane & 1) != 0).GroupBy(lane => lane / (32 / words)).Sum(part => part
            .SelectMany(lane => Enumerable.Range(0, words).Select(i => (addresses[lane] / 4) + (ulong)i)).Distinct().GroupBy(word => word % 32)
            .Max(bank => bank.Count()));
    }

    /// <summary>Two copies of a block's memory; one is checked by whole requests where possible, the other lane by lane.</summary>
    [Fact]
    public void Checks_of_shared_memory_find_the_same_by_request_and_by_lane()
    {
        const int bytes = 1024;
        var program = PtxProgram.Parse(PtxText.Kernel("ret;", bytes));
        var outcomes = new Dictionary<string, int>();
        int whole = 0;
        for (int run = 0; run < 3000; run++)
        {
            var random = new Random(run);
            using var memory = new AllocationTable();
            var launch = new Launch(program, memory, new PtxEmulatorOptions { CheckSharedRaces = run % 5 != 0 }) { BlockDim = (96, 1, 1) };
            Block[] blocks = [new(launch), new(launch)];
            foreach (var block in blocks)
                Initialise(block, bytes - (run % 4 == 0 ? 32 : 0));
            string? problem = null;
            int at = 0, size = 0;
            uint mask = 0;
            ulong[] addresses = [];
            for (int step = 0; step < 60 && problem == null; step++)
            {
                // Every other time the same lanes come back to the same words.
                if (step == 0 || random.Next(2) == 0)
                {
                    at = random.Next(3);
                    size = 1 << (random.Next(5) == 0 ? random.Next(2) : random.Next(2, 5));
                    addresses = Addresses(random, size, bytes);
                    mask = random.Next(2) == 0 ? uint.MaxValue : (uint)random.NextInt64(1, 1L << 32);
                }
                int action = random.Next(10), seed = random.Next();
                string?[] found = [.. blocks.Select((block, b) => Step(block, b == 0, action, block.Warps[at], addresses, mask, size, new Random(seed), ref whole))];
                Assert.True(found[0] == found[1], $"run {run}, step {step}: by request '{found[0]}', by lane '{found[1]}'");
                problem = found[0];
            }
            string kind = problem == null ? "" : problem.Split(" thread ")[0];
            outcomes[kind] = outcomes.GetValueOrDefault(kind) + 1;
        }
        // Of everything that can happen, enough has.
        Assert.True(whole > 1000, $"only {whole} requests were noted as a whole");
        Assert.True(outcomes.Count >= 7 && outcomes.Values.Min() >= 5, string.Join("\n", outcomes));
    }

    static void Initialise(Block block, int bytes)
    {
        block.BeginEpoch();
        block.Shared.Start();
        ulong zeros = 0;
        for (ulong address = 0; address < (ulong)bytes; address += 8)
            Assert.Null(block.Shared.Write(block.Warps[0], 0, address, 8, &zeros));
        new Span<byte>(block.Shared.Data, block.Shared.Size).Clear();
        block.BeginEpoch();
    }

    static string? Step(Block block, bool byRequest, int action, EmulatedWarp warp, ulong[] addresses, uint mask, int size, Random random, ref int whole)
    {
        var shared = block.Shared;
        switch (action)
        {
            case 0 or 1 or 2:
                block.BeginEpoch();
                return null;
            case 3:
                warp.Time++;
                return null;
            case 4 when random.Next(8) == 0:
                shared.Pend(addresses[0] / 16 * 16, 16, 1);
                return null;
            case 5 when random.Next(2) == 0:
                return shared.ReadModifyWrite(warp, lane: 0, addresses[0], Math.Min(8, size));
        }
        bool write = action >= 8;
        var shape = new AccessShape();
        fixed (ulong* all = addresses)
        {
            shape.Fit(all, mask, size);
            shape.Fit(all, mask, size);
        }
        byte value = (byte)random.Next(2);
        bool noted = byRequest && shape.Words is { } words && (write ? words.IsExclusive && shared.Write(warp, shape, words) : shared.Read(warp, shape, words));
        whole += noted ? 1 : 0;
        byte* values = stackalloc byte[16];
        new Span<byte>(values, 16).Fill(value);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            string? problem = noted ? null
                : write ? shared.Write(warp, lane, addresses[lane], size, values) : shared.Read(warp, lane, addresses[lane], size);
            if (problem != null)
                return problem;
            if (write)
                new Span<byte>(shared.Data + addresses[lane], size).Fill(value);
        }
        return null;
    }

    [Fact]
    public void Blocks_that_ran_before_start_like_new_ones()
    {
        var program = PtxProgram.Parse(PtxText.Kernel(
            "ld.param.u64 %rd0, [p]; mov.u32 %r1, %nctaid.x; mov.u32 %r2, %ctaid.x; mul.wide.u32 %rd1, %r2, 8; add.u64 %rd1, %rd1, %rd0; "
            + "add.u32 %r3, %r3, %r1; st.global.v2.b32 [%rd1], {%r3, %r2}; ret;"));
        using var memory = new AllocationTable();
        var buffer = memory.Allocate(8 * 8);
        foreach (int blocks in (int[])[3, 3, 8, 5])
        {
            var launch = new Launch(program, memory, new PtxEmulatorOptions()) { GridDim = (blocks, 1, 1), Arguments = BitConverter.GetBytes(buffer.Start) };
            launch.Run();
            var words = new ReadOnlySpan<uint>((void*)buffer.Start, 2 * blocks);
            for (int i = 0; i < blocks; i++)
                Assert.Equal(((uint)blocks, (uint)i), (words[2 * i], words[(2 * i) + 1]));
        }
    }

    [Fact]
    public void Shared_memory_of_an_earlier_block_counts_as_unwritten()
    {
        // Block 0 writes, block 1 does not; on one worker both use the same memory.
        var program = PtxProgram.Parse(PtxText.Kernel(
            "mov.u32 %r0, %ctaid.x; mov.u32 %r1, 0; setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.b32 [%r1], %r0; ld.shared.b32 %r2, [%r1]; ret;", shared: 4));
        using var memory = new AllocationTable();
        var error = Assert.Throws<PtxEmulatorException>(() =>
            new Launch(program, memory, new PtxEmulatorOptions { Workers = 1 }) { GridDim = (2, 1, 1), Arguments = new byte[8] }.Run());
        Assert.Contains("no thread of the block has written", error.Message);
        Assert.Equal(1, error.Block.X);
    }
}
