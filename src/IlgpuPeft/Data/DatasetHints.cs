namespace IlgpuPeft.Data;

/// <summary>What errors about a data file advise, in the words of whoever named the file: sentences that follow what is wrong.</summary>
/// <param name="Path">Where a file is looked for.</param>
/// <param name="Format">How to say what format a file has.</param>
/// <param name="Field">How to say which fields are read.</param>
public sealed record DatasetHints(string Path, string Format, string Field)
{
    /// <summary>For a <see cref="DatasetSource"/> that a program made.</summary>
    public static DatasetHints Code { get; } = new("Check the path.", "Set FileType.", "Check the source's Type, or name the field in it.");

    /// <summary>For a configuration file.</summary>
    public static DatasetHints Configuration { get; } = new("Relative paths start at the folder of the configuration file.", "Set ds_type: json or ds_type: csv for this dataset.",
        "Check the dataset's type, or name the field with field_*.");
}
