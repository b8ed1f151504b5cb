namespace IlgpuPeft.Kernels;

/// <summary>The numbers that attention kernels take.</summary>
struct AttentionCall
{
    /// <summary>H, H/G, C, and the window or 0.</summary>
    public int Heads, HeadsPerGroup, Width, Window;

    /// <summary>N and M: rows of queries and of keys.</summary>
    public int Queries, Keys;

    /// <summary>Factor on q·k, by itself and times log₂ e.</summary>
    public float Scale, Scale2;

    public AttentionCall(AttentionShape shape, Slice q, Slice k)
    {
        (Heads, HeadsPerGroup, Width, Window) = (shape.Heads, shape.Heads / shape.KeyValueHeads, shape.HeadWidth, shape.Window);
        (Queries, Keys) = ((int)(q.Length / QueryStride), (int)(k.Length / KeyStride));
        (Scale, Scale2) = ((float)shape.Scale, (float)shape.Scale * Intrinsics.Log2E);
    }

    /// <summary>Elements from a row of queries to the next.</summary>
    public readonly int QueryStride => Heads * Width;

    /// <summary>Elements from a row of keys to the next.</summary>
    public readonly int KeyStride => Heads / HeadsPerGroup * Width;
}
