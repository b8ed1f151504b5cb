using System.Runtime.InteropServices;

namespace IlgpuPeft.Perf;

/// <summary>OpenBLAS' sgemm, if the system has the library: the yardstick of the host products.</summary>
static unsafe class OpenBlas
{
    const int RowMajor = 101, NoTranspose = 111, Transpose = 112;

    static readonly nint Library = NativeLibrary.TryLoad("libopenblas.so.0", out nint handle) ? handle : 0;

    public static bool IsPresent => Library != 0;

    /// <summary>Version, build options and the kernels it chose (OPENBLAS_CORETYPE overrides those), or "absent".</summary>
    public static string Describe()
    {
        if (!IsPresent)
        {
            return "absent (libopenblas.so.0 was not found)";
        }

        var config = (delegate* unmanaged<nint>)NativeLibrary.GetExport(Library, "openblas_get_config");
        var core = (delegate* unmanaged<nint>)NativeLibrary.GetExport(Library, "openblas_get_corename");
        return $"{Marshal.PtrToStringUTF8(config())}, core {Marshal.PtrToStringUTF8(core())}";
    }

    public static void SetThreads(int count) => ((delegate* unmanaged<int, void>)NativeLibrary.GetExport(Library, "openblas_set_num_threads"))(count);

    /// <summary>C [m, n] = A [m, k]·op(B), row-major and contiguous.</summary>
    public static void Multiply(int m, int n, int k, float* a, float* b, bool transposeB, float* c)
    {
        var sgemm = (delegate* unmanaged<int, int, int, int, int, int, float, float*, int, float*, int, float, float*, int, void>)
            NativeLibrary.GetExport(Library, "cblas_sgemm");
        sgemm(RowMajor, NoTranspose, transposeB ? Transpose : NoTranspose, m, n, k, 1, a, k, b, transposeB ? k : n, 0, c, n);
    }
}
