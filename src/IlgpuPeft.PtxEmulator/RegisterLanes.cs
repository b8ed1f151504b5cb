using System.Runtime.CompilerServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Reads and writes single lanes of registers of any width.</summary>
static unsafe class RegisterLanes
{
    /// <summary>Puts one value into the lanes of a mask.</summary>
    public static void Fill(byte* registers, Register register, ulong bits, uint mask)
    {
        byte* to = registers + register.Slot;
        switch (register.LaneSize)
        {
            case 2:
                Vectors.Fill((ushort*)to, (ushort)bits, mask);
                break;
            case 4:
                Vectors.Fill((uint*)to, (uint)bits, mask);
                break;
            case 8:
                Vectors.Fill((ulong*)to, bits, mask);
                break;
            default:
                *(uint*)to = (*(uint*)to & ~mask) | ((bits & 1) != 0 ? mask : 0);
                break;
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Read(byte* slot, int laneSize, int lane) => laneSize switch
    {
        2 => ((ushort*)slot)[lane],
        4 => ((uint*)slot)[lane],
        8 => ((ulong*)slot)[lane],
        _ => *(uint*)slot >> lane & 1,
    };

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Write(byte* slot, int laneSize, int lane, ulong bits)
    {
        switch (laneSize)
        {
            case 2:
                ((ushort*)slot)[lane] = (ushort)bits;
                break;
            case 4:
                ((uint*)slot)[lane] = (uint)bits;
                break;
            case 8:
                ((ulong*)slot)[lane] = bits;
                break;
            default:
                uint mask = *(uint*)slot & ~(1u << lane);
                *(uint*)slot = mask | ((bits & 1) != 0 ? 1u << lane : 0);
                break;
        }
    }
}
