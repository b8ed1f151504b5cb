using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Models;

/// <summary>One layer of a Llama-family decoder: norm, attention, norm, gated MLP, with a residual connection around each half.</summary>
public sealed class DecoderBlock
{
    /// <summary>Which layer of the model this is, from 0.</summary>
    public required int Index { get; init; }

    /// <summary>[D].</summary>
    public required Parameter InputNorm { get; set; }

    /// <summary>[D] → [H·C].</summary>
    public required Linear Query { get; init; }

    /// <summary>[D] → [G·C].</summary>
    public required Linear Key { get; init; }

    /// <summary>[D] → [G·C].</summary>
    public required Linear Value { get; init; }

    /// <summary>[H·C] → [D].</summary>
    public required Linear Output { get; init; }

    /// <summary>[C], applied to every query head before RoPE (Qwen3), or null.</summary>
    public Parameter? QueryNorm { get; set; }

    /// <summary>[C], likewise for keys, or null.</summary>
    public Parameter? KeyNorm { get; set; }

    /// <summary>[D].</summary>
    public required Parameter MlpNorm { get; set; }

    /// <summary>[D] → [F].</summary>
    public required Linear Gate { get; init; }

    /// <summary>[D] → [F].</summary>
    public required Linear Up { get; init; }

    /// <summary>[F] → [D].</summary>
    public required Linear Down { get; init; }

    /// <summary>Heads, width, scale and window of this layer's attention.</summary>
    public required AttentionShape Attention { get; init; }

    /// <summary>Added to the mean square in every norm.</summary>
    public required double Epsilon { get; init; }

    /// <summary>The seven linear layers, in the order of the forward pass.</summary>
    public IEnumerable<Linear> Linears => [Query, Key, Value, Output, Gate, Up, Down];

    /// <summary>x [N, D] → [N, D].</summary>
    public Tensor Forward(Tape tape, Tensor x, TokenBatch batch, RopeTables rope)
    {
        var normed = tape.RmsNorm(x, InputNorm, Epsilon);                   // [N, D]
        var q = Query.Forward(tape, normed);                                // [N, H·C]
        var k = Key.Forward(tape, normed);                                  // [N, G·C]
        var v = Value.Forward(tape, normed);                                // [N, G·C]
        tape.Forget(normed, data => Renorm(tape, x, InputNorm, data));
        if (QueryNorm is not null && KeyNorm is not null)
        {
            q = tape.RmsNorm(q, QueryNorm, Epsilon);
            k = tape.RmsNorm(k, KeyNorm, Epsilon);
        }

        tape.Rope(q, rope, batch.Positions, Attention.Heads);
        tape.Rope(k, rope, batch.Positions, Attention.KeyValueHeads);
        var attended = Attend(tape, q, k, v, batch);                        // [N, H·C]
        var middle = Output.Forward(tape, attended, residual: x);           // [N, D]

        var mlpNormed = tape.RmsNorm(middle, MlpNorm, Epsilon);
        var gate = Gate.Forward(tape, mlpNormed);                           // [N, F]
        var up = Up.Forward(tape, mlpNormed);
        tape.Forget(mlpNormed, data => Renorm(tape, middle, MlpNorm, data));
        var product = tape.SwiGlu(gate, up);
        var y = Down.Forward(tape, product, residual: middle);              // [N, D]
        tape.Forget(product, data => tape.Backend.SwiGluForward(gate.Data, up.Data, data));
        return y;
    }

    void Renorm(Tape tape, Tensor x, Parameter weight, Slice y) => tape.Backend.RmsNormForward(x.Data, weight.Value, Epsilon, y, default);

    Tensor Attend(Tape tape, Tensor q, Tensor k, Tensor v, TokenBatch batch)
    {
        if (batch.Cache is null)
        {
            return tape.Attention(Attention, q, k, v, batch.Sequences);
        }

        // Generation: no gradient flows, and the keys of earlier tokens are in the cache.
        var (keys, values) = batch.Cache[Index];
        tape.Backend.ScatterRows(k.Data, batch.CacheRows, k.Columns, keys, accumulate: false);
        tape.Backend.ScatterRows(v.Data, batch.CacheRows, v.Columns, values, accumulate: false);
        var y = tape.New(q.Rows, q.Columns);
        tape.Backend.AttentionForward(Attention, q.Data, keys, values, batch.Sequences, y.Data, default);
        return y;
    }
}
