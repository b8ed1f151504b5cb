using System.Text;

namespace IlgpuPeft.Checkpoints;

/// <summary>
/// Writes files that are replaced as a whole: into a temporary file beside the target, flushed to the disk, then renamed over it.
/// Whatever fails, the target is either the old file or the new one, whole, and the temporary file is gone.
/// </summary>
public static class AtomicFile
{
    /// <summary>Writes <paramref name="path"/> with what <paramref name="write"/> puts into the stream. The folder is created if it is missing.</summary>
    /// <param name="path">The file to create or replace.</param>
    /// <param name="write">Receives a buffered stream at position 0. What it throws passes through, unless the file system threw it.</param>
    /// <param name="size">Bytes that will be written, if known: a disk without that much room is then reported before any work is done.</param>
    /// <exception cref="IOException">The file system refused; the message names the path and says what to do.</exception>
    public static void Write(string path, Action<Stream> write, long size = 0)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        string target = Path.GetFullPath(path);
        string temporary = $"{target}.{Guid.NewGuid():N}.tmp";
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(target)!);
            try
            {
                using (var file = new FileStream(temporary, new FileStreamOptions
                {
                    Mode = FileMode.CreateNew,
                    Access = FileAccess.Write,
                    BufferSize = 1 << 20,
                    PreallocationSize = size,
                }))
                {
                    write(file);
                    file.Flush(flushToDisk: true); // a rename must not reach the disk before the contents
                }

                File.Move(temporary, target, overwrite: true);
            }
            catch
            {
                TryDelete(temporary);
                throw;
            }
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException($"{path}: no permission to write here. Choose another folder, or change the folder's permissions.", e);
        }
        catch (IOException e)
        {
            throw new IOException($"{path}: could not be written. {e.Message} Check the path and the free space; any earlier file of this name is untouched.", e);
        }
    }

    /// <summary>Writes <paramref name="text"/> to <paramref name="path"/> as UTF-8 without a byte-order mark.</summary>
    /// <exception cref="IOException">As <see cref="Write"/>.</exception>
    public static void WriteText(string path, string text) => Write(path, stream => stream.Write(Encoding.UTF8.GetBytes(text)));

    /// <summary>Checks that files can be written into a folder, which need not exist yet, and leaves nothing behind: to be called before hours of work.</summary>
    /// <exception cref="IOException">They cannot; the message names the folder.</exception>
    public static void RequireWritable(string folder)
    {
        string existing = Path.GetFullPath(folder);
        while (!Directory.Exists(existing))
        {
            if (File.Exists(existing))
            {
                throw new IOException($"{folder}: {existing} is a file, expected a folder. Choose another folder.");
            }

            existing = Path.GetDirectoryName(existing) ?? throw new IOException($"{folder}: there is no such drive. Choose another folder.");
        }

        string probe = Path.Combine(existing, $".{Guid.NewGuid():N}.tmp");
        try
        {
            File.WriteAllBytes(probe, []);
            File.Delete(probe);
        }
        catch (Exception cause) when (cause is IOException or UnauthorizedAccessException)
        {
            throw new IOException($"{folder}: cannot be written to. {cause.Message} Choose another folder, or change the folder's permissions.", cause);
        }
    }

    static void TryDelete(string temporary)
    {
        try
        {
            File.Delete(temporary);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // The exception on its way up is the one to report.
        }
    }
}
