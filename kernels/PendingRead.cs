namespace IlgpuPeft.Kernels;

/// <summary>A few bytes on their way from the device to the host, while both go on with other work.</summary>
public abstract class PendingRead
{
    /// <summary>Whether they are there already: always, where the device is the host.</summary>
    public abstract bool HasArrived { get; }

    /// <summary>Waits until they are there, and returns them.</summary>
    public abstract byte[] Wait();
}
