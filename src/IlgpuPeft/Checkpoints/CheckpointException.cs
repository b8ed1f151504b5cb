namespace IlgpuPeft.Checkpoints;

/// <summary>A file of a model or an adapter is damaged, incomplete, or of a kind that is not supported. The message says which, and what to do.</summary>
public sealed class CheckpointException : Exception
{
    /// <summary>Creates the exception; the message becomes <c>file: tensor: problem</c>.</summary>
    /// <param name="file">Path of the file (or folder) that is wrong.</param>
    /// <param name="tensor">Name of the tensor, or null where the whole file is meant.</param>
    /// <param name="problem">What is wrong, expected and found values included, and what to do about it.</param>
    /// <param name="inner">The cause, if another exception reported it.</param>
    public CheckpointException(string file, string? tensor, string problem, Exception? inner = null)
        : base(tensor is null ? $"{file}: {problem}" : $"{file}: {tensor}: {problem}", inner)
    {
        File = file;
        Tensor = tensor;
    }

    /// <summary>Path of the file (or folder) that is wrong.</summary>
    public string File { get; }

    /// <summary>Name of the tensor, or null where the whole file is meant.</summary>
    public string? Tensor { get; }
}
