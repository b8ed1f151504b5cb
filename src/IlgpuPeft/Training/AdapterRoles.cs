using System.Runtime.InteropServices;
using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Training;

/// <summary>What must hold of adapters that take different roles over one frozen base, and what a checkpoint knows those by that are not trained.</summary>
static class AdapterRoles
{
    /// <summary>Checks a policy and the roles beside it.</summary>
    /// <param name="trainer">Whom errors name.</param>
    /// <param name="policy">What is trained to write.</param>
    /// <param name="reference">What it is compared with; null for the base with no adapter.</param>
    /// <param name="value">What is trained to foresee rewards; null where a method has none.</param>
    /// <exception cref="ArgumentException">A policy or reference has a scalar head, a value model has none, two roles share a set, or their bases differ.</exception>
    public static void Check(string trainer, AdapterSet policy, AdapterSet? reference, AdapterSet? value = null)
    {
        const string Distinct = "expected a set of its own: what is trained in one role would change the other. Make or load another set";
        Require(policy.Head is null, nameof(policy), "the policy has a scalar head, expected an adapter that continues texts. Make it without scalarHead.");
        Require(reference?.Head is null, nameof(reference), "the reference has a scalar head, expected an adapter that continues texts. Make it without scalarHead.");
        Require(value is not { Head: null }, nameof(value), "the value model has no scalar head, expected one to read values from. Make it with scalarHead: true.");
        Require(reference != policy, nameof(reference), $"the reference is the policy itself, {Distinct}, or leave the reference out for the base.");
        Require(reference is null || reference.Model == policy.Model, nameof(reference), "the reference is over another base, expected the policy's. Make both over one model.");
        Require(value is null || value.Model == policy.Model, nameof(value), "the value model is over another base, expected the policy's. Make both over one model.");

        void Require(bool holds, string name, string problem)
        {
            if (!holds)
            {
                throw new ArgumentException($"{trainer}: {problem}", name);
            }
        }
    }

    /// <summary>Which reference this is, by its values.</summary>
    public static string Describe(AdapterSet? reference) => reference is null ? "base" : Digest(reference);

    /// <summary>A fingerprint of what a set computes: its layers, their scales, and all values. Waits for the device.</summary>
    public static string Digest(AdapterSet set)
    {
        var digest = new DataDigest();
        foreach (var (module, update) in set.Updates)
        {
            digest.Add(module);
            digest.Add(MemoryMarshal.Cast<double, int>([update.Scale]));
        }

        digest.Add(MemoryMarshal.Cast<float, int>(set.Model.Backend.ReadFloats(set.Parameters.Values)));
        return digest.ToString();
    }
}
