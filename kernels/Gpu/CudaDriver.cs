using System.Reflection;
using System.Runtime.InteropServices;
using System.Text;
using ILGPU;
using ILGPU.Runtime.Cuda;

namespace IlgpuPeft.Kernels;

/// <summary>What the NVIDIA driver offers and ILGPU does not: why no device opens, kernels with much shared memory, registers and spills of a kernel, and the whole log of a refused one.</summary>
static unsafe partial class CudaDriver
{
    /// <summary>CUDA 11.0: the first driver that takes PTX for sm_80.</summary>
    const int OldestVersion = 11000;

    const int OldestMajor = 7; // Volta: the first with the warp synchronisation that ILGPU emits

    const int NoDevice = 100;
    const int ErrorLog = 5, ErrorLogBytes = 6; // CU_JIT_ERROR_LOG_BUFFER and its size
    const int SharedSize = 1, LocalSize = 3, Registers = 4, MaxDynamicShared = 8; // CU_FUNC_ATTRIBUTE_...
    const int ComputeMajor = 75, ComputeMinor = 76, MaxSharedPerBlock = 97; // CU_DEVICE_ATTRIBUTE_...

    static CudaDriver()
    {
        Resolve(typeof(CudaDriver).Assembly);
        Resolve(typeof(Context).Assembly); // ILGPU asks for `cuda`, for which machines without a CUDA toolkit have no link

        static void Resolve(Assembly assembly)
        {
            try
            {
                NativeLibrary.SetDllImportResolver(assembly, static (name, _, _) => name == "cuda" && TryLoad(out nint library) ? library : 0);
            }
            catch (InvalidOperationException)
            {
                // The program has a resolver of its own, and will find the driver by it.
            }
        }
    }

    // None while the driver cannot be asked.
    static int Count => DeviceGetCount(out int count) == 0 ? count : 0;

    static string LibraryName => OperatingSystem.IsWindows() ? "nvcuda.dll" : "libcuda.so.1";

    /// <summary>Why no device can be opened, in a sentence, or null if the driver is there and has found some.</summary>
    public static string? WhyNone()
    {
        if (!TryLoad(out _))
        {
            return $"the NVIDIA driver's {LibraryName} was not found. Install the driver (no CUDA toolkit is needed).";
        }

        int error = Init(0);
        if (error is not (0 or NoDevice))
        {
            return $"the NVIDIA driver did not start (cuInit returned {error}). Check that nvidia-smi works for this user.";
        }

        if (DriverGetVersion(out int version) != 0 || version < OldestVersion)
        {
            return $"the NVIDIA driver supports CUDA {version / 1000}.{version % 1000 / 10}, expected 11.0 or newer. Install driver 450 or newer.";
        }

        return error == NoDevice || Count == 0 ? "the NVIDIA driver is there and finds no GPU. Check nvidia-smi, and CUDA_VISIBLE_DEVICES." : null;
    }

    /// <summary>Why device <paramref name="index"/> cannot be opened, in a sentence, or null if it should open.</summary>
    public static string? WhyNot(int index)
    {
        if (WhyNone() is { } reason)
        {
            return reason;
        }

        int count = Count;
        if (index >= count)
        {
            return $"this machine has {count} CUDA device{(count == 1 ? "" : "s")}, counted from 0.";
        }

        DeviceGet(out int device, index);
        DeviceGetAttribute(out int major, ComputeMajor, device);
        DeviceGetAttribute(out int minor, ComputeMinor, device);
        return major < OldestMajor ? $"the GPU has compute capability {major}.{minor}, expected 7.0 or newer." : null;
    }

    /// <summary>Every GPU: its name, compute capability, memory, and the CUDA version of the driver in a line, and why it cannot be opened, or null.</summary>
    public static IReadOnlyList<(string Description, string? WhyNot)> Describe()
    {
        DriverGetVersion(out int version);
        return [.. Enumerable.Range(0, Count).Select(index =>
        {
            DeviceGet(out int device, index);
            byte[] name = new byte[128];
            DeviceGetName(name, name.Length, device);
            DeviceGetAttribute(out int major, ComputeMajor, device);
            DeviceGetAttribute(out int minor, ComputeMinor, device);
            DeviceTotalMemory(out nint bytes, device);
            return ($"{Encoding.ASCII.GetString(name).TrimEnd('\0')}, compute capability {major}.{minor}, {MemoryAccount.Format(bytes)}, driver for CUDA {version / 1000}.{version % 1000 / 10}",
                WhyNot(index));
        })];
    }

    /// <summary>Shared memory that a group of a CUDA accelerator may have, in bytes, when it asks for it.</summary>
    public static int MaxSharedBytes(CudaAccelerator accelerator)
    {
        DeviceGet(out int device, accelerator.DeviceId);
        return DeviceGetAttribute(out int bytes, MaxSharedPerBlock, device) == 0 ? bytes : accelerator.MaxSharedMemoryPerGroup;
    }

    /// <summary>Lets a kernel be launched with all the shared memory that the device has.</summary>
    public static void AllowAllShared(CudaKernel kernel, int bytes)
    {
        kernel.Accelerator.Bind();
        FunctionGetAttribute(out int fixedBytes, SharedSize, kernel.FunctionPtr);
        int error = FunctionSetAttribute(kernel.FunctionPtr, MaxDynamicShared, bytes - fixedBytes);
        if (error != 0)
        {
            throw new InvalidOperationException($"{bytes - fixedBytes} bytes of dynamic shared memory are refused (cuFuncSetAttribute returned {error})");
        }
    }

    /// <summary>What the driver made of a kernel: registers of a thread, and bytes of local memory, which are spills.</summary>
    public static (int Registers, int LocalBytes, int SharedBytes) Attributes(CudaKernel kernel)
    {
        kernel.Accelerator.Bind();
        FunctionGetAttribute(out int registers, Registers, kernel.FunctionPtr);
        FunctionGetAttribute(out int local, LocalSize, kernel.FunctionPtr);
        FunctionGetAttribute(out int shared, SharedSize, kernel.FunctionPtr);
        return (registers, local, shared);
    }

    /// <summary>What the driver says of a module that it refuses; ILGPU keeps 1,024 bytes of it.</summary>
    public static string LoadLog(CudaAccelerator accelerator, string ptx)
    {
        accelerator.Bind();
        byte[] log = new byte[1 << 16];
        fixed (byte* text = log)
        {
            int* options = stackalloc int[] { ErrorLog, ErrorLogBytes };
            nint* values = stackalloc nint[] { (nint)text, log.Length };
            if (ModuleLoadData(out nint module, Encoding.ASCII.GetBytes(ptx + '\0'), 2, options, values) == 0)
            {
                _ = ModuleUnload(module);
            }
        }

        return Encoding.ASCII.GetString(log).TrimEnd('\0', '\n');
    }

    static bool TryLoad(out nint library) => NativeLibrary.TryLoad(LibraryName, out library);

    [LibraryImport("cuda", EntryPoint = "cuInit")]
    private static partial int Init(uint flags);

    [LibraryImport("cuda", EntryPoint = "cuDriverGetVersion")]
    private static partial int DriverGetVersion(out int version);

    [LibraryImport("cuda", EntryPoint = "cuDeviceGetCount")]
    private static partial int DeviceGetCount(out int count);

    [LibraryImport("cuda", EntryPoint = "cuDeviceGet")]
    private static partial int DeviceGet(out int device, int ordinal);

    [LibraryImport("cuda", EntryPoint = "cuDeviceGetName")]
    private static partial int DeviceGetName(byte[] name, int length, int device);

    [LibraryImport("cuda", EntryPoint = "cuDeviceTotalMem_v2")]
    private static partial int DeviceTotalMemory(out nint bytes, int device);

    [LibraryImport("cuda", EntryPoint = "cuDeviceGetAttribute")]
    private static partial int DeviceGetAttribute(out int value, int attribute, int device);

    [LibraryImport("cuda", EntryPoint = "cuFuncGetAttribute")]
    private static partial int FunctionGetAttribute(out int value, int attribute, nint function);

    [LibraryImport("cuda", EntryPoint = "cuFuncSetAttribute")]
    private static partial int FunctionSetAttribute(nint function, int attribute, int value);

    [LibraryImport("cuda", EntryPoint = "cuModuleLoadDataEx")]
    private static partial int ModuleLoadData(out nint module, byte[] image, uint count, int* options, nint* values);

    [LibraryImport("cuda", EntryPoint = "cuModuleUnload")]
    private static partial int ModuleUnload(nint module);
}
