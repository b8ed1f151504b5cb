using IlgpuPeft.Checkpoints;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Whether two paths lead to one folder.</summary>
public sealed class FolderPathTests : IDisposable
{
    readonly TempFolder temp = new();

    public void Dispose() => temp.Dispose();

    [Theory]
    [InlineData("a/model", true)]
    [InlineData("a/model/", true)]
    [InlineData("a/../a/./model", true)]
    [InlineData("last", true)] // an absolute link
    [InlineData("relative", true)]
    [InlineData("chain", true)]
    [InlineData("middle/model", true)]
    [InlineData("chain/inner/..", true)]
    [InlineData("a", false)]
    [InlineData("a/Model2", false)]
    [InlineData("circle", false)]
    [InlineData("dangling", false)]
    [InlineData("last/inner", false)]
    public void Path_throughLinks_leadsToTheirTarget(string path, bool same)
    {
        Directory.CreateDirectory(temp.File("a/model"));
        Directory.CreateDirectory(temp.File("b"));
        Link("last", temp.File("a/model"));
        Link("relative", "b/../a/model");
        Link("chain", "relative");
        Link("middle", "a");
        Link("circle", "circle");
        Link("dangling", "nowhere");

        Assert.Equal(same, FolderPath.AreSame(temp.File(path), temp.File("a/model")));
        Assert.Equal(same, FolderPath.AreSame(temp.File("a/model"), temp.File(path)));
        Assert.True(FolderPath.AreSame(temp.File(path), temp.File(path)));
    }

    [Fact]
    public void Path_toWhatIsNotThereYet_isResolvedAsFarAsItIs()
    {
        Directory.CreateDirectory(temp.File("a"));
        Link("to", "a");

        Assert.True(FolderPath.AreSame(temp.File("to/new/out"), temp.File("a/new/out")));
        Assert.False(FolderPath.AreSame(temp.File("to/new/out"), temp.File("a/new")));
    }

    void Link(string name, string target)
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "making links needs a privilege there");
        Directory.CreateSymbolicLink(temp.File(name), target);
    }
}
