using CsCheck;
using IlgpuPeft.Data;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class PackerTests
{
    static Example Sequence(params (int Id, bool Trained)[] tokens) =>
        new([.. tokens.Select(token => token.Id)], [.. tokens.Select(token => token.Trained ? token.Id : Example.Untrained)], "data.jsonl", 1);

    [Fact]
    public void Every_sequence_is_in_one_bin_and_no_bin_overflows() =>
        Gen.Int[1, 64].SelectMany(capacity => Gen.Int[1, capacity].List[0, 80].Select(lengths => (capacity, lengths))).Sample((capacity, lengths) =>
        {
            int[][] bins = Packer.Pack(lengths, capacity);
            Assert.Equal(Enumerable.Range(0, lengths.Count), bins.SelectMany(bin => bin).Order());
            Assert.All(bins, bin => Assert.InRange(bin.Sum(i => lengths[i]), 1, capacity));
            Assert.Equal(bins.Select(bin => bin[0]).Order(), bins.Select(bin => bin[0]));

            // First fit leaves at most one bin half empty, so n bins hold more than (n - 1) / 2 · capacity.
            Assert.True(bins.Length <= 1 || 2 * lengths.Sum() > (bins.Length - 1) * capacity);
        }, iter: 1_000, threads: 1);

    [Fact]
    public void Bins_are_those_of_first_fit_decreasing()
    {
        // The slow definition, bin by bin.
        Gen.Int[1, 20].List[0, 40].Sample(lengths =>
        {
            List<List<int>> bins = [];
            foreach (int i in Enumerable.Range(0, lengths.Count).OrderByDescending(i => lengths[i]))
            {
                var bin = bins.FirstOrDefault(bin => bin.Sum(j => lengths[j]) + lengths[i] <= 20);
                if (bin is null)
                {
                    bins.Add(bin = []);
                }

                bin.Add(i);
            }

            Assert.Equal(bins.Select(bin => bin.Order().ToArray()).OrderBy(bin => bin[0]), Packer.Pack(lengths, 20));
        }, iter: 500, threads: 1);
    }

    [Fact]
    public void Many_sequences_fill_bins_almost_whole()
    {
        int[] lengths = [.. Enumerable.Range(0, 20_000).Select(i => 1 + i * 7919 % 500)];
        int bins = Packer.Pack(lengths, 2048).Length;
        Assert.InRange(lengths.Sum() / (2048.0 * bins), 0.99, 1.0);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(9)]
    public void Sequence_that_fits_no_bin_is_refused(int length) =>
        Assert.StartsWith($"Packer: sequence 1 has {length} tokens, expected 1 ... 8", Assert.Throws<ArgumentException>(() => Packer.Pack([3, length], 8)).Message, StringComparison.Ordinal);

    [Fact]
    public void Batch_shifts_labels_within_each_sequence()
    {
        var batch = PackedBatch.From([Sequence((1, false), (2, false), (3, true)), Sequence((4, true)), Sequence((5, true), (6, true))]);
        Assert.Equal([1, 2, 3, 4, 5, 6], batch.InputIds);
        Assert.Equal([3, 1, 2], batch.Lengths);
        Assert.Equal([0, 3, 4, 6], batch.Offsets);
        Assert.Equal([-100, 3, -100, -100, 6, -100], batch.Targets);
        Assert.Equal((6, 3, 2), (batch.Length, batch.Sequences, batch.TrainedTokens));
    }

    [Fact]
    public void Batch_takes_numbers_of_rows_apart_by_target_and_puts_them_together()
    {
        var batch = PackedBatch.From([Example.Of([7, 8], [9, 2], "", 1), Sequence((4, true)), Example.Of([], [5, 6, 2], "", 2)]);
        double[] rows = [0.5, 1, 2, 3, 4, 5, 6, 7];
        Assert.Equal([[1.0, 2], [], [5.0, 6]], batch.OfTargets(rows));
        Assert.Equal([0, 1, 2, 0, 0, 5, 6, 0], batch.ToRows([[1, 2], [], [5, 6]]));
        Assert.Equal([3, 4, 7], batch.OfLast(rows));
        Assert.Contains("sequence 0 has 1 numbers, expected 2", Assert.Throws<ArgumentException>(() => batch.ToRows([[1], [], [5, 6]])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Batch_holds_what_its_sequences_hold_alone() =>
        Gen.Select(Gen.Int[0, 99], Gen.Bool).Array[1, 9].List[1, 6].Sample(sequences =>
        {
            var examples = sequences.Select(tokens => Sequence(tokens)).ToList();
            var batch = PackedBatch.From(examples);
            Assert.Equal(examples.Sum(example => example.TrainedTokens), batch.TrainedTokens);
            for (int s = 0; s < examples.Count; s++)
            {
                var alone = PackedBatch.From([examples[s]]);
                var rows = batch.Offsets[s]..batch.Offsets[s + 1];
                Assert.Equal(alone.InputIds, batch.InputIds[rows]);
                Assert.Equal(alone.Targets, batch.Targets[rows]);
                Assert.Equal(Example.Untrained, alone.Targets[^1]);
            }
        }, iter: 300, threads: 1);
}
