using ILGPU.Runtime;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Whether a device failed, and what it did last. A GPU runs a kernel after its launch has returned and refuses all work once one has failed, so a kernel's fault turns up in whatever
/// is asked of the GPU next: a copy, a wait, an allocation, another launch.
/// </summary>
/// <param name="device">Its name, for messages.</param>
sealed class DeviceFaults(string device)
{
    const int Remembered = 4;

    readonly Delegate?[] launched = new Delegate?[Remembered];
    int next;
    KernelException? untold;

    /// <summary>Whether the device must not be used again.</summary>
    public bool HasFailed { get; private set; }

    /// <summary>A kernel as messages name it: class and method.</summary>
    public static string NameOf(Delegate kernel) => $"{kernel.Method.DeclaringType!.Name}.{kernel.Method.Name}";

    /// <summary>Remembers a launch for messages.</summary>
    public void Launched(Delegate kernel) => launched[next++ % Remembered] = kernel;

    /// <summary>From now on the device is not used again, and the caller throws an error that says why.</summary>
    public void Fail()
    {
        HasFailed = true;
        untold = null;
    }

    /// <summary>The error to throw when something other than a launch hears that the device failed.</summary>
    /// <param name="what">Was asked of the device: <c>a copy to the host</c>.</param>
    /// <param name="cause">What it answered.</param>
    public KernelException Of(string what, AcceleratorException cause)
    {
        Fail();
        return new($"work queued on {device} failed, as {what} was told: {cause.Message.TrimEnd('.')}. {LastLaunches()} The environment variable CUDA_LAUNCH_BLOCKING=1 shows which kernel it "
            + "was, and device emulator where in it.", cause);
    }

    /// <summary>Asks something other than a launch of the device.</summary>
    /// <exception cref="KernelException">It answers that it failed.</exception>
    /// <inheritdoc cref="Of" />
    public void Ask(string what, Action use)
    {
        try
        {
            use();
        }
        catch (AcceleratorException cause)
        {
            throw Of(what, cause);
        }
    }

    /// <inheritdoc cref="Ask(string, Action)" />
    public T Ask<T>(string what, Func<T> use)
    {
        T answer = default!;
        Ask(what, () => { answer = use(); });
        return answer;
    }

    /// <summary>Hears of a failure where nothing may be thrown, because other things must still be given back; <see cref="Tell"/> throws it unless another error was thrown first.</summary>
    /// <inheritdoc cref="Of" />
    public void Keep(string what, AcceleratorException cause)
    {
        if (!HasFailed)
        {
            untold = Of(what, cause);
        }
    }

    /// <summary>Throws what was kept.</summary>
    /// <exception cref="KernelException">The device failed, and nobody was told.</exception>
    public void Tell()
    {
        if (untold is { } fault)
        {
            untold = null;
            throw fault;
        }
    }

    /// <summary>What to add to the error of a launch or of loading a kernel: where the driver is its cause, the fault may be another kernel's.</summary>
    public string Doubt(Exception cause) =>
        cause.GetBaseException() is AcceleratorException ? $" The fault may be that of a kernel before it: a GPU reports it later. {LastLaunches()}" : "";

    string LastLaunches()
    {
        string names = string.Join(", ", Enumerable.Range(next, Remembered).Select(i => launched[i % Remembered]).OfType<Delegate>().Select(NameOf));
        return names.Length == 0 ? "No kernel was launched before." : $"The last launches were {names}.";
    }
}
