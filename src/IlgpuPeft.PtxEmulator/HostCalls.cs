using System.Globalization;
using System.Numerics;
using System.Text;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// The two functions that a CUDA driver adds to every module: `vprintf`, which prints to <see cref="PtxEmulatorOptions.Output"/>, and
/// `__assertfail`, which ends the launch. Parameters lie in lane memory at the given offsets.
/// </summary>
static class HostCalls
{
    /// <summary>The instruction for a call of one of them, or null if the module must define the function itself.</summary>
    public static Instruction? Of(string name, int[] parameters, int result) => (name, parameters.Length) switch
    {
        ("vprintf", 2) => new Print(parameters[0], parameters[1], result),
        ("__assertfail", 5) => new AssertionFailure(parameters[0], parameters[1], parameters[2]),
        _ => null,
    };

    /// <summary>A text in device memory, up to its zero: bytes, or 16-bit characters if the second byte is zero.</summary>
    public static unsafe string Text(EmulatedWarp warp, int lane, ulong address)
    {
        var bytes = new List<byte>();
        bool wide = Byte(0) != 0 && IsReadable(2) && Byte(1) == 0 && Byte(2) != 0;
        for (int i = 0; Byte(i) != 0; i += wide ? 2 : 1)
            bytes.Add(Byte(i));
        return Encoding.Latin1.GetString([.. bytes]);

        bool IsReadable(int i) => warp.Block.Launch.Memory.Problem(address + (ulong)i, 1) == null;

        byte Byte(int i) => warp.Block.Launch.Memory.Problem(address + (ulong)i, 1) is { } problem
            ? throw PtxEmulatorException.At(warp, lane, problem, address)
            : ((byte*)address)[i];
    }

    public static unsafe T Parameter<T>(EmulatedWarp warp, int lane, int offset) where T : unmanaged =>
        *(T*)(warp.LaneMemory + (lane * warp.Block.Launch.Program.LaneBytes) + offset);
}

/// <summary>`vprintf`: lanes print in ascending order, blocks in theirs.</summary>
sealed unsafe class Print(int format, int values, int result) : Instruction
{
    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            string text = HostCalls.Text(warp, lane, HostCalls.Parameter<ulong>(warp, lane, format));
            ulong address = HostCalls.Parameter<ulong>(warp, lane, values);
            warp.Block.Launch.Options.Output.Write(Format(warp, lane, text, address & ~(0xFFUL << 56)));
            *(int*)(warp.LaneMemory + (lane * warp.Block.Launch.Program.LaneBytes) + result) = 0;
        }
    }

    /// <summary>Values lie one after the other in local memory, each aligned to its size: int 4 bytes, `l`, `ll`, `p`, `s` and floats 8.</summary>
    static string Format(EmulatedWarp warp, int lane, string format, ulong address)
    {
        var text = new StringBuilder();
        ulong at = address;
        for (int i = 0; i < format.Length; i++)
        {
            if (format[i] != '%')
            {
                text.Append(format[i]);
                continue;
            }
            int start = ++i;
            while (i < format.Length && (char.IsAsciiDigit(format[i]) || format[i] is 'l' or '-' or '+' or ' ' or '#' or '.' or 'h'))
                i++;
            if (i == format.Length)
                throw warp.Fault($"the format of vprintf ends in the middle of '%{format[start..]}'", 1u << lane);
            string modifiers = format[start..i];
            bool wide = modifiers.Contains('l') || format[i] is 'p' or 's' or 'f' or 'e' or 'g';
            ulong bits = format[i] == '%' ? 0 : Next(wide ? 8 : 4);
            string value = format[i] switch
            {
                '%' => "%",
                'd' or 'i' => (wide ? (long)bits : (int)bits).ToString(CultureInfo.InvariantCulture),
                'u' => bits.ToString(CultureInfo.InvariantCulture),
                'x' => bits.ToString("x", CultureInfo.InvariantCulture),
                'X' => bits.ToString("X", CultureInfo.InvariantCulture),
                'p' => $"0x{bits:x16}",
                'c' => ((char)bits).ToString(),
                'f' => BitConverter.UInt64BitsToDouble(bits).ToString("F" + Digits(modifiers), CultureInfo.InvariantCulture),
                'e' => BitConverter.UInt64BitsToDouble(bits).ToString("e" + Digits(modifiers), CultureInfo.InvariantCulture),
                'g' => BitConverter.UInt64BitsToDouble(bits).ToString("g" + Digits(modifiers), CultureInfo.InvariantCulture),
                's' => HostCalls.Text(warp, lane, bits),
                var other => throw warp.Fault($"'%{modifiers}{other}' in the format of vprintf is not supported", 1u << lane),
            };
            string width = new([.. modifiers.TakeWhile(char.IsAsciiDigit)]);
            text.Append(width.Length > 0 ? value.PadLeft(int.Parse(width, CultureInfo.InvariantCulture), width[0] == '0' ? '0' : ' ') : value);
        }
        return text.ToString();

        static string Digits(string modifiers) => modifiers.Contains('.') ? modifiers[(modifiers.IndexOf('.') + 1)..].TrimEnd('l') : "6";

        ulong Next(int size)
        {
            at = (at + (ulong)size - 1) / (ulong)size * (ulong)size;
            if (at + (ulong)size > (ulong)warp.Block.Launch.Program.LaneBytes)
                throw warp.Fault("vprintf reads beyond the thread's local memory", 1u << lane, at);
            byte* value = MemoryAccess.Pointer(warp, Space.Local, at, lane);
            at += (ulong)size;
            return size == 8 ? *(ulong*)value : *(uint*)value;
        }
    }
}

/// <summary>`__assertfail`: an assertion of the kernel, or of ILGPU about an index, does not hold.</summary>
sealed class AssertionFailure(int message, int file, int line) : Instruction
{
    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        int lane = BitOperations.TrailingZeroCount(mask);
        string text = HostCalls.Text(warp, lane, HostCalls.Parameter<ulong>(warp, lane, message));
        string place = HostCalls.Text(warp, lane, HostCalls.Parameter<ulong>(warp, lane, file));
        throw warp.Fault($"assertion failed: {text} ({place}:{HostCalls.Parameter<uint>(warp, lane, line)})", mask);
    }
}
