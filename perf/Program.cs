namespace IlgpuPeft.Perf;

/// <summary>Each command is one benchmark. Run in Release: <c>dotnet run -c Release --project perf -- gemm</c>.</summary>
static class Program
{
    static int Main(string[] args) => Verbs.Run(args, Console.Error);
}
