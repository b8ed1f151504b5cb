using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What device memory a run takes, and that it gives all of it back.</summary>
public class ActivationMemoryTests
{
    [Fact]
    public void Arena_releasedRange_servesTheNextRequestOfItsSize()
    {
        using var backend = new HostBackend<float>();
        using var arena = new Arena(backend);
        var first = arena.Allocate(DType.F32, 1000);
        var second = arena.Allocate(DType.F32, 1000);
        Assert.NotEqual(first.Address, second.Address);

        arena.Release(first);

        Assert.NotEqual(first.Address, arena.Allocate(DType.F32, 5000).Address);
        var again = arena.Allocate(DType.F64, 499); // the same size after rounding up to 256 bytes
        Assert.Equal((first.Address, 499L, DType.F64), (again.Address, again.Length, again.Type));
        Assert.NotEqual(first.Address, arena.Allocate(DType.F32, 1000).Address);
    }

    [Fact]
    public void Arena_ranges_areAlignedAndDoNotOverlap()
    {
        using var backend = new HostBackend<float>();
        using var arena = new Arena(backend);
        List<Slice> ranges = [.. new[] { 1, 0, 63, 64, 65, 5_000_000, 3, 4_194_304, 9_000_000 }.Select(length => arena.Allocate(DType.F32, length))];
        ranges = [.. ranges.OrderBy(range => range.Address)];

        Assert.All(ranges, range => Assert.Equal(0, range.Address % 256));
        Assert.All(ranges.Zip(ranges.Skip(1)), pair => Assert.True(pair.First.Address + pair.First.Bytes <= pair.Second.Address && pair.First.Address < pair.Second.Address));
    }

    [Fact]
    public void Arena_reset_givesTheSameRangesAgainWithoutTheDevice()
    {
        using var backend = new HostBackend<float>();
        using var arena = new Arena(backend);
        Step();
        arena.Reset(); // from here on one slab holds a whole step
        var first = Step();
        long allocations = backend.Memory.Allocations, bytes = arena.Bytes;
        Assert.Equal(bytes, backend.Memory.ByOwner["activations"]);

        arena.Reset();

        Assert.Equal(first, Step());
        Assert.Equal((allocations, bytes), (backend.Memory.Allocations, arena.Bytes));

        List<nint> Step() => [.. new[] { 10, 5_000_000, 20, 6_000_000, 30 }.Select(length => arena.Allocate(DType.F32, length).Address)];
    }

    [Fact]
    public void Arena_ofStepsThatGrow_staysAsLargeAsOneStep()
    {
        using var backend = new HostBackend<float>();
        using var arena = new Arena(backend);
        long step = 0;
        for (int rows = 2000; rows <= 2200; rows += 20)
        {
            arena.Reset();
            step = 4L * rows * 5632 * 12;
            for (int i = 0; i < 12; i++)
            {
                arena.Allocate(DType.F32, (long)rows * 5632);
            }
        }

        arena.Reset();
        Assert.InRange(arena.Bytes, step, step + (32 << 20));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Train_afterWarmUp_makesNoDeviceAllocation(bool checkpointing)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "qwen3, biases", backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 4, Dropout = 0.1 });
        using var pass = new LanguageModelPass(model);
        model.GradientCheckpointing = checkpointing;
        PackedBatch[] batches = [Batch(300), Batch(7), Batch(1500), Batch(64)]; // one after the other: shapes alternate as in training
        Steps(batches);
        long allocations = backend.Memory.Allocations, bytes = pass.ArenaBytes;

        Steps(batches);
        Steps([.. batches.Reverse()]);

        Assert.Equal((allocations, bytes), (backend.Memory.Allocations, pass.ArenaBytes));

        void Steps(IEnumerable<PackedBatch> steps)
        {
            foreach (var batch in steps)
            {
                pass.Train(batch, batch.TrainedTokens, (1, 1));
                pass.LogProbs(batch);
            }
        }
    }

    [Fact]
    public void Train_withCheckpointing_needsLessMemory()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Deep(folder, backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 4 });
        var batch = Batch(4000);

        long plain = Bytes();
        model.GradientCheckpointing = true;
        long less = Bytes();

        Assert.True(less < plain / 2, $"{less:n0} bytes with checkpointing, {plain:n0} without");

        long Bytes()
        {
            using var pass = new LanguageModelPass(model);
            pass.Train(batch, batch.TrainedTokens, (1, 1));
            return pass.ArenaBytes;
        }
    }

    [Fact]
    public void LogProbs_withCheckpointing_needsNoMoreMemoryThanWithout()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Deep(folder, backend);
        var batch = Batch(4000);

        long plain = Bytes();
        model.GradientCheckpointing = true;

        Assert.Equal(plain, Bytes());

        long Bytes()
        {
            using var pass = new LanguageModelPass(model);
            pass.LogProbs(batch);
            return pass.ArenaBytes;
        }
    }

    [Fact]
    public void Dispose_ofEverything_leavesNothingOnTheDevice()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        foreach (var storage in (WeightStorage[])[WeightStorage.AsStored, WeightStorage.Nf4Double])
        {
            Architectures.Write(folder.Path, "qwen3, biases");
            using var model = PretrainedModel.Load(folder.Path, backend, storage);
            using var adapter = new AdapterSet(model, new LoraConfig { Rank = 4 });
            Use(model, adapter.Parameters);
            PretrainedAdapter.Save(adapter, folder.File("adapter"), "base");
            using var second = PretrainedAdapter.Load(model, folder.File("adapter"));
            Assert.NotEqual(0, backend.Memory.Live);
        }

        Assert.Equal(0, backend.Memory.Live);
        using (var model = PretrainedModel.Load(folder.Path, backend))
        {
            Use(model, model.MakeTrainable());
            SavedModel.Write(model, folder.File("saved"), DType.BF16, null);
        }

        Assert.Equal(0, backend.Memory.Live);

        static void Use(CausalLm model, ParameterStore store)
        {
            using var optimizer = new AdamWOptimizer(model.Backend, store, new AdamWOptions());
            using var pass = new LanguageModelPass(model);
            using var generator = new Generator(model);
            pass.Train(Batch(30), 29, (1, 1));
            optimizer.Step(1e-3);
            Assert.Equal(3, generator.Complete([1, 2], new GenerationOptions { MaxTokens = 3, StopIds = [] }).Tokens.Count);
        }
    }

    [Fact]
    public void Load_thatFails_leavesNothingOnTheDevice()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        Architectures.Write(folder.Path, "llama");
        string config = folder.File("config.json");
        File.WriteAllText(config, File.ReadAllText(config).Replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", StringComparison.Ordinal));

        Assert.Throws<CheckpointException>(() => PretrainedModel.Load(folder.Path, backend));

        Assert.True(backend.Memory.Allocations > 0);
        Assert.Equal(0, backend.Memory.Live);
    }

    static CausalLm Deep(TempFolder folder, Backend backend)
    {
        RandomModel.Write(Architectures.Configs["llama"].Replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 12", StringComparison.Ordinal), folder.Path);
        return PretrainedModel.Load(folder.Path, backend);
    }

    static PackedBatch Batch(int tokens)
    {
        // Short sequences, so that attention is cheap.
        return PackedBatch.From([.. Architectures.Ids(tokens).Chunk(40).Select(ids => new Example(ids, ids, "", 1))]);
    }
}
