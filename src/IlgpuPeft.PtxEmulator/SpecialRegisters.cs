namespace IlgpuPeft.PtxEmulator;

/// <summary>The read-only 32-bit registers that tell a thread where it is.</summary>
static class SpecialRegisters
{
    static readonly HashSet<string> Names =
    [
        "%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y", "%ctaid.z",
        "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid", "%nwarpid", "%dynamic_smem_size", "%total_smem_size",
        "%smid", "%nsmid", "%gridid",
        "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge",
    ];

    public static bool IsKnown(string name) => Names.Contains(name);

    /// <summary>Whether the value differs between the blocks of a launch.</summary>
    public static bool IsOfBlock(string name) => name.StartsWith("%ctaid", StringComparison.Ordinal) || name == "%smid";

    /// <summary>The value that one lane of a warp reads.</summary>
    public static uint Value(string name, EmulatedWarp warp, int lane)
    {
        var block = warp.Block;
        int thread = (warp.Index * EmulatedWarp.Size) + lane;
        var (dim, grid, at) = (block.Launch.BlockDim, block.Launch.GridDim, block.Index);
        uint bit = 1u << lane;
        return name switch
        {
            "%tid.x" => (uint)(thread % dim.X),
            "%tid.y" => (uint)(thread / dim.X % dim.Y),
            "%tid.z" => (uint)(thread / dim.X / dim.Y),
            "%ntid.x" => (uint)dim.X,
            "%ntid.y" => (uint)dim.Y,
            "%ntid.z" => (uint)dim.Z,
            "%ctaid.x" => (uint)at.X,
            "%ctaid.y" => (uint)at.Y,
            "%ctaid.z" => (uint)at.Z,
            "%nctaid.x" => (uint)grid.X,
            "%nctaid.y" => (uint)grid.Y,
            "%nctaid.z" => (uint)grid.Z,
            "%laneid" => (uint)lane,
            "%warpid" => (uint)warp.Index,
            "%nwarpid" => (uint)block.WarpCount,
            // As if block after block went to the next multiprocessor.
            "%smid" => (uint)((((((long)at.Z * grid.Y) + at.Y) * grid.X) + at.X) % PtxEmulatorDevice.Multiprocessors),
            "%nsmid" => PtxEmulatorDevice.Multiprocessors,
            "%gridid" => 0,
            "%dynamic_smem_size" => (uint)block.Launch.DynamicSharedBytes,
            "%total_smem_size" => (uint)block.Shared.Size,
            "%lanemask_eq" => bit,
            "%lanemask_lt" => bit - 1,
            "%lanemask_le" => bit | (bit - 1),
            "%lanemask_gt" => ~(bit | (bit - 1)),
            "%lanemask_ge" => ~(bit - 1),
            _ => throw new ArgumentOutOfRangeException(nameof(name), name, "no such special register"),
        };
    }
}
