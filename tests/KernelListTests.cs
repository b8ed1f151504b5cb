using System.Reflection;
using System.Reflection.Emit;
using ILGPU;
using IlgpuPeft.Kernels;
using IlgpuPeft.Perf;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What <c>perf kernels</c> runs to look at the driver's registers and spills reaches every kernel there is, attention in each of its forms.</summary>
public class KernelListTests
{
    [Fact]
    public void Items_ofTheKernelsCommand_compileEveryKernelInEveryForm()
    {
        var device = KernelDevices.Open("emulator");
        Run(new KernelBackend<F32>(device), item => !item.StartsWith("even ", StringComparison.Ordinal));
        Run(new KernelBackend<BF16>(device), item => !item.StartsWith("tiny ", StringComparison.Ordinal));
        Run(new KernelBackend<BF16>(device, portable: true), item => item.StartsWith("AttentionForward, width ", StringComparison.Ordinal));
        device.Return();
        var compiled = device.Compiled.CountBy(kernel => kernel.Name).ToDictionary();
        Assert.Equal(Kernels(), compiled.Keys.Order(StringComparer.Ordinal));

        // Widths 16, 32, 48, 64, 96, 128, 192 and 256, each in chunks and value by value; two widths more share a form of gradients, and two take a launch for each of two gradients.
        Assert.Equal(16, compiled["TensorCoreAttention.ForwardKernel"]);
        Assert.Equal(16, compiled["TensorCoreAttention.QueryKernel"]);
        Assert.Equal(20, compiled["TensorCoreAttention.KeyKernel"]);

        // Up to 64, 128 and 256 columns: few rows and many in F32; few of BF16, whole and in parts; many of BF16 without tensor cores.
        Assert.Equal(15, compiled["AttentionKernels.Kernel"]);
    }

    /// <summary>Not all of them on each device: it takes a minute, and these reach every form.</summary>
    static void Run(Backend backend, Func<string, bool> selected)
    {
        foreach (var (_, run) in KernelResources.Items(large: false).Where(item => selected(item.Name)))
        {
            run(backend);
        }
    }

    /// <summary>Static methods over views, plain or in structures, that the assembly takes as delegates: what is launched.</summary>
    static IEnumerable<string> Kernels() => typeof(KernelDevice).Assembly.GetTypes().Where(type => !type.IsNested).SelectMany(IlReferences.Of)
        .Where(reference => reference.Code == OpCodes.Ldftn && reference.Method.IsStatic && reference.Method.GetParameters().Any(parameter => HoldsView(parameter.ParameterType)))
        .Select(reference => $"{reference.Method.DeclaringType!.Name}.{reference.Method.Name}").Distinct().Order(StringComparer.Ordinal);

    static bool HoldsView(Type type) => type.IsGenericType && type.GetGenericTypeDefinition() == typeof(ArrayView<>)
        || type is { IsValueType: true, IsPrimitive: false } && type.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic).Any(field => HoldsView(field.FieldType));
}
