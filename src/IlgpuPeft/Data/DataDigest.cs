namespace IlgpuPeft.Data;

/// <summary>A fingerprint of tokenised data, by which a checkpoint knows the data that it was made with: FNV-1a over token ids and lengths.</summary>
public struct DataDigest
{
    const ulong Start = 14695981039346656037, Prime = 1099511628211;

    ulong hash;

    /// <summary>The digest of nothing.</summary>
    public DataDigest() => hash = Start;

    /// <summary>Adds a list of numbers; where one ends counts.</summary>
    public void Add(ReadOnlySpan<int> numbers)
    {
        hash = (hash ^ (uint)numbers.Length) * Prime;
        foreach (int number in numbers)
        {
            hash = (hash ^ (uint)number) * Prime;
        }
    }

    /// <summary>Adds a text; where it ends counts.</summary>
    public void Add(string text) => Add([.. text.Select(character => (int)character)]);

    /// <summary>The digest so far, in hexadecimal.</summary>
    public override readonly string ToString() => hash.ToString("x16");
}
