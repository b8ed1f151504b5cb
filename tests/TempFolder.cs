namespace IlgpuPeft.Tests;

/// <summary>A folder of one test, deleted with everything in it when the test ends.</summary>
sealed class TempFolder : IDisposable
{
    public TempFolder()
    {
        Path = Directory.CreateTempSubdirectory("ilgpu-peft-test-").FullName;
    }

    public string Path { get; }

    public string File(string name) => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
