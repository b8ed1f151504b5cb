using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tests;

/// <summary>Query row, queries, key row, keys of each sequence.</summary>
sealed record AttentionCase(string Name, int Heads, int KeyValueHeads, int Width, int Window, int[] Table)
{
    public AttentionShape Shape => new(Heads, KeyValueHeads, Width, 1 / Math.Sqrt(Width), Window);

    public int Queries => Enumerable.Range(0, Table.Length / 4).Max(i => Table[4 * i] + Table[4 * i + 1]);

    public int Keys => Enumerable.Range(0, Table.Length / 4).Max(i => Table[4 * i + 2] + Table[4 * i + 3]);

    public override string ToString() => Name;
}

/// <summary>One case on one device: inputs, outputs that are poisoned, and the two passes.</summary>
sealed class AttentionRun : IDisposable
{
    public AttentionRun(string device, AttentionCase c, int seed, double outliers = 0.01, double scale = 1)
    {
        (Case, Oracle) = (c, new Oracle(device, seed));
        int query = c.Heads * c.Width, key = c.KeyValueHeads * c.Width;
        Q = [.. Oracle.Values(c.Queries * query, outliers).Select(x => scale * x)];
        K = [.. Oracle.Values(c.Keys * key, 0).Select(x => scale * x)]; // outliers in q alone: a score of 400 costs three digits of its exponential
        V = Oracle.Values(c.Keys * key, outliers);
        Dy = Oracle.Values(c.Queries * query, outliers);
        (Query, Key, Value, DOutput, Table) = (Oracle.Put(Q), Oracle.Put(K), Oracle.Put(V), Oracle.Put(Dy), Oracle.Put(c.Table));
        (Y, Lse) = (Oracle.Output(Q.Length), Oracle.OutputParameter(c.Queries * c.Heads));
        (DQuery, DKey, DValue) = (Oracle.Output(Q.Length), Oracle.Output(K.Length), Oracle.Output(V.Length));
    }

    public AttentionCase Case { get; }

    public Oracle Oracle { get; }

    public double[] Q { get; }

    public double[] K { get; }

    public double[] V { get; }

    public double[] Dy { get; }

    public Slice Query { get; }

    public Slice Key { get; }

    public Slice Value { get; }

    public Slice DOutput { get; }

    public Slice Table { get; }

    public Slice Y { get; }

    public Slice Lse { get; }

    public Slice DQuery { get; }

    public Slice DKey { get; }

    public Slice DValue { get; }

    public void Forward() => Oracle.Backend.AttentionForward(Case.Shape, Query, Key, Value, Table, Y, Lse);

    public void Backward() => Oracle.Backend.AttentionBackward(Case.Shape, DOutput, Query, Key, Value, Table, Y, Lse, DQuery, DKey, DValue);

    public void Dispose() => Oracle.Dispose();
}
