// NF4 on devices: weights to and from 4-bit NormalFloat. The maths and the format are in Nf4.cs.
//
// Maths      absmax[b] = max |w| over block b;  code[i] = number of thresholds below w[i] · (1 / absmax[b]);  w'[i] = Codes[code[i]] · absmax[b]
// Shapes     w [n] f32 or bf16 ↔ packed [⌈n/2⌉] u8, absmax [⌈n/blockSize⌉] f32, or 8-bit codes of them
// Layout     blocks run over the flattened matrix; the even element sits in the high nibble
// Launch     dequantise: groups of 256 threads for 8192 weights at a time. A thread reads 16 bytes of codes and one scale and leaves them in shared memory, where a warp then finds
//            neighbouring quads for whole 16-byte stores. Quantise: a warp a block
// Floor      bytes n/2 packed, the scales and n elements; bound by memory
// Numerics   bit for bit those of the host, hence of bitsandbytes; restored bf16 weights are those rounded once
//            Models are quantised on the host while they load, so that dense weights never reach the device; quantising here is for weights that are on it already
// Source     Dettmers et al. 2023, arXiv:2305.14314 §3

using ILGPU;
using ILGPU.Runtime;

namespace IlgpuPeft.Kernels;

static class Nf4Kernels
{
    const int Threads = 256, Lanes = 32;
    const int GroupWeights = Threads * Nf4View.Run; // that a group restores at a time
    const int Rounds = 4;                           // times, which share the map of double quantisation in shared memory

    /// <summary>Restores all weights in the type of <paramref name="destination"/>, F32 or BF16.</summary>
    /// <exception cref="ArgumentException">A part of the weight or the destination has the wrong length or type.</exception>
    public static void Dequantize(KernelDevice device, Weight weight, Slice destination)
    {
        const string Operation = "Nf4.Dequantize";
        Expect.Weight(Operation, nameof(weight), weight);
        Expect.That(weight.Scales is not null, Operation, "weight is dense, expected NF4.");
        Expect.That(destination.Type is DType.F32 or DType.BF16, Operation, $"destination is {destination.Type}, expected F32 or BF16.");
        Expect.Length(Operation, nameof(destination), destination, (long)weight.Rows * weight.Columns);
        if (destination.Type == DType.F32)
        {
            Dequantize<F32>(device, weight, destination);
        }
        else
        {
            Dequantize<BF16>(device, weight, destination);
        }
    }

    /// <summary>Quantises <paramref name="weights"/>, F32 or BF16, into <paramref name="packed"/> [⌈n/2⌉] and <paramref name="absMax"/> [⌈n/blockSize⌉]. Waits, to look at the scales.</summary>
    /// <exception cref="ArgumentException">A length, a type or the block size is wrong, or a weight is not finite.</exception>
    public static void Quantize(KernelDevice device, Slice weights, Slice packed, Slice absMax, int blockSize)
    {
        const string Operation = "Nf4.Quantize";
        Expect.That(Nf4.IsBlockSize(blockSize), Operation, $"blockSize is {blockSize}, expected a power of two from 32 to 4096.");
        Expect.That(weights.Type is DType.F32 or DType.BF16, Operation, $"weights is {weights.Type}, expected F32 or BF16.");
        long blocks = (weights.Length + blockSize - 1) / blockSize;
        Expect.Elements(Operation, DType.U8, (weights.Length + 1) / 2, (nameof(packed), packed));
        Expect.Elements(Operation, DType.F32, blocks, (nameof(absMax), absMax));
        var buffers = device.Buffers;
        var shape = LaunchShape.Groups((blocks + Threads / Lanes - 1) / (Threads / Lanes), Threads);
        if (weights.Type == DType.F32)
        {
            device.Launch(QuantizeKernel<F32>, shape, buffers.View<F32>(weights), buffers.View<byte>(packed), buffers.View<float>(absMax), blockSize);
        }
        else
        {
            device.Launch(QuantizeKernel<BF16>, shape, buffers.View<BF16>(weights), buffers.View<byte>(packed), buffers.View<float>(absMax), blockSize);
        }

        var scales = new float[blocks];
        buffers.View<float>(absMax).CopyToCPU(device.Stream, scales);
        int wrong = Array.FindIndex(scales, scale => !float.IsFinite(scale));
        Expect.That(wrong < 0, Operation, $"a weight from {(long)wrong * blockSize} on, in block {wrong}, is not a finite number. Check the checkpoint.");
    }

    /// <summary>
    /// Quantises block scales <paramref name="absMax"/> [m] to <paramref name="codes"/> [m] and <paramref name="nestedAbsMax"/> [⌈m/256⌉], and returns their mean, which is
    /// subtracted first. Waits for the mean, a sum in PyTorch's order that no kernel repeats.
    /// </summary>
    /// <exception cref="ArgumentException">A length or type is wrong, or there is no scale.</exception>
    public static float DoubleQuantize(KernelDevice device, ScratchBuffers scratch, Slice absMax, Slice codes, Slice nestedAbsMax)
    {
        const string Operation = "Nf4.DoubleQuantize";
        Expect.That(absMax.Length > 0, Operation, "absMax is empty, expected at least one block scale.");
        Expect.Elements(Operation, DType.F32, absMax.Length, (nameof(absMax), absMax));
        Expect.Elements(Operation, DType.U8, absMax.Length, (nameof(codes), codes));
        long blocks = (absMax.Length + Nf4.NestedBlockSize - 1) / Nf4.NestedBlockSize;
        Expect.Elements(Operation, DType.F32, blocks, (nameof(nestedAbsMax), nestedAbsMax));
        var buffers = device.Buffers;
        var scales = new float[absMax.Length];
        buffers.View<float>(absMax).CopyToCPU(device.Stream, scales);
        float offset = CascadeSum.Sum(scales) / scales.Length;
        var map = scratch.Get("8-bit map", DType.F32, Nf4.NestedMap.Length);
        buffers.View<float>(map).CopyFromCPU(device.Stream, Nf4.NestedMap);
        device.Launch(DoubleQuantizeKernel, LaunchShape.Groups(blocks, Nf4.NestedBlockSize), buffers.View<float>(absMax), buffers.View<float>(map), offset, buffers.View<byte>(codes),
            buffers.View<float>(nestedAbsMax));
        return offset;
    }

    static void Dequantize<T>(KernelDevice device, Weight weight, Slice destination) where T : unmanaged, IElement<T>
    {
        var view = Nf4View.Of(device, weight);
        var values = device.Buffers.View<T>(destination);
        long whole = Quads.Fit(destination, 4) && Nf4View.HasRuns(weight, Nf4View.Run) ? destination.Length / Nf4View.Run * Nf4View.Run : 0;
        device.Launch(DequantizeKernel, LaunchShape.Groups((whole + Rounds * GroupWeights - 1) / (Rounds * GroupWeights), Threads), view, values, whole);
        device.Launch(DequantizeRestKernel, LaunchShape.Over(destination.Length - whole), view, values, whole);
    }

    static void DequantizeKernel<T>(Nf4View weight, ArrayView<T> values, long whole) where T : unmanaged, IElement<T>
    {
        var codes = SharedMemory.Allocate<float>(16);
        var map = SharedMemory.Allocate<float>(256);
        var packed = SharedMemory.Allocate<Word4>(Threads);
        var scales = SharedMemory.Allocate<float>(Threads);
        Nf4View.Prepare(codes);
        weight.PrepareMap(map);
        var words = packed.Cast<uint>();
        long first = (long)Grid.IdxX * Rounds * GroupWeights;
        for (int round = 0; round < Rounds && first < whole; round++, first += GroupWeights)
        {
            Group.Barrier(); // the tables are complete, the codes before were read
            long start = first + Group.IdxX * Nf4View.Run;
            if (start < whole)
            {
                packed[Group.IdxX] = weight.Packed(start / Nf4View.Run);
                scales[Group.IdxX] = weight.Scale(start, map);
            }

            Group.Barrier(); // the codes are complete
            int quads = (int)(IntrinsicMath.Min(whole - first, GroupWeights) / 4);
            for (int quad = Group.IdxX; quad < quads; quad += Threads)
            {
                float scale = scales[quad / (Nf4View.Run / 4)];
                Quads.Store(values, first / 4 + quad, scale * Nf4View.Decode(codes, words[quad / 2] >> (quad % 2 * 16)));
            }
        }
    }

    static void DequantizeRestKernel<T>(Nf4View weight, ArrayView<T> values, long first) where T : unmanaged, IElement<T>
    {
        var codes = SharedMemory.Allocate<float>(16);
        Nf4View.Prepare(codes);
        Group.Barrier(); // the table is complete
        long i = first + Grid.LongGlobalIndex.X;
        if (i < values.Length)
        {
            values[i] = T.Narrow(weight.At(codes, i));
        }
    }

    static void QuantizeKernel<T>(ArrayView<T> weights, ArrayView<byte> packed, ArrayView<float> absMax, int blockSize) where T : unmanaged, IElement<T>
    {
        var thresholds = SharedMemory.Allocate<float>(16);
        Nf4View.PrepareThresholds(thresholds);
        Group.Barrier(); // the table is complete
        int lane = Group.IdxX % Lanes;
        long block = (long)Grid.IdxX * (Threads / Lanes) + Group.IdxX / Lanes, start = block * blockSize;
        if (block >= absMax.Length)
        {
            return;
        }

        int length = (int)IntrinsicMath.Min(blockSize, weights.Length - start);
        int largest = 0; // bit patterns: those of NaN and infinity order above every finite number's
        for (int i = lane; i < length; i += Lanes)
        {
            largest = IntrinsicMath.Max(largest, (int)Interop.FloatAsInt(T.Widen(weights[start + i])) & 0x7FFF_FFFF);
        }

        for (int other = Lanes / 2; other > 0; other /= 2)
        {
            largest = IntrinsicMath.Max(largest, Warp.ShuffleXor(largest, other));
        }

        float scale = Interop.IntAsFloat((uint)largest), inverse = 1 / IntrinsicMath.Max(scale, 1e-38f);
        if (lane == 0)
        {
            absMax[block] = scale;
        }

        for (int i = 2 * lane; i < length; i += 2 * Lanes)
        {
            int high = Code(thresholds, T.Widen(weights[start + i]) * inverse);
            int low = Code(thresholds, i + 1 < length ? T.Widen(weights[start + i + 1]) * inverse : 0);
            packed[(start + i) / 2] = (byte)((high << 4) | low);
        }
    }

    /// <summary>How many of 15 ascending thresholds lie below, by halving.</summary>
    static int Code(ArrayView<float> thresholds, float normalised)
    {
        int code = normalised > thresholds[7] ? 8 : 0;
        code += normalised > thresholds[code + 3] ? 4 : 0;
        code += normalised > thresholds[code + 1] ? 2 : 0;
        return code + (normalised > thresholds[code] ? 1 : 0);
    }

    static void DoubleQuantizeKernel(ArrayView<float> absMax, ArrayView<float> map, float offset, ArrayView<byte> codes, ArrayView<float> nestedAbsMax)
    {
        var largest = SharedMemory.Allocate<float>(Nf4.NestedBlockSize);
        var thresholds = SharedMemory.Allocate<float>(Nf4.NestedBlockSize);
        int t = Group.IdxX;
        long i = (long)Grid.IdxX * Nf4.NestedBlockSize + t;
        float centred = i < absMax.Length ? absMax[i] - offset : 0;
        largest[t] = IntrinsicMath.Abs(centred);
        thresholds[t] = t < 255 ? (map[t] + map[t + 1]) / 2 : 0;
        for (int half = Nf4.NestedBlockSize / 2; half > 0; half /= 2)
        {
            Group.Barrier(); // the step before is complete
            if (t < half)
            {
                largest[t] = IntrinsicMath.Max(largest[t], largest[t + half]);
            }
        }

        Group.Barrier(); // the largest is there
        float scale = largest[0], normalised = centred * (1 / IntrinsicMath.Max(scale, 1e-38f));
        int code = 0;
        for (int step = 128; step > 0; step /= 2)
        {
            code += normalised > thresholds[code + step - 1] ? step : 0;
        }

        if (i < absMax.Length)
        {
            codes[i] = (byte)code;
        }

        if (t == 0)
        {
            nestedAbsMax[Grid.IdxX] = scale;
        }
    }
}
