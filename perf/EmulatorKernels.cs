using System.Globalization;
using ILGPU;

namespace IlgpuPeft.Perf;

/// <summary>Kernels that the emulator is timed with. Matrices are square, row-major; n is a multiple of the tiles.</summary>
static class EmulatorKernels
{
    public const int Tile = 16;

    public const int RegisterTile = 2 * Tile;

    /// <summary>C = A·B through shared memory; one element a thread.</summary>
    public static void Tiled(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        var left = SharedMemory.Allocate<float>(Tile * Tile);
        var right = SharedMemory.Allocate<float>(Tile * Tile);
        int x = Group.IdxX, y = Group.IdxY, row = (Grid.IdxY * Tile) + y, column = (Grid.IdxX * Tile) + x;
        float sum = 0;
        for (int k = 0; k < n; k += Tile)
        {
            left[(y * Tile) + x] = a[(row * n) + k + x];
            right[(y * Tile) + x] = b[((k + y) * n) + column];
            Group.Barrier();
            for (int i = 0; i < Tile; i++)
                sum += left[(y * Tile) + i] * right[(i * Tile) + x];
            Group.Barrier();
        }

        c[(row * n) + column] = sum;
    }

    /// <summary>C = A·B through shared memory; four elements a thread, so that a word loaded from shared memory is used twice.</summary>
    public static void RegisterTiled(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        var left = SharedMemory.Allocate<float>(RegisterTile * Tile);
        var right = SharedMemory.Allocate<float>(Tile * RegisterTile);
        int x = Group.IdxX, y = Group.IdxY, row = (Grid.IdxY * RegisterTile) + y, column = (Grid.IdxX * RegisterTile) + x;
        float sum00 = 0, sum01 = 0, sum10 = 0, sum11 = 0;
        for (int k = 0; k < n; k += Tile)
        {
            left[(y * Tile) + x] = a[(row * n) + k + x];
            left[((y + Tile) * Tile) + x] = a[((row + Tile) * n) + k + x];
            right[(y * RegisterTile) + x] = b[((k + y) * n) + column];
            right[(y * RegisterTile) + x + Tile] = b[((k + y) * n) + column + Tile];
            Group.Barrier();
            for (int i = 0; i < Tile; i++)
            {
                float a0 = left[(y * Tile) + i], a1 = left[((y + Tile) * Tile) + i];
                float b0 = right[(i * RegisterTile) + x], b1 = right[(i * RegisterTile) + x + Tile];
                sum00 += a0 * b0;
                sum01 += a0 * b1;
                sum10 += a1 * b0;
                sum11 += a1 * b1;
            }

            Group.Barrier();
        }

        c[(row * n) + column] = sum00;
        c[(row * n) + column + Tile] = sum01;
        c[((row + Tile) * n) + column] = sum10;
        c[((row + Tile) * n) + column + Tile] = sum11;
    }

    /// <summary>y += scale · x.</summary>
    public static void Add(ArrayView<float> x, ArrayView<float> y, float scale)
    {
        int i = Grid.GlobalIndex.X;
        if (i < y.IntLength)
            y[i] += scale * x[i];
    }

    /// <summary>One warp with nothing to do: what a launch itself costs.</summary>
    public static void Empty(ArrayView<float> x)
    {
    }

    public const int TensorTile = 32;

    /// <summary>
    /// C = A·Bᵀ with A and B of bfloat16 and C of float, as PTX: 128 threads make 32x32 of C, each of the four warps 16x16 of it by two
    /// mma.m16n8k16. Tiles of 32x32 come by cp.async into two stages of shared memory, with rows of 80 bytes so that the eight rows of an
    /// ldmatrix lie in different banks.
    /// </summary>
    public static string TensorCore(int n)
    {
        const int row = 80, matrix = TensorTile * row, stage = 2 * matrix;
        int rowBytes = 2 * n, steps = n / TensorTile;
        return string.Create(CultureInfo.InvariantCulture, $$"""
            .version 8.0
            .target sm_80
            .address_size 64
            .visible .entry tensor_core(.param .b64 a, .param .b64 b, .param .b64 c)
            {
            .shared .align 16 .b8 tiles[{{2 * stage}}];
            .reg .pred %p<2>;
            .reg .b32 %r<32>;
            .reg .b64 %rd<8>;
            .reg .f32 %f<8>;
            mov.u32 %r0, %tid.x;
            mov.u32 %r1, %ctaid.x;
            mov.u32 %r2, %ctaid.y;
            // Thread t copies 16 bytes of A's and of B's tile: row t / 4, quarter t mod 4.
            shr.u32 %r3, %r0, 2;
            and.b32 %r4, %r0, 3;
            shl.b32 %r4, %r4, 4;
            mad.lo.u32 %r5, %r3, {{row}}, %r4;
            mov.u32 %r6, tiles;
            add.u32 %r5, %r5, %r6;
            mad.lo.u32 %r7, %r2, {{TensorTile}}, %r3;
            mad.lo.u32 %r7, %r7, {{rowBytes}}, %r4;
            mad.lo.u32 %r8, %r1, {{TensorTile}}, %r3;
            mad.lo.u32 %r8, %r8, {{rowBytes}}, %r4;
            cvt.u64.u32 %rd3, %r7;
            cvt.u64.u32 %rd4, %r8;
            ld.param.u64 %rd0, [a];
            ld.param.u64 %rd1, [b];
            ld.param.u64 %rd2, [c];
            add.u64 %rd3, %rd3, %rd0;
            add.u64 %rd4, %rd4, %rd1;
            // Warp w makes rows 16 (w / 2) and columns 16 (w mod 2): where its lanes' rows of A and of B are.
            shr.u32 %r9, %r0, 5;
            and.b32 %r10, %r9, 1;
            shr.u32 %r9, %r9, 1;
            and.b32 %r11, %r0, 15;
            shr.u32 %r12, %r0, 4;
            and.b32 %r12, %r12, 1;
            shl.b32 %r12, %r12, 4;
            mad.lo.u32 %r13, %r9, 16, %r11;
            mad.lo.u32 %r13, %r13, {{row}}, %r12;
            add.u32 %r13, %r13, %r6;
            mad.lo.u32 %r14, %r10, 16, %r11;
            mad.lo.u32 %r14, %r14, {{row}}, %r12;
            add.u32 %r14, %r14, %r6;
            cp.async.cg.shared.global [%r5], [%rd3], 16;
            cp.async.cg.shared.global [%r5+{{matrix}}], [%rd4], 16;
            cp.async.commit_group;
            mov.u32 %r15, 0;
            mov.u32 %r16, 0;
            LOOP:
            // The next stage flies while this one is used; behind the last there is none, only an empty group.
            xor.b32 %r17, %r16, {{stage}};
            setp.lt.u32 %p0, %r15, {{steps - 1}};
            add.u64 %rd3, %rd3, {{2 * TensorTile}};
            add.u64 %rd4, %rd4, {{2 * TensorTile}};
            add.u32 %r18, %r5, %r17;
            @%p0 cp.async.cg.shared.global [%r18], [%rd3], 16;
            @%p0 cp.async.cg.shared.global [%r18+{{matrix}}], [%rd4], 16;
            cp.async.commit_group;
            cp.async.wait_group 1;
            bar.sync 0;
            add.u32 %r19, %r13, %r16;
            add.u32 %r20, %r14, %r16;
            {{Multiply(0)}}
            {{Multiply(32)}}
            bar.sync 0;
            mov.u32 %r16, %r17;
            add.u32 %r15, %r15, 1;
            setp.lt.u32 %p1, %r15, {{steps}};
            @%p1 bra LOOP;
            // Lane l has rows l / 4 and l / 4 + 8, columns 2 (l mod 4) and the next, of each 16x8.
            and.b32 %r21, %r0, 31;
            shr.u32 %r22, %r21, 2;
            and.b32 %r23, %r21, 3;
            mad.lo.u32 %r24, %r2, {{TensorTile}}, %r22;
            mad.lo.u32 %r24, %r9, 16, %r24;
            mul.lo.u32 %r25, %r1, {{TensorTile}};
            mad.lo.u32 %r25, %r10, 16, %r25;
            mad.lo.u32 %r25, %r23, 2, %r25;
            mad.lo.u32 %r24, %r24, {{n}}, %r25;
            mul.wide.u32 %rd5, %r24, 4;
            add.u64 %rd5, %rd5, %rd2;
            st.global.v2.f32 [%rd5], {%f0, %f1};
            st.global.v2.f32 [%rd5+{{32 * n}}], {%f2, %f3};
            st.global.v2.f32 [%rd5+32], {%f4, %f5};
            st.global.v2.f32 [%rd5+{{32 * n + 32}}], {%f6, %f7};
            ret;
            }
            """);

        static string Multiply(int at) => $$"""
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r24, %r25, %r26, %r27}, [%r19+{{at}}];
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r28, %r29, %r30, %r31}, [%r20+{{matrix + at}}];
            mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r24, %r25, %r26, %r27}, {%r28, %r30}, {%f0, %f1, %f2, %f3};
            mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r24, %r25, %r26, %r27}, {%r29, %r31}, {%f4, %f5, %f6, %f7};
            """;
    }
}
