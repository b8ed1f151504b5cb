using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tests;

enum WeightFormat
{
    F32,
    F64,
    BF16,
    F16,
    Nf4,
    Nf4Double,
    Nf4Block128,
}

/// <summary>A random weight in one storage format, and the exact values that it stands for.</summary>
sealed unsafe class StoredWeight : IDisposable
{
    // The code table as f32 bits, from the format's definition.
    static readonly uint[] CodeBits =
    [
        0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f, 0xbdba7871, 0,
        0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a, 0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000,
    ];

    readonly List<nint> blocks = [];

    public StoredWeight(int rows, int columns, WeightFormat format, int seed)
    {
        Format = format;
        var random = new Random(seed);
        int count = rows * columns;
        Values = new double[count];
        if (format >= WeightFormat.Nf4)
        {
            Weight = Quantised(rows, columns, format, random);
            return;
        }

        var type = Enum.Parse<DType>(format.ToString());
        var memory = Allocate(count, type);
        for (int i = 0; i < count; i++)
        {
            double value = random.NextDouble() * 2 - 1;
            switch (type)
            {
                case DType.F64:
                    // A weight that floats hold exactly, so that one expectation serves both computing types.
                    ((double*)memory.Address)[i] = Values[i] = (float)value;
                    break;
                case DType.F32:
                    Values[i] = ((float*)memory.Address)[i] = (float)value;
                    break;
                case DType.F16:
                    ((Half*)memory.Address)[i] = (Half)value;
                    Values[i] = (double)(Half)value;
                    break;
                default:
                    uint bits = BitConverter.SingleToUInt32Bits((float)value) & 0xffff0000;
                    ((ushort*)memory.Address)[i] = (ushort)(bits >> 16);
                    Values[i] = BitConverter.UInt32BitsToSingle(bits);
                    break;
            }
        }

        Weight = new Weight(rows, columns, memory);
    }

    public WeightFormat Format { get; }

    public Weight Weight { get; }

    /// <summary>Row-major.</summary>
    public double[] Values { get; }

    /// <summary>The weight in the memory of a backend.</summary>
    public Weight On(Backend backend)
    {
        return Weight with
        {
            Values = Copied(Weight.Values),
            Scales = Weight.Scales is { } scales
                ? scales with { AbsMax = Copied(scales.AbsMax), NestedAbsMax = Copied(scales.NestedAbsMax), NestedMap = Copied(scales.NestedMap) }
                : null,
        };

        Slice Copied(Slice host)
        {
            if (host.IsEmpty)
            {
                return default;
            }

            Slice slice = backend.Allocate(host.Type, host.Length, "test");
            backend.Upload(new ReadOnlySpan<byte>((void*)host.Address, (int)host.Bytes), slice);
            return slice;
        }
    }

    public void Dispose()
    {
        foreach (nint block in blocks)
        {
            NativeMemory.Free((void*)block);
        }
    }

    Weight Quantised(int rows, int columns, WeightFormat format, Random random)
    {
        int count = rows * columns, blockSize = format == WeightFormat.Nf4Block128 ? 128 : 64, scaleCount = (count + blockSize - 1) / blockSize;
        var codes = Allocate((count + 1) / 2, DType.U8);
        random.NextBytes(new Span<byte>((void*)codes.Address, (int)codes.Length));
        var absMax = new float[scaleCount];
        Nf4Scales scales;
        if (format == WeightFormat.Nf4Double)
        {
            const float offset = 0.375f;
            var quantised = Allocate(scaleCount, DType.U8);
            var nested = Allocate((scaleCount + 255) / 256, DType.F32);
            var map = Allocate(256, DType.F32);
            random.NextBytes(new Span<byte>((void*)quantised.Address, scaleCount));
            Randomise(nested, random);
            Randomise(map, random);
            for (int i = 0; i < scaleCount; i++)
            {
                float product = ((float*)map.Address)[((byte*)quantised.Address)[i]] * ((float*)nested.Address)[i / 256];
                absMax[i] = product + offset;
            }

            scales = new Nf4Scales(quantised, nested, map, offset, blockSize);
        }
        else
        {
            var plain = Allocate(scaleCount, DType.F32);
            Randomise(plain, random);
            new Span<float>((void*)plain.Address, scaleCount).CopyTo(absMax);
            scales = new Nf4Scales(plain, BlockSize: blockSize);
        }

        for (int i = 0; i < count; i++)
        {
            int two = ((byte*)codes.Address)[i / 2];
            float code = BitConverter.UInt32BitsToSingle(CodeBits[i % 2 == 0 ? two >> 4 : two & 15]);
            Values[i] = code * absMax[i / blockSize];
        }

        return new Weight(rows, columns, codes, scales);
    }

    static void Randomise(Slice slice, Random random)
    {
        for (int i = 0; i < slice.Length; i++)
        {
            ((float*)slice.Address)[i] = (float)(random.NextDouble() + 0.1);
        }
    }

    Slice Allocate(int count, DType type)
    {
        nint address = (nint)NativeMemory.Alloc((nuint)count, (nuint)type.Size());
        blocks.Add(address);
        return new Slice(address, count, type);
    }
}
