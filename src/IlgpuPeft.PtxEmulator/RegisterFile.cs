namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Lays out one warp's registers: each is 32 consecutive lanes of 2, 4 or 8 bytes (a predicate: one 32-bit mask), aligned for
/// vector loads. Literals and special registers have slots too, so every operand of an instruction is simply a slot.
/// </summary>
sealed class RegisterFile
{
    const int Alignment = 32;

    readonly Dictionary<(int LaneSize, ulong Bits), Register> constants = [];

    /// <summary>Bytes laid out so far.</summary>
    public int Size { get; private set; }

    /// <summary>Literals and the slots that hold them.</summary>
    public IEnumerable<(Register Register, ulong Bits)> Constants => constants.Select(pair => (pair.Value, pair.Key.Bits));

    /// <summary>Slots of the special registers that the program reads, by name.</summary>
    public Dictionary<string, Register> Special { get; } = [];

    /// <summary>The hidden predicate that `.cc` writes: made when the first instruction needs it.</summary>
    public Register Carry => field ??= Add(0);

    public Register Add(int laneSize)
    {
        var register = new Register(Size, laneSize);
        Size += Math.Max(Alignment, 32 * laneSize);
        return register;
    }

    public Register Constant(int laneSize, ulong bits)
    {
        ulong kept = laneSize switch { 0 => bits != 0 ? 1u : 0u, 8 => bits, _ => bits & ((1UL << (8 * laneSize)) - 1) };
        if (!constants.TryGetValue((laneSize, kept), out var register))
            constants.Add((laneSize, kept), register = Add(laneSize));
        return register;
    }

    /// <summary>The slot of a special register such as `%tid.x`, or null if there is none of that name.</summary>
    public Register? FindSpecial(string name)
    {
        if (!Special.TryGetValue(name, out var register) && SpecialRegisters.IsKnown(name))
            Special.Add(name, register = Add(4));
        return register;
    }
}
