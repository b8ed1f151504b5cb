// Nf4: weights to and from 4-bit NormalFloat, and the block scales to and from 8 bits.
//
// Maths      absmax[b] = max |w| over block b;  code[i] = number of thresholds below w[i] · (1 / absmax[b]);  w'[i] = Codes[code[i]] · absmax[b]
//            double: offset = mean(absmax);  absmax'[b] = map[q[b]] · nestedAbsMax[b / 256] + offset
// Shapes     w [n] f32 → packed [⌈n/2⌉] u8, absmax [⌈n/blockSize⌉] f32;  absmax [m] f32 → q [m] u8, nestedAbsMax [⌈m/256⌉] f32, offset f32
// Layout     blocks run over the flattened row-major matrix and ignore row ends; the even element sits in the high nibble.
//            With odd n the last low nibble holds the code of zero (7).
// Numerics   a weight exactly on a threshold takes the lower code; a block of zeros takes code 7. Every block is computed alone,
//            so the bytes do not depend on the number of threads; they equal those of bitsandbytes on a CPU.
// Source     Dettmers et al. 2023, arXiv:2305.14314 §3 (NF4, block 64, double quantisation); the table and the byte order are those that
//            bitsandbytes stores in files (functional.py, backends/default/ops.py)

using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>4-bit NormalFloat quantisation in blocks, with and without 8-bit block scales; byte for byte the format of bitsandbytes.</summary>
public static unsafe class Nf4
{
    /// <summary>Weights per block scale unless a checkpoint says otherwise.</summary>
    public const int DefaultBlockSize = 64;

    /// <summary>Block scales per nested scale in double quantisation: the only size the format's readers support.</summary>
    public const int NestedBlockSize = 256;

    // Blocks are handed to threads in pieces of this many weights: 256 KB of input, enough to outweigh the hand-over.
    const int WeightsPerTask = 1 << 16;

    static readonly float[] ThresholdTable = [.. Codes.ToArray().Zip(Codes[1..].ToArray(), (low, high) => (low + high) / 2)];
    static readonly ulong[] PairTable = Pairs();

    /// <summary>The 16 values of the data type, ascending. They are the stored constants of the format; recomputing the quantiles differs in the seventh digit.</summary>
    public static ReadOnlySpan<float> Codes =>
    [
        -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
        -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
        0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
        0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
    ];

    /// <summary>The 15 midpoints between neighbouring <see cref="Codes"/>.</summary>
    public static ReadOnlySpan<float> Thresholds => ThresholdTable;

    /// <summary>The 256 values of the 8-bit type that double quantisation stores block scales in; see <see cref="DynamicMap"/>.</summary>
    public static ReadOnlySpan<float> NestedMap => DynamicMap.Signed;

    /// <summary>Whether the format allows blocks of this many weights: a power of two from 32 to 4096.</summary>
    public static bool IsBlockSize(int blockSize) => int.IsPow2(blockSize) && blockSize is >= 32 and <= 4096;

    /// <summary>Bytes that hold <paramref name="count"/> packed weights.</summary>
    public static int PackedLength(int count) => (int)(((long)count + 1) / 2);

    /// <summary>Blocks of <paramref name="blockSize"/> that <paramref name="count"/> elements make; the last may be short.</summary>
    public static int BlockCount(int count, int blockSize) => (int)(((long)count + blockSize - 1) / blockSize);

    /// <summary>Quantises <paramref name="weights"/> [n] into <paramref name="packed"/> [⌈n/2⌉] and <paramref name="absMax"/> [⌈n/blockSize⌉].</summary>
    /// <exception cref="ArgumentException">A length or the block size is wrong, or a weight is not finite.</exception>
    public static void Quantize(ReadOnlySpan<float> weights, Span<byte> packed, Span<float> absMax, int blockSize = DefaultBlockSize)
    {
        CheckLengths("Nf4.Quantize", weights.Length, packed.Length, absMax.Length, blockSize);
        int count = weights.Length;
        fixed (float* w = weights)
        fixed (byte* p = packed)
        fixed (float* a = absMax)
        {
            // A lambda cannot hold a fixed pointer; the numbers stay valid because the call below waits for every task.
            nint wBase = (nint)w, pBase = (nint)p, aBase = (nint)a;
            ForBlocks(absMax.Length, blockSize, block =>
            {
                long start = (long)block * blockSize;
                int length = (int)Math.Min(blockSize, count - start);
                ((float*)aBase)[block] = QuantizeBlock((float*)wBase + start, length, (byte*)pBase + start / 2);
            });
        }

        for (int block = 0; block < absMax.Length; block++)
        {
            if (!float.IsFinite(absMax[block]))
            {
                int i = block * blockSize;
                while (float.IsFinite(weights[i]))
                {
                    i++;
                }

                throw new ArgumentException($"Nf4.Quantize: weight {i} is {weights[i]}, expected a finite number. Check the checkpoint.", nameof(weights));
            }
        }
    }

    /// <summary>Restores <paramref name="weights"/> [n] from <paramref name="packed"/> and <paramref name="absMax"/>; each product is one f32 multiplication.</summary>
    /// <exception cref="ArgumentException">A length or the block size is wrong.</exception>
    public static void Dequantize(ReadOnlySpan<byte> packed, ReadOnlySpan<float> absMax, Span<float> weights, int blockSize = DefaultBlockSize)
    {
        CheckLengths("Nf4.Dequantize", weights.Length, packed.Length, absMax.Length, blockSize);
        int count = weights.Length;
        fixed (float* w = weights)
        fixed (byte* p = packed)
        fixed (float* a = absMax)
        {
            nint wBase = (nint)w, pBase = (nint)p, aBase = (nint)a;
            ForBlocks(absMax.Length, blockSize, block =>
            {
                long start = (long)block * blockSize;
                int length = (int)Math.Min(blockSize, count - start);
                DequantizeBlock((byte*)pBase + start / 2, ((float*)aBase)[block], new Span<float>((float*)wBase + start, length));
            });
        }
    }

    /// <summary>
    /// Quantises block scales <paramref name="absMax"/> [m] to <paramref name="codes"/> [m] and <paramref name="nestedAbsMax"/> [⌈m/256⌉];
    /// returns the offset, their mean, which is subtracted first because scales are all positive.
    /// </summary>
    /// <exception cref="ArgumentException">A length is wrong, or there is no scale.</exception>
    public static float DoubleQuantize(ReadOnlySpan<float> absMax, Span<byte> codes, Span<float> nestedAbsMax)
    {
        Expect.That(absMax.Length > 0, "Nf4.DoubleQuantize", "absMax is empty, expected at least one block scale.");
        CheckNested("Nf4.DoubleQuantize", absMax.Length, codes.Length, nestedAbsMax.Length);
        float offset = CascadeSum.Sum(absMax) / absMax.Length;
        Span<float> centred = stackalloc float[NestedBlockSize];
        for (int block = 0; block < nestedAbsMax.Length; block++)
        {
            int start = block * NestedBlockSize, length = Math.Min(NestedBlockSize, absMax.Length - start);
            TensorPrimitives.Subtract(absMax.Slice(start, length), offset, centred);
            nestedAbsMax[block] = DynamicMap.QuantizeBlock(centred[..length], codes.Slice(start, length));
        }

        return offset;
    }

    /// <summary>Restores block scales <paramref name="absMax"/> [m] from what <see cref="DoubleQuantize"/> made.</summary>
    /// <param name="codes">8-bit codes [m].</param>
    /// <param name="nestedAbsMax">Nested scales [⌈m/256⌉].</param>
    /// <param name="map">The 8-bit type's 256 values: a checkpoint's own, or <see cref="NestedMap"/>.</param>
    /// <param name="offset">Mean of the original scales.</param>
    /// <param name="absMax">Receives the scales [m].</param>
    /// <exception cref="ArgumentException">A length is wrong.</exception>
    public static void RestoreAbsMax(ReadOnlySpan<byte> codes, ReadOnlySpan<float> nestedAbsMax, ReadOnlySpan<float> map, float offset, Span<float> absMax)
    {
        CheckNested("Nf4.RestoreAbsMax", absMax.Length, codes.Length, nestedAbsMax.Length);
        Expect.That(map.Length == 256, "Nf4.RestoreAbsMax", $"map has {map.Length} values, expected 256.");
        for (int i = 0; i < absMax.Length; i++)
        {
            absMax[i] = map[codes[i]] * nestedAbsMax[i / NestedBlockSize] + offset; // two roundings, as the format's readers do
        }
    }

    static float QuantizeBlock(float* x, int length, byte* packed)
    {
        float absMax = AbsMax(x, length);
        float inverse = 1 / MathF.Max(absMax, 1e-38f); // keeps the reciprocal finite; only blocks of zeros and subnormals are below
        int i = 0;
        for (; i + 32 <= length; i += 32)
        {
            Pack32(x + i, inverse).Store(packed + i / 2);
        }

        for (; i < length; i += 2)
        {
            int low = i + 1 < length ? Code(x[i + 1] * inverse) : Code(0);
            packed[i / 2] = (byte)(Code(x[i] * inverse) << 4 | low);
        }

        return absMax;
    }

    /// <summary>The largest |x|; NaN or infinity if there is one, because their bit patterns order above every finite number's.</summary>
    static float AbsMax(float* x, int length)
    {
        const int withoutSign = 0x7FFFFFFF;
        var lanes = Vector256<int>.Zero;
        int i = 0;
        for (; i + 8 <= length; i += 8)
        {
            lanes = Vector256.Max(lanes, Vector256.Load(x + i).AsInt32() & Vector256.Create(withoutSign));
        }

        int max = 0;
        for (; i < length; i++)
        {
            max = Math.Max(max, BitConverter.SingleToInt32Bits(x[i]) & withoutSign);
        }

        for (int lane = 0; lane < 8; lane++)
        {
            max = Math.Max(max, lanes[lane]);
        }

        return BitConverter.Int32BitsToSingle(max);
    }

    static int Code(float normalised)
    {
        int code = 0;
        foreach (float threshold in ThresholdTable)
        {
            code += normalised > threshold ? 1 : 0;
        }

        return code;
    }

    /// <summary>Sixteen packed bytes from 32 weights: the same comparisons as <see cref="Code"/>, eight lanes at a time.</summary>
    static Vector128<byte> Pack32(float* x, float inverse)
    {
        Vector256<float> x0 = Vector256.Load(x) * inverse, x1 = Vector256.Load(x + 8) * inverse;
        Vector256<float> x2 = Vector256.Load(x + 16) * inverse, x3 = Vector256.Load(x + 24) * inverse;
        Vector256<int> c0 = default, c1 = default, c2 = default, c3 = default;
        foreach (float threshold in ThresholdTable)
        {
            var t = Vector256.Create(threshold);
            c0 -= Vector256.GreaterThan(x0, t).AsInt32(); // a true lane is −1
            c1 -= Vector256.GreaterThan(x1, t).AsInt32();
            c2 -= Vector256.GreaterThan(x2, t).AsInt32();
            c3 -= Vector256.GreaterThan(x3, t).AsInt32();
        }

        var low = Vector256.Narrow(JoinNibbles(c0), JoinNibbles(c1));
        var high = Vector256.Narrow(JoinNibbles(c2), JoinNibbles(c3));
        var words = Vector256.Narrow(low, high);
        return Vector128.Narrow(words.GetLower(), words.GetUpper());
    }

    /// <summary>Each 64-bit lane holds an even code (low half) and the odd one after it (high half); leaves their byte in the low bits.</summary>
    static Vector256<ulong> JoinNibbles(Vector256<int> codes)
    {
        var two = codes.AsUInt64();
        return ((two << 4) | (two >> 32)) & Vector256.Create(0xFFUL);
    }

    static void DequantizeBlock(byte* packed, float absMax, Span<float> weights)
    {
        fixed (float* w = weights)
        {
            int pairs = weights.Length / 2;
            for (int i = 0; i < pairs; i++)
            {
                Unsafe.WriteUnaligned(w + 2 * i, PairTable[packed[i]]);
            }
        }

        if (weights.Length % 2 == 1)
        {
            weights[^1] = Codes[packed[weights.Length / 2] >> 4];
        }

        TensorPrimitives.Multiply(weights, absMax, weights);
    }

    static void ForBlocks(int blocks, int blockSize, Action<int> body)
    {
        int perTask = WeightsPerTask / blockSize;
        Workers.Run(BlockCount(blocks, perTask), task =>
        {
            int end = (int)Math.Min(blocks, ((long)task + 1) * perTask);
            for (int block = task * perTask; block < end; block++)
            {
                body(block);
            }
        });
    }

    /// <summary>The two values of every byte, the high nibble's first, as the 8 bytes they occupy in a float array.</summary>
    static ulong[] Pairs()
    {
        var pairs = new ulong[256];
        for (int i = 0; i < pairs.Length; i++)
        {
            ulong high = BitConverter.SingleToUInt32Bits(Codes[i >> 4]), low = BitConverter.SingleToUInt32Bits(Codes[i & 15]);
            pairs[i] = BitConverter.IsLittleEndian ? low << 32 | high : high << 32 | low;
        }

        return pairs;
    }

    static void CheckLengths(string operation, int count, int packed, int absMax, int blockSize)
    {
        Expect.That(IsBlockSize(blockSize), operation, $"blockSize is {blockSize}, expected a power of two from 32 to 4096.");
        Expect.That(packed == PackedLength(count), operation, $"packed has {packed} bytes, expected {PackedLength(count)} for {count} weights.");
        int blocks = BlockCount(count, blockSize);
        Expect.That(absMax == blocks, operation, $"absMax has {absMax} scales, expected {blocks} for {count} weights in blocks of {blockSize}.");
    }

    static void CheckNested(string operation, int scales, int codes, int nested)
    {
        Expect.That(codes == scales, operation, $"codes has {codes} elements, expected {scales}, one per block scale.");
        int blocks = BlockCount(scales, NestedBlockSize);
        Expect.That(nested == blocks, operation, $"nestedAbsMax has {nested} elements, expected {blocks} for {scales} block scales.");
    }
}
