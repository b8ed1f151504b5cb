using ILGPU;
using ILGPU.IR.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Four 32-bit words: what a thread moves with one 128-bit access, and the A fragment of a tensor-core multiply.</summary>
struct Word4
{
    public uint X, Y, Z, W;
}

/// <summary>Two 32-bit words: the B fragment of a tensor-core multiply.</summary>
struct Word2
{
    public uint X, Y;
}

/// <summary>What GPUs before sm_80, and devices without PTX, run in place of instructions that came with it.</summary>
static class PortableIntrinsics
{
    /// <inheritdoc cref="Intrinsics.PackBf16" />
    public static uint PackBf16(float low, float high) => Intrinsics.NarrowToBf16(low) | ((uint)Intrinsics.NarrowToBf16(high) << 16);
}

/// <summary>
/// Instructions that C# has no name for. On CUDA and the emulator each call becomes the PTX that <see cref="PtxIntrinsics"/> writes for it, with operands in registers; elsewhere
/// the body here runs, and before sm_80 those of <see cref="PortableIntrinsics"/>. Those that only tensor-core kernels call have no other form: such kernels are never launched elsewhere.
/// Scalars have 32 bits at least: ILGPU also declares a PTX function for each, and PTX's calling convention knows no narrower results.
/// </summary>
static class Intrinsics
{
    /// <summary>The upper half of <paramref name="value"/>, rounded to nearest even, on the host. Kernels call <see cref="PackBf16"/>.</summary>
    public static ushort NarrowToBf16(float value)
    {
        uint bits = Interop.FloatAsInt(value);
        uint rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
        return (ushort)((bits & 0x7FFF_FFFF) > 0x7F80_0000 ? 0x7FFF : rounded); // NaN stays one: rounding could carry it into infinity
    }

    /// <summary>Two floats as bfloat16, <paramref name="low"/> in the lower half: <c>cvt.rn.bf16x2.f32</c>.</summary>
    [IntrinsicImplementation]
    public static uint PackBf16(float low, float high) => PortableIntrinsics.PackBf16(low, high);

    /// <summary><paramref name="value"/> as a 16-bit IEEE float, rounded to nearest even: <c>cvt.rn.f16.f32</c>.</summary>
    [IntrinsicImplementation]
    public static uint NarrowToF16(float value) => BitConverter.HalfToUInt16Bits((System.Half)value);

    /// <summary>The value of the 16-bit IEEE float in the lower half of <paramref name="bits"/>: <c>cvt.f32.f16</c>.</summary>
    [IntrinsicImplementation]
    public static float WidenF16(uint bits) => (float)BitConverter.UInt16BitsToHalf((ushort)bits);

    /// <summary>a·b + c, rounded once: <c>fma.rn.f32</c>. Elsewhere rounded twice.</summary>
    [IntrinsicImplementation]
    public static float Fma(float a, float b, float c) => a * b + c;

    /// <summary>a·b, rounded before anything is added to it: <c>mul.rn.f32</c>, which no compiler joins with an addition.</summary>
    [IntrinsicImplementation]
    public static float MultiplyRounded(float a, float b) => a * b;

    /// <summary>log₂ e: exponentials on devices are powers of two.</summary>
    public const float Log2E = 1.44269504f;

    /// <summary>2^x to 2 ulp: <c>ex2.approx.ftz.f32</c>.</summary>
    [IntrinsicImplementation]
    public static float Exp2(float x) => ILGPU.Algorithms.XMath.Exp2(x);

    /// <summary>The 64-bit product: <c>mul.wide.u32</c>.</summary>
    [IntrinsicImplementation]
    public static ulong MultiplyWide(uint a, uint b) => (ulong)a * b;

    /// <summary>The address within shared memory that <c>ldmatrix</c> and <c>cp.async</c> take.</summary>
    [IntrinsicImplementation]
    public static uint SharedAddress(ref Word4 place) => throw new NotSupportedException();

    /// <summary>Reads 16 bytes of shared memory: <c>ld.shared.v4.b32</c>.</summary>
    [IntrinsicImplementation]
    public static Word4 LoadShared(uint shared) => throw new NotSupportedException();

    /// <summary>Reads a float of shared memory: <c>ld.shared.f32</c>.</summary>
    [IntrinsicImplementation]
    public static float LoadSharedFloat(uint shared) => throw new NotSupportedException();

    /// <summary>Writes 16 bytes of shared memory: <c>st.shared.v4.b32</c>.</summary>
    [IntrinsicImplementation]
    public static void StoreShared(uint shared, Word4 values) => throw new NotSupportedException();

    /// <summary>Starts copying 16 bytes from global to shared memory past the registers: <c>cp.async.cg.shared.global</c>.</summary>
    /// <param name="shared">From <see cref="SharedAddress"/>; a multiple of 16.</param>
    /// <param name="global">Aligned to 16 bytes; not read where <paramref name="bytes"/> is 0.</param>
    /// <param name="bytes">How many are copied, 0 to 16; the rest of the 16 become zero.</param>
    [IntrinsicImplementation]
    public static void CopyAsync16(uint shared, ref Word4 global, int bytes) => throw new NotSupportedException();

    /// <summary><see cref="CopyAsync16"/> of 4 bytes or none: <c>cp.async.ca.shared.global</c>.</summary>
    [IntrinsicImplementation]
    public static void CopyAsync4(uint shared, ref float global, int bytes) => throw new NotSupportedException();

    /// <summary>Ends a group of copies: <c>cp.async.commit_group</c>.</summary>
    [IntrinsicImplementation]
    public static void CopyAsyncCommit() => throw new NotSupportedException();

    /// <summary>Waits until at most <paramref name="pending"/> of this thread's latest groups are under way: <c>cp.async.wait_group</c>. A constant.</summary>
    [IntrinsicImplementation]
    public static void CopyAsyncWait(int pending) => throw new NotSupportedException();

    /// <summary>
    /// Loads four 8x8 matrices of 16-bit values whose rows are 16 bytes at the addresses that lanes 8m to 8m+7 give for matrix m: <c>ldmatrix.x4</c>. Lane l receives of
    /// each matrix row l/4, columns 2·(l mod 4) and the next.
    /// </summary>
    [IntrinsicImplementation]
    public static Word4 LoadMatrix4(uint shared) => throw new NotSupportedException();

    /// <summary><see cref="LoadMatrix4"/> with each matrix transposed: <c>ldmatrix.x4.trans</c>.</summary>
    [IntrinsicImplementation]
    public static Word4 LoadMatrix4Transposed(uint shared) => throw new NotSupportedException();

    /// <summary>
    /// c + a·b for a warp: a [16, 16], b [16, 8] in bfloat16, c [16, 8] in f32: <c>mma.sync.m16n8k16</c>. With g = lane/4 and t = lane mod 4, words of a hold rows g, g+8, g, g+8 and
    /// columns 2t, 2t, 2t+8, 2t+8 and the next; words of b rows 2t and 2t+8 and the next of column g; floats of c rows g, g, g+8, g+8 and columns 2t, 2t+1, 2t, 2t+1.
    /// </summary>
    [IntrinsicImplementation]
    public static Float4 MultiplyAdd(Float4 c, Word4 a, Word2 b) => throw new NotSupportedException();
}
