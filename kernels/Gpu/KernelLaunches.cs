using System.Runtime.CompilerServices;
using ILGPU;
using ILGPU.Runtime;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Launches of kernels with two to fourteen arguments, queued on the device's stream. A kernel is given as its static method; its argument types follow from the arguments. A shape
/// without groups launches nothing.
/// </summary>
sealed partial class KernelDevice
{
    public void Launch<T1, T2>(Action<T1, T2> kernel, LaunchShape shape, T1 a1, T2 a2)
        where T1 : struct where T2 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2> launch, AcceleratorStream s, KernelConfig c, (T1, T2) a) =>
            launch(s, c, a.Item1, a.Item2), (a1, a2));

    public void Launch<T1, T2, T3>(Action<T1, T2, T3> kernel, LaunchShape shape, T1 a1, T2 a2, T3 a3)
        where T1 : struct where T2 : struct where T3 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3> launch, AcceleratorStream s, KernelConfig c, (T1, T2, T3) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3), (a1, a2, a3));

    public void Launch<T1, T2, T3, T4>(Action<T1, T2, T3, T4> kernel, LaunchShape shape, T1 a1, T2 a2, T3 a3, T4 a4)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4> launch, AcceleratorStream s, KernelConfig c, (T1, T2, T3, T4) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4), (a1, a2, a3, a4));

    public void Launch<T1, T2, T3, T4, T5>(Action<T1, T2, T3, T4, T5> kernel, LaunchShape shape, T1 a1, T2 a2, T3 a3, T4 a4, T5 a5)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5> launch, AcceleratorStream s, KernelConfig c, (T1, T2, T3, T4, T5) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5), (a1, a2, a3, a4, a5));

    public void Launch<T1, T2, T3, T4, T5, T6>(Action<T1, T2, T3, T4, T5, T6> kernel, LaunchShape shape, T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6> launch, AcceleratorStream s, KernelConfig c, (T1, T2, T3, T4, T5, T6) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6), (a1, a2, a3, a4, a5, a6));

    public void Launch<T1, T2, T3, T4, T5, T6, T7>(Action<T1, T2, T3, T4, T5, T6, T7> kernel, LaunchShape shape, T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7), (a1, a2, a3, a4, a5, a6, a7));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8>(Action<T1, T2, T3, T4, T5, T6, T7, T8> kernel, LaunchShape shape, T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8), (a1, a2, a3, a4, a5, a6, a7, a8));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8, T9>(Action<T1, T2, T3, T4, T5, T6, T7, T8, T9> kernel, LaunchShape shape,
        T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8, T9 a9)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct where T9 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8, T9> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8, T9) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8, a.Item9), (a1, a2, a3, a4, a5, a6, a7, a8, a9));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10>(Action<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10> kernel, LaunchShape shape,
        T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8, T9 a9, T10 a10)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct
        where T9 : struct where T10 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8, T9, T10> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8, T9, T10) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8, a.Item9, a.Item10), (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11>(Action<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11> kernel, LaunchShape shape,
        T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8, T9 a9, T10 a10, T11 a11)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct
        where T9 : struct where T10 : struct where T11 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8, a.Item9, a.Item10, a.Item11), (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12>(Action<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12> kernel, LaunchShape shape,
        T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8, T9 a9, T10 a10, T11 a11, T12 a12)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct
        where T9 : struct where T10 : struct where T11 : struct where T12 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8, a.Item9, a.Item10, a.Item11, a.Item12),
                (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13>(Action<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13> kernel, LaunchShape shape,
        T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8, T9 a9, T10 a10, T11 a11, T12 a12, T13 a13)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct
        where T9 : struct where T10 : struct where T11 : struct where T12 : struct where T13 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8, a.Item9, a.Item10, a.Item11, a.Item12, a.Item13),
                (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13));

    public void Launch<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13, T14>(Action<T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13, T14> kernel, LaunchShape shape,
        T1 a1, T2 a2, T3 a3, T4 a4, T5 a5, T6 a6, T7 a7, T8 a8, T9 a9, T10 a10, T11 a11, T12 a12, T13 a13, T14 a14)
        where T1 : struct where T2 : struct where T3 : struct where T4 : struct where T5 : struct where T6 : struct where T7 : struct where T8 : struct
        where T9 : struct where T10 : struct where T11 : struct where T12 : struct where T13 : struct where T14 : struct =>
        Queue(kernel, shape, static (Action<AcceleratorStream, KernelConfig, T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13, T14> launch, AcceleratorStream s, KernelConfig c,
            (T1, T2, T3, T4, T5, T6, T7, T8, T9, T10, T11, T12, T13, T14) a) =>
            launch(s, c, a.Item1, a.Item2, a.Item3, a.Item4, a.Item5, a.Item6, a.Item7, a.Item8, a.Item9, a.Item10, a.Item11, a.Item12, a.Item13, a.Item14),
                (a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14));

    void Queue<TLauncher, TArguments>(Delegate kernel, LaunchShape shape, Action<TLauncher, AcceleratorStream, KernelConfig, TArguments> launch, TArguments arguments)
        where TLauncher : Delegate where TArguments : struct, ITuple
    {
        if (shape.Grid.Size == 0)
        {
            return;
        }

        var (launcher, loaded) = Prepare<TLauncher>(kernel, shape);
        try
        {
            launch(launcher, Stream, shape.Config, arguments);
        }
        catch (Exception cause)
        {
            throw Failed(kernel, shape, arguments, cause);
        }

        Note(kernel, shape, loaded);
    }
}
