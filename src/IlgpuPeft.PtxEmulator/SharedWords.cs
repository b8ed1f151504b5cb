using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// The 4-byte words that a warp's request touches in shared memory, in ascending order without gaps as runs, and who touches each:
/// laid out so that a block's memory can check and note eight at a time.
/// </summary>
sealed class SharedWords
{
    readonly record struct Touch(int Word, int Lane);

    /// <summary>
    /// Consecutive words: the first is <paramref name="Offset"/> words behind that of the first lane, and has entry <paramref name="Start"/>
    /// of <see cref="Touching"/>.
    /// </summary>
    public readonly record struct Run(int Offset, int Start, int Count);

    public SharedWords(ulong[] offsets, uint lanes, int size)
    {
        var touches = new List<Touch>();
        for (uint rest = lanes; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            for (int i = 0; i < size / 4; i++)
                touches.Add(new Touch((int)((long)offsets[lane] >> 2) + i, lane));
        }
        var words = touches.GroupBy(touch => touch.Word).OrderBy(word => word.Key).ToArray();
        IsExclusive = words.Length == touches.Count;
        // The padding lets vectors reach beyond the end.
        Touching = new int[words.Length + 8];
        var runs = new List<Run>();
        for (int i = 0; i < words.Length; i++)
        {
            int lane = words[i].Count() == 1 ? words[i].First().Lane : BlockMemory.SeveralLanes;
            Touching[i] = BlockMemory.Record(warp: 0, lane);
            if (i > 0 && words[i].Key == words[i - 1].Key + 1)
                runs[^1] = runs[^1] with { Count = runs[^1].Count + 1 };
            else
                runs.Add(new Run(words[i].Key, i, 1));
        }
        Runs = [.. runs];
    }

    /// <summary>Whether no word is touched by two lanes.</summary>
    public bool IsExclusive { get; }

    public Run[] Runs { get; }

    /// <summary>For each word the record of its lane, or of <see cref="BlockMemory.SeveralLanes"/>, in warp 0.</summary>
    public int[] Touching { get; }
}
