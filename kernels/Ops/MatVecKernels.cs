// Matrix products with few rows on devices: decoding tokens, where every weight is read for little work.
//
// Maths      y = alpha·x·Wᵀ + bias + scale·u·Vᵀ (+ y), the last a low-rank update; sums in f32
// Shapes     x [M, K] · W [O, K] dense or NF4 · bias [O] · u [M, R] · V [O, R] → y [M, O]; few M, any K, any blocks
// Layout     row-major; NF4 rows of whole runs of 32 weights are read 16 bytes a lane, any other four weights or one at a time
// Launch     groups of 8 warps. 1, 2, 4 or all 8 of them share four outputs, so that there are enough groups; a warp's lanes take runs in turn for 1, 2, 4 or 8 rows of x, more rows come as
//            further groups. x lies in shared memory, 32 KB of it at a time, quad q at q xor (q/8 mod 8): so lanes that read quad i of neighbouring runs are free of bank conflicts
// Floor      bytes of W: O·K/2 and the scales with NF4; x once for each group comes from cache. For one row, an NF4 weight costs a shared load of its code, a multiply-add, and a quarter of
//            a shared load of x
// Numerics   within 1e-5 of the f64 oracle in f32; lanes, then warps are summed in a fixed order, so runs repeat bit for bit

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatVecKernels
{
    /// <summary>Floats of the tables that a group keeps in shared memory: 16 codes, and the 256 values that block scales take with double quantisation.</summary>
    public const int Tables = 16 + 256;

    const int Warps = 8, Lanes = 32, Threads = Warps * Lanes;
    const int PanelQuads = 2048;  // 32 KB of x in shared memory
    const int SmallestShare = 8;  // quads of an output that a lane takes; below, sharing costs more than it saves
    const int WantedGroups = 128; // one for each multiprocessor of a large GPU

    /// <summary>Queues the product for weights and result of any kind.</summary>
    public static void Multiply<TX, TWeights, TY>(KernelDevice device, MatMulCall call, TWeights weights, LowRankProduct update)
        where TX : unmanaged, IElement<TX> where TWeights : struct, IMatVecWeights where TY : unmanaged, IElement<TY>
    {
        switch (call.M)
        {
            case 1:
                Multiply<TX, TWeights, TY, OneRow>(device, call, weights, update);
                break;
            case 2:
                Multiply<TX, TWeights, TY, TwiceRows<OneRow>>(device, call, weights, update);
                break;
            case <= 4:
                Multiply<TX, TWeights, TY, TwiceRows<TwiceRows<OneRow>>>(device, call, weights, update);
                break;
            default:
                Multiply<TX, TWeights, TY, TwiceRows<TwiceRows<TwiceRows<OneRow>>>>(device, call, weights, update);
                break;
        }
    }

    /// <summary>Where quad <paramref name="quad"/> of a row lies in its panel.</summary>
    public static int Place(int quad) => quad ^ ((quad >> 3) & 7);

    static void Multiply<TX, TWeights, TY, TSums>(KernelDevice device, MatMulCall call, TWeights weights, LowRankProduct update)
        where TX : unmanaged, IElement<TX> where TWeights : struct, IMatVecWeights where TY : unmanaged, IElement<TY> where TSums : unmanaged, IMatVecSums<TSums>
    {
        int wanted = TSums.Rows == 1 ? 2 * WantedGroups : WantedGroups; // groups hide latency, but each reads all of x
        int quads = Math.Min((call.K + 3) / 4, PanelQuads / TSums.Rows), shared = 1;
        while (shared < Warps && Groups() < wanted && quads >= 2 * shared * Lanes * SmallestShare)
        {
            shared *= 2;
        }

        var x = DenseOperand<TX>.Of(device, call.A, call.M, call.K, true, call.Alpha);
        var left = DenseOperand<TX>.Of(device, update.Left, call.M, update.Rank, true, update.Scale);
        var right = new MatVecQuads<DenseOperand<F32>>(DenseOperand<F32>.Of(device, update.Right, call.N, update.Rank, true), update.Rank, Quads.Fit(update.Right, update.Rank));
        var shape = new LaunchShape(new Index3D(Groups(), (call.M + TSums.Rows - 1) / TSums.Rows, 1), Threads);
        device.Launch(Kernel<TX, TWeights, TY, TSums>, shape, x, weights, left, right, Result<TY>.Of(device, call), call.N, call.K, update.Rank, shared);

        int Groups() => (call.N + 4 * Warps / shared - 1) / (4 * Warps / shared);
    }

    static void Kernel<TX, TWeights, TY, TSums>(DenseOperand<TX> x, TWeights weights, DenseOperand<TX> left, MatVecQuads<DenseOperand<F32>> right, Result<TY> y, int outputs, int k, int rank,
        int shared)
        where TX : unmanaged, IElement<TX> where TWeights : struct, IMatVecWeights where TY : unmanaged, IElement<TY> where TSums : unmanaged, IMatVecSums<TSums>
    {
        var panel = SharedMemory.Allocate<Float4>(PanelQuads);
        var partial = SharedMemory.Allocate<Float4>(Warps * 8);
        var codes = SharedMemory.Allocate<float>(Tables);
        weights.Prepare(codes);
        int warp = Group.IdxX / Lanes, quartets = Warps / shared, part = warp % shared, row = Grid.IdxY * TSums.Rows;
        var four = new FourRows((Grid.IdxX * quartets + warp / shared) * 4, outputs);
        var sums = Sum<TX, TWeights, TSums>(default, x, weights, panel, codes, four, row, k, part, shared);
        sums = Sum(sums, left, right, panel, codes, four, row, rank, part, shared);
        sums = sums.OverWarp();
        if (Group.IdxX % Lanes == 0)
        {
            sums.Store(partial, warp * TSums.Rows);
        }

        Group.Barrier(); // the sums of all warps are there
        if (Group.IdxX < quartets * TSums.Rows)
        {
            int quartet = Group.IdxX / TSums.Rows, m = Group.IdxX % TSums.Rows;
            Float4 total = default;
            for (int i = 0; i < shared; i++)
            {
                total += partial[(quartet * shared + i) * TSums.Rows + m];
            }

            y.StoreRow(0, row + m, (Grid.IdxX * quartets + quartet) * 4, total);
        }
    }

    /// <summary>Adds the warp's part of all terms to the thread's sums, a panel of x at a time.</summary>
    static TSums Sum<TX, TWeights, TSums>(TSums sums, DenseOperand<TX> x, TWeights weights, ArrayView<Float4> panel, ArrayView<float> codes, FourRows four, int row, int k, int part, int shared)
        where TX : unmanaged, IElement<TX> where TWeights : struct, IMatVecWeights where TSums : unmanaged, IMatVecSums<TSums>
    {
        int stride = PanelQuads / TSums.Rows, quads = (k + 3) / 4;
        for (int start = 0; start < quads; start += stride)
        {
            int count = IntrinsicMath.Min(stride, quads - start);
            Group.Barrier(); // the panel before was read, the table of codes is complete
            for (int m = 0; m < TSums.Rows; m++)
            {
                for (int q = Group.IdxX; q < count; q += Threads)
                {
                    panel[m * stride + Place(q)] = x.Row(codes, row + m, 4 * (start + q));
                }
            }

            Group.Barrier(); // the panel is complete
            for (int q = (part * Lanes + Group.IdxX % Lanes) * weights.RunQuads; q < count; q += shared * Lanes * weights.RunQuads)
            {
                sums = weights.Add(sums, codes, four, start + q, panel, q, stride);
            }
        }

        return sums;
    }
}
