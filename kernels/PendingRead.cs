namespace IlgpuPeft.Kernels;

/// <summary>A few bytes on their way from the device to the host, while both go on with other work.</summary>
public abstract class PendingRead
{
    /// <summary>Waits until they are there, and returns them. To be called once.</summary>
    public abstract byte[] Wait();
}
