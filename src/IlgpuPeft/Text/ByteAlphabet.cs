namespace IlgpuPeft.Text;

/// <summary>The printable stand-ins that byte-level vocabularies use for the 256 byte values (Radford et al. 2019, GPT-2): a printable Latin-1 character
/// stands for itself, and the other bytes take the code points from U+0100 on, in order.</summary>
static class ByteAlphabet
{
    static readonly char[] Characters = new char[256];
    static readonly short[] Bytes = new short[0x144];

    static ByteAlphabet()
    {
        Array.Fill(Bytes, (short)-1);
        int next = 0x100;
        for (int value = 0; value < 256; value++)
        {
            bool printable = value is (>= '!' and <= '~') or (>= 0xA1 and <= 0xAC) or >= 0xAE;
            Characters[value] = (char)(printable ? value : next++);
            Bytes[Characters[value]] = (short)value;
        }
    }

    /// <summary>The character that stands for a byte.</summary>
    public static char Character(byte value) => Characters[value];

    /// <summary>The byte that a character stands for, or -1.</summary>
    public static int Byte(char character) => character < Bytes.Length ? Bytes[character] : -1;
}
