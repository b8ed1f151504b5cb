using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

public class TransfersTests
{
    static readonly float[] Values = [.. Enumerable.Range(0, 29).Select(i => (i - 11) / 8f)]; // exact in every floating type

    /// <summary>A piece that divides the length, pieces that do not, one element, more than all, and exactly all.</summary>
    public static TheoryData<int> Pieces => [1, 4, 7, 28, 29, 30];

    [Theory, MemberData(nameof(Pieces))]
    public void WriteThenRead_inPieces_keepsEveryElement(int piece)
    {
        using var oracle = new Oracle("cpu", 1);
        foreach (var type in (DType[])[DType.F32, DType.F64, DType.BF16, DType.F16])
        {
            var slice = oracle.Fenced(new double[Values.Length], type);
            Transfers.Write(oracle.Backend, Values, slice, piece);

            Assert.Equal(Values.Select(x => (double)x), oracle.Get(slice));
            Assert.Equal(Values, Transfers.Read<float>(oracle.Backend, slice, piece));
            Assert.Equal(Values.Select(x => (double)x), Transfers.Read<double>(oracle.Backend, slice, piece));
        }
    }

    [Fact]
    public void WriteAndRead_otherTypeOrLength_isRefused()
    {
        using var backend = new HostBackend<float>();
        var (integers, shorter) = (backend.Allocate(DType.I32, Values.Length, "test"), backend.Allocate(DType.F32, Values.Length - 1, "test"));

        Assert.Contains("is I32 [29], expected a floating type and [29]", Assert.Throws<ArgumentException>(() => backend.Write(Values, integers)).Message, StringComparison.Ordinal);
        Assert.Contains("is F32 [28], expected a floating type and [29]", Assert.Throws<ArgumentException>(() => backend.Write(Values, shorter)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => backend.ReadFloats(integers));
        Assert.Throws<ArgumentException>(() => backend.ReadDoubles(integers));
    }

    [Theory, MemberData(nameof(Pieces))]
    public void DownloadThenUpload_inPieces_keepsEveryElementOfEveryType(int piece)
    {
        using var oracle = new Oracle("cpu", 1);
        using var folder = new TempFolder();
        DType[] types = [DType.F32, DType.F64, DType.BF16, DType.F16];
        foreach (var (from, stored) in types.SelectMany(from => types.Select(stored => (from, stored))))
        {
            var slice = oracle.Put([.. Values.Select(x => (double)x)], from);
            var info = new TensorInfo("x", stored, Values.Length);
            SafetensorsWriter.Write(folder.File("model.safetensors"), [new TensorSource(info, stream => DeviceTransfer.Download(oracle.Backend, slice, stored, stream, piece))]);
            using var files = WeightFiles.Open(folder.Path);
            foreach (var to in types.Where(to => to == stored || to is DType.F32 or DType.F64))
            {
                var back = oracle.Fenced(new double[Values.Length], to);
                files.Upload("x", oracle.Backend, back, piece);
                Assert.Equal(Values.Select(x => (double)x), oracle.Get(back));
            }
        }
    }

    [Fact]
    public void Download_intoAStreamThatFails_givesItsBufferBack()
    {
        using var backend = new HostBackend<float>();
        var slice = backend.Place<float>(Values, "test");
        var source = TensorSource.OfDevice(backend, new TensorInfo("x", DType.BF16, Values.Length), slice);
        long before = backend.Memory.Live;

        Assert.Throws<NotSupportedException>(() => source.Write(new MemoryStream([], writable: false)));

        Assert.Equal(before, backend.Memory.Live);
    }

    [Fact]
    public void Upload_ofATensorOfAnotherLength_namesFileAndTensor()
    {
        using var backend = new HostBackend<float>();
        using var folder = new TempFolder();
        SafetensorsWriter.Write(folder.File("model.safetensors"), [TensorSource.OfFloats(new TensorInfo("x", DType.F32, Values.Length), () => Values)]);
        using var files = WeightFiles.Open(folder.Path);

        var error = Assert.Throws<CheckpointException>(() => files.Upload("x", backend, backend.Allocate(DType.F32, 28, "test")));

        Assert.Contains("model.safetensors: x: has shape [29], expected 28 elements", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void OfDevice_infoThatTheSliceDoesNotFill_isRefused()
    {
        using var backend = new HostBackend<float>();
        var slice = backend.Place<float>(Values, "test");
        foreach (var info in (TensorInfo[])[new("x", DType.F32, 28), new("x", DType.I32, 29), new("x", "F8_E4M3", [29])])
        {
            Assert.Contains("expected what 29 elements of F32 convert to", Assert.Throws<ArgumentException>(() => TensorSource.OfDevice(backend, info, slice)).Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Convert_ofAStoredTensor_writesWhatItsFloatsRoundTo()
    {
        using var folder = new TempFolder();
        float[] values = [.. Enumerable.Range(0, 70_001).Select(i => (float)Math.Sin(i))]; // two pieces
        SafetensorsWriter.Write(folder.File("model.safetensors"), [TensorSource.OfFloats(new TensorInfo("x", DType.F32, values.Length), () => values)]);
        using var files = WeightFiles.Open(folder.Path);
        SafetensorsWriter.Write(folder.File("expected"), [TensorSource.OfFloats(new TensorInfo("x", DType.BF16, values.Length), () => values)]);

        SafetensorsWriter.Write(folder.File("actual"), [TensorSource.Convert(files, files.Find("x")!, DType.BF16)]);

        Assert.Equal(File.ReadAllBytes(folder.File("expected")), File.ReadAllBytes(folder.File("actual")));
    }
}
