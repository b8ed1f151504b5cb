using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Global memory moves in 32-byte sectors: what a warp's request costs is the number of different sectors it touches.</summary>
static class Sectors
{
    const int Shift = 5;

    public static int Count(ReadOnlySpan<ulong> addresses, uint mask, int size)
    {
        Span<ulong> sectors = stackalloc ulong[EmulatedWarp.Size];
        int lanes = 0, count = 0;
        bool ascending = true;
        ulong last = ulong.MaxValue;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            // Accesses are aligned and at most 16 bytes, so none spans two sectors.
            ulong sector = addresses[BitOperations.TrailingZeroCount(rest)] >> Shift;
            sectors[lanes++] = sector;
            if (lanes > 1 && sector < last)
                ascending = false;
            if (sector != last)
                count++;
            last = sector;
        }
        if (ascending)
            return count;
        sectors[..lanes].Sort();
        count = 1;
        for (int i = 1; i < lanes; i++)
            count += sectors[i] != sectors[i - 1] ? 1 : 0;
        return count;
    }
}

/// <summary>
/// Shared memory is 32 banks of 4-byte words. In one wavefront each bank serves one word (to any number of lanes); 8-byte accesses
/// go half a warp at a time, 16-byte accesses a quarter.
/// </summary>
static class Banks
{
    public static int Wavefronts(ReadOnlySpan<ulong> addresses, uint mask, int size)
    {
        int words = Math.Max(1, size / 4), lanesAtOnce = EmulatedWarp.Size / words, total = 0;
        for (int first = 0; first < EmulatedWarp.Size; first += lanesAtOnce)
        {
            uint part = lanesAtOnce == EmulatedWarp.Size ? mask : mask & (((1u << lanesAtOnce) - 1) << first);
            if (part != 0)
                total += Part(addresses, part, words);
        }
        return total;
    }

    static int Part(ReadOnlySpan<ulong> addresses, uint mask, int words)
    {
        Span<ulong> seen = stackalloc ulong[EmulatedWarp.Size];
        Span<byte> perBank = stackalloc byte[EmulatedWarp.Size];
        perBank.Clear();
        int count = 0, worst = 0;
        ulong last = ulong.MaxValue;
        uint usedBanks = 0;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            ulong word = addresses[BitOperations.TrailingZeroCount(rest)] >> 2;
            if (word == last)
                continue;
            last = word;
            for (int i = 0; i < words; i++, word++)
            {
                int bank = (int)(word & 31);
                // Two lanes that read the same word share it; only a bank in use can hold it already.
                if ((usedBanks >> bank & 1) != 0 && seen[..count].Contains(word))
                    continue;
                usedBanks |= 1u << bank;
                seen[count++] = word;
                worst = Math.Max(worst, ++perBank[bank]);
            }
        }
        return worst;
    }
}
