using IlgpuPeft.Kernels;

namespace IlgpuPeft.BuiltIn;

/// <summary>A stream of random choices that is the same on every platform and version.</summary>
sealed class Draw(RandomKey key)
{
    ulong next;

    /// <summary>A whole number from 0 to <paramref name="limit"/> - 1. For limits far below 2^24, beyond which the choice is no longer even.</summary>
    public int Below(int limit) => (int)(key.Uniform(next++) * limit);

    /// <summary>An element of a list.</summary>
    public T From<T>(IReadOnlyList<T> list) => list[Below(list.Count)];

    /// <summary>One of the words of a text.</summary>
    public string Word(string text) => From(text.Split(' '));
}
