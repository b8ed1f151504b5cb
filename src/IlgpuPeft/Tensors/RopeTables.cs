using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>
/// cos and sin of every position's angles, F32 [positions, C/2]: made on the host in double precision, because device sines are approximate and
/// positions are large. Tables grow to the longest position asked for.
/// </summary>
/// <param name="backend">Where the tables live.</param>
/// <param name="inverseFrequencies">Radians per position of each of the C/2 pairs, scaling included.</param>
/// <param name="attentionFactor">Multiplies both tables: 1 but for some scaling methods.</param>
public sealed class RopeTables(Backend backend, IReadOnlyList<double> inverseFrequencies, double attentionFactor = 1) : IDisposable
{
    /// <summary>Positions held now.</summary>
    public int Positions { get; private set; }

    /// <summary>F32 [positions, C/2].</summary>
    public Slice Cos { get; private set; }

    /// <summary>F32 [positions, C/2].</summary>
    public Slice Sin { get; private set; }

    /// <summary>Makes sure that positions 0 ... count - 1 are there. Call it before a pass starts: it moves the tables.</summary>
    public void Reserve(int count)
    {
        if (count <= Positions)
        {
            return;
        }

        int pairs = inverseFrequencies.Count;
        int positions = Math.Max(count, Math.Max(256, 2 * Positions));
        var cos = new float[positions * pairs];
        var sin = new float[positions * pairs];
        for (int position = 0; position < positions; position++)
        {
            for (int pair = 0; pair < pairs; pair++)
            {
                var (s, c) = Math.SinCos(position * inverseFrequencies[pair]);
                cos[position * pairs + pair] = (float)(c * attentionFactor);
                sin[position * pairs + pair] = (float)(s * attentionFactor);
            }
        }

        Dispose();
        Cos = backend.Place<float>(cos, "weights");
        Sin = backend.Place<float>(sin, "weights");
        Positions = positions;
    }

    /// <inheritdoc />
    public void Dispose()
    {
        backend.Free(Cos);
        backend.Free(Sin);
        (Cos, Sin, Positions) = (default, default, 0);
    }
}
