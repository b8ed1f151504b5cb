using System.Reflection;
using System.Reflection.Emit;

namespace IlgpuPeft.Tests;

/// <summary>Which methods the body of a method names, as its IL has them: for tests that hold a list to what the code does.</summary>
static class IlReferences
{
    const BindingFlags All = BindingFlags.Public | BindingFlags.NonPublic | BindingFlags.Static | BindingFlags.Instance | BindingFlags.DeclaredOnly;

    static readonly Dictionary<short, OpCode> Codes = typeof(OpCodes).GetFields().Select(field => (OpCode)field.GetValue(null)!).ToDictionary(code => code.Value);

    /// <summary>The methods that a type's own methods name, those of its nested types included: where lambdas and iterators are.</summary>
    public static IEnumerable<(OpCode Code, MethodBase Method)> Of(Type type) => type.GetNestedTypes(All).SelectMany(Of).Concat(
        type.GetMembers(All).OfType<MethodBase>().SelectMany(Of));

    /// <summary>The methods that one method names.</summary>
    public static IReadOnlyList<(OpCode Code, MethodBase Method)> Of(MethodBase method)
    {
        List<(OpCode, MethodBase)> found = [];
        byte[] il = method.GetMethodBody()?.GetILAsByteArray() ?? [];
        Type[] ofType = method.DeclaringType!.GetGenericArguments(), ofMethod = method.IsGenericMethod ? method.GetGenericArguments() : [];
        for (int at = 0; at < il.Length;)
        {
            short value = il[at] == 0xFE ? (short)(il[at] << 8 | il[at + 1]) : il[at];
            var code = Codes[value];
            at += code.Size;
            if (code.OperandType == OperandType.InlineMethod)
            {
                found.Add((code, method.Module.ResolveMethod(BitConverter.ToInt32(il, at), ofType, ofMethod)!));
            }

            at += code.OperandType switch
            {
                OperandType.InlineNone => 0,
                OperandType.ShortInlineBrTarget or OperandType.ShortInlineI or OperandType.ShortInlineVar => 1,
                OperandType.InlineVar => 2,
                OperandType.InlineI8 or OperandType.InlineR => 8,
                OperandType.InlineSwitch => 4 + 4 * BitConverter.ToInt32(il, at),
                _ => 4,
            };
        }

        return found;
    }
}
