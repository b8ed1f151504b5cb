using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>
/// The differentiable functions of a decoder. Each computes through the backend and records its backward step on the tape.
/// N is the number of tokens. The maths is documented with the operations of <see cref="Backend"/>.
/// </summary>
public static class Functions
{
    /// <summary>Rows of a table: ids I32 [N], table [V, D] → [N, D].</summary>
    public static Tensor Embedding(this Tape tape, Slice ids, Weight table, Slice tableGradient)
    {
        var y = tape.New((int)ids.Length, table.Columns, !tableGradient.IsEmpty);
        tape.Backend.EmbeddingForward(ids, table, y.Data);
        tape.Record(y, () => tape.Backend.EmbeddingBackward(ids, y.Gradient, tableGradient));
        return y;
    }

    /// <summary>Root-mean-square normalisation of every <c>weight.Count</c> elements: the whole row, or each head where the weight has a head's width.</summary>
    public static Tensor RmsNorm(this Tape tape, Tensor x, Parameter weight, double epsilon)
    {
        var y = tape.New(x.Rows, x.Columns, x.RequiresGradient || weight.IsTrainable);
        var rstd = tape.IsRecording ? tape.Take(tape.Backend.Parameter, x.Data.Length / weight.Count) : default;
        tape.Backend.RmsNormForward(x.Data, weight.Value, epsilon, y.Data, rstd);
        tape.Record(y, () =>
        {
            var dx = tape.GradientOf(x, out bool accumulate);
            tape.Backend.RmsNormBackward(y.Gradient, x.Data, weight.Value, rstd, dx, accumulate, weight.Gradient);
        });
        return y;
    }

    /// <summary>Rotates the heads of x [N, heads · C] in place by the angles of their positions.</summary>
    public static void Rope(this Tape tape, Tensor x, RopeTables tables, Slice positions, int heads)
    {
        int width = x.Columns / heads;
        tape.Backend.Rope(x.Data, tables.Cos, tables.Sin, positions, heads, width, inverse: false);
        tape.Record(null, () =>
        {
            if (!x.Gradient.IsEmpty)
            {
                tape.Backend.Rope(x.Gradient, tables.Cos, tables.Sin, positions, heads, width, inverse: true);
            }
        });
    }

    /// <summary>Causal attention of q [N, H·C] over k, v [N, G·C] of the same tokens → [N, H·C].</summary>
    public static Tensor Attention(this Tape tape, AttentionShape shape, Tensor q, Tensor k, Tensor v, Slice sequences)
    {
        var y = tape.New(q.Rows, q.Columns, q.RequiresGradient || k.RequiresGradient || v.RequiresGradient);
        var lse = tape.IsRecording ? tape.Take(tape.Backend.Parameter, (long)q.Rows * shape.Heads) : default;
        tape.Backend.AttentionForward(shape, q.Data, k.Data, v.Data, sequences, y.Data, lse);
        tape.Record(y, () =>
        {
            // The backend writes all three, so one that nobody wants still needs a place.
            var dq = Place(q);
            var dk = Place(k);
            var dv = Place(v);
            tape.Backend.AttentionBackward(shape, y.Gradient, q.Data, k.Data, v.Data, sequences, y.Data, lse, dq, dk, dv);
        });
        return y;

        Slice Place(Tensor x) => x.RequiresGradient ? tape.GradientOf(x, out _) : tape.Take(tape.Backend.Activation, x.Data.Length);
    }

    /// <summary>silu(gate) · up. The output is not kept for the backward pass: see <see cref="Tape.Forget"/>.</summary>
    public static Tensor SwiGlu(this Tape tape, Tensor gate, Tensor up)
    {
        var y = tape.New(gate.Rows, gate.Columns, gate.RequiresGradient || up.RequiresGradient);
        tape.Backend.SwiGluForward(gate.Data, up.Data, y.Data);
        tape.Record(y, () =>
        {
            // gate and up are not needed again, so their gradients overwrite them.
            tape.Backend.SwiGluBackward(y.Gradient, gate.Data, up.Data, gate.Data, up.Data);
            Tape.AdoptGradient(gate);
            Tape.AdoptGradient(up);
        });
        return y;
    }

    /// <summary>Inverted dropout with a mask that <paramref name="operation"/> and the tape's seed and step determine.</summary>
    public static Tensor Dropout(this Tape tape, Tensor x, double probability, uint operation)
    {
        var key = new RandomKey(tape.Randomness.Seed, tape.Randomness.Step, operation);
        var y = tape.New(x.Rows, x.Columns, x.RequiresGradient);
        tape.Backend.Dropout(x.Data, probability, key, y.Data, accumulate: false);
        tape.Record(y, () =>
        {
            var dx = tape.GradientOf(x, out bool accumulate);
            if (!dx.IsEmpty)
            {
                tape.Backend.Dropout(y.Gradient, probability, key, dx, accumulate);
            }
        });
        return y;
    }
}
