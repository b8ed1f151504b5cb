using System.Runtime.CompilerServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Reads and writes single lanes of registers of any width.</summary>
static unsafe class RegisterLanes
{
    public static void Fill(EmulatedWarp warp, Register register, ulong bits)
    {
        if (register.LaneSize == 0)
            *(uint*)(warp.Registers + register.Slot) = bits != 0 ? uint.MaxValue : 0;
        else
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                Write(warp.Registers + register.Slot, register.LaneSize, lane, bits);
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
