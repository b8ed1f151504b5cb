using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>
/// Records what the forward pass did and walks it back. Each differentiable function (in <see cref="Functions"/> and in the layers) computes its output
/// through the <see cref="Backend"/>, then records how to turn the output's gradient into those of its inputs.
/// Memory that a function took is released as soon as its backward step is done: nothing that ran before it can still need it.
/// </summary>
public sealed class Tape(Backend backend, Arena arena)
{
    readonly List<Node> nodes = [];
    List<Slice> taken = [];

    sealed record Node(Tensor? Output, Action Backward, List<Slice> Memory);

    /// <summary>Where the functions compute.</summary>
    public Backend Backend => backend;

    /// <summary>False while only values are wanted: generation, evaluation, the first pass of a checkpointed block.</summary>
    public bool IsRecording { get; private set; } = true;

    /// <summary>Whether dropout acts: in training, in both passes of a checkpointed block.</summary>
    public bool IsTraining { get; init; } = true;

    /// <summary>The seed and step that key this step's random draws; the operation number is the caller's.</summary>
    public (ulong Seed, uint Step) Randomness { get; set; }

    /// <summary>A tape that never records.</summary>
    public static Tape ForInference(Backend backend, Arena arena) => new(backend, arena) { IsRecording = false, IsTraining = false };

    /// <summary>Memory of this step in the activation type, of undefined contents.</summary>
    public Tensor New(int rows, int columns, bool requiresGradient = false) =>
        new(rows, columns, Take(backend.Activation, (long)rows * columns), requiresGradient && IsRecording);

    /// <summary>Memory of this step that is not a tensor: saved statistics, token ids.</summary>
    public Slice Take(DType type, long length)
    {
        var slice = arena.Allocate(type, length);
        taken.Add(slice);
        return slice;
    }

    /// <summary>Memory of this step that holds the given values.</summary>
    public Slice Upload(ReadOnlySpan<int> values)
    {
        var slice = Take(DType.I32, values.Length);
        backend.Upload(System.Runtime.InteropServices.MemoryMarshal.AsBytes(values), slice);
        return slice;
    }

    /// <summary>
    /// Records one function. <paramref name="backward"/> runs only if a gradient reached <paramref name="output"/>;
    /// for a function that works in place, pass null: it always runs.
    /// </summary>
    public void Record(Tensor? output, Action backward)
    {
        if (!IsRecording)
        {
            return;
        }

        nodes.Add(new Node(output, backward, taken));
        if (output is not null)
        {
            output.Home = taken;
        }

        taken = [];
    }

    /// <summary>
    /// Where to put a gradient of <paramref name="tensor"/>: its memory, and whether to add to what is there. Empty if no gradient is wanted.
    /// </summary>
    public Slice GradientOf(Tensor tensor, out bool accumulate)
    {
        accumulate = !tensor.Gradient.IsEmpty;
        if (tensor.RequiresGradient && !accumulate)
        {
            tensor.Gradient = arena.Allocate(backend.Activation, tensor.Data.Length);
        }

        return tensor.Gradient;
    }

    /// <summary>Releases a tensor of an unrecorded pass that nothing reads any more.</summary>
    public void Release(Tensor tensor)
    {
        if (!IsRecording && taken.Remove(tensor.Data))
        {
            arena.Release(tensor.Data);
        }
    }

    /// <summary>Adds <paramref name="from"/>'s gradient to <paramref name="to"/>'s: what a residual connection does. Copies nothing where <paramref name="to"/> has none yet.</summary>
    public void PassGradient(Tensor from, Tensor to)
    {
        if (!to.RequiresGradient)
        {
            return;
        }

        if (to.Gradient.IsEmpty)
        {
            (to.Gradient, from.Gradient) = (from.Gradient, default);
        }
        else
        {
            backend.Add(from.Gradient, 1, to.Gradient);
        }
    }

    /// <summary>Declares that a tensor's own memory now holds its gradient: for backward steps that overwrite an input they are the last to need.</summary>
    public static void AdoptGradient(Tensor tensor)
    {
        if (!tensor.RequiresGradient)
        {
            return;
        }

        tensor.Home!.Remove(tensor.Data);
        tensor.Gradient = tensor.Data;
    }

    /// <summary>
    /// Releases a tensor's memory now and computes it again when the backward pass comes back to this point: for values that are cheaper to recompute than to keep.
    /// </summary>
    public void Forget(Tensor tensor, Action<Slice> recompute)
    {
        if (!IsRecording)
        {
            return;
        }

        var home = tensor.Home!;
        var forgotten = tensor.Data;
        home.Remove(forgotten);
        arena.Release(forgotten);
        Record(null, () =>
        {
            tensor.Data = arena.Allocate(forgotten.Type, forgotten.Length);
            home.Add(tensor.Data);
            recompute(tensor.Data);
        });
    }

    /// <summary>Runs <paramref name="body"/> without recording and releases all memory it took, but for the tensor it returns.</summary>
    public Tensor WithoutRecording(Func<Tape, Tensor> body)
    {
        bool wasRecording = IsRecording;
        var outer = taken;
        IsRecording = false;
        taken = [];
        try
        {
            var result = body(this);
            ReleaseAll(taken, except: result.Data);
            outer.Add(result.Data);
            return result;
        }
        finally
        {
            IsRecording = wasRecording;
            taken = outer;
        }
    }

    /// <summary>
    /// Runs <paramref name="block"/> on <paramref name="input"/> keeping only the input, and runs it again in the backward pass (Chen et al. 2016, arXiv:1604.06174).
    /// Random draws are keyed by step and operation, so the second pass repeats the first.
    /// </summary>
    public Tensor Checkpoint(Tensor input, Func<Tape, Tensor, Tensor> block)
    {
        if (!IsRecording)
        {
            return block(this, input);
        }

        var value = WithoutRecording(tape => block(tape, input));
        var output = new Tensor(value.Rows, value.Columns, value.Data, true);
        Record(output, () =>
        {
            var inner = new Tape(backend, arena) { Randomness = Randomness, IsTraining = IsTraining };
            var again = block(inner, input);
            again.Gradient = output.Gradient;
            output.Gradient = default;
            inner.Backward();
        });
        return output;
    }

    /// <summary>Walks back from the tensors whose <see cref="Tensor.Gradient"/> was set; the tape is empty afterwards.</summary>
    public void Backward()
    {
        ReleaseAll(taken);
        taken = [];
        for (int i = nodes.Count - 1; i >= 0; i--)
        {
            var node = nodes[i];
            if (node.Output is null || !node.Output.Gradient.IsEmpty)
            {
                node.Backward();
            }

            ReleaseAll(node.Memory);
            ReleaseAll(taken); // what the backward step itself took
            taken.Clear();
            if (node.Output is { Gradient.IsEmpty: false } done)
            {
                arena.Release(done.Gradient);
                done.Gradient = default;
            }
        }

        nodes.Clear();
    }

    void ReleaseAll(List<Slice> memory, Slice except = default)
    {
        foreach (var slice in memory)
        {
            if (slice.Address != except.Address)
            {
                arena.Release(slice);
            }
        }
    }
}
