using MessagePack;

namespace IlgpuPeft.Checkpoints;

/// <summary>
/// What a checkpoint holds beside the trained values and the optimizer's moments: where the run stood. Random draws need no state; they are keyed by seed and step.
/// </summary>
[MessagePackObject]
public sealed record ResumeState
{
    /// <summary>The file's name in a checkpoint folder.</summary>
    public const string FileName = "state.msgpack";

    /// <summary>The layout that this version writes.</summary>
    public const int CurrentVersion = 3;

    /// <summary>Layout version.</summary>
    [Key(0)]
    public int Version { get; init; } = CurrentVersion;

    /// <summary>Steps of the run taken.</summary>
    [Key(1)]
    public required int Step { get; init; }

    /// <summary>Passes over the data completed.</summary>
    [Key(2)]
    public required int Epoch { get; init; }

    /// <summary>Items of the current pass that are done.</summary>
    [Key(3)]
    public required int Index { get; init; }

    /// <summary>A digest of the settings and data that the run depends on; a resumed run must have the same.</summary>
    [Key(4)]
    public required string Fingerprint { get; init; }

    /// <summary>Steps of each optimizer, in the order of the run's trained parts: more than the run's where a step of the run has several.</summary>
    [Key(5)]
    public required int[] OptimizerSteps { get; init; }

    /// <summary>What the method itself carries from step to step, such as an adaptive coefficient.</summary>
    [Key(6)]
    public Dictionary<string, double> Method { get; init; } = [];

    /// <summary>
    /// How many runs, begun anew or resumed, have written checkpoints into the run's folder up to this one: what a run writes is later than all that it found, whatever
    /// its step. The run's folder sets it when it saves.
    /// </summary>
    [Key(7)]
    public int RunNumber { get; init; }

    /// <summary>Writes the file whole.</summary>
    public void Save(string folder) => AtomicFile.Write(Path.Combine(folder, FileName), stream => MessagePackSerializer.Serialize(stream, this));

    /// <summary>Reads the file.</summary>
    /// <exception cref="CheckpointException">Folder or file is absent, or the file is damaged, or of another version.</exception>
    public static ResumeState Load(string folder)
    {
        string path = Path.Combine(folder, FileName);
        if (!File.Exists(path))
        {
            throw new CheckpointException(folder, null, Directory.Exists(folder)
                ? $"has no {FileName}, expected the checkpoint-N folder of a run. Name one to resume from."
                : "there is no such folder, expected the checkpoint-N folder of a run. Name one to resume from.");
        }

        try
        {
            const long limit = 1 << 20; // real ones have a few hundred bytes
            long length = new FileInfo(path).Length;
            if (length > limit)
            {
                throw new CheckpointException(path, null, $"has {length} bytes, expected at most {limit} of a resume state. Resume from an earlier checkpoint.");
            }

            var state = MessagePackSerializer.Deserialize<ResumeState>(File.ReadAllBytes(path), MessagePackSerializerOptions.Standard.WithSecurity(MessagePackSecurity.UntrustedData));
            return state is { Version: CurrentVersion, Fingerprint: not null, Step: >= 0, Epoch: >= 0, Index: >= 0, OptimizerSteps: not null, Method: not null, RunNumber: >= 0 }
                ? state
                : throw new CheckpointException(path, null, $"is not a resume state of version {CurrentVersion}. It was written by another version, or is damaged.");
        }
        catch (MessagePackSerializationException cause)
        {
            throw new CheckpointException(path, null, "cannot be read as a resume state. Resume from an earlier checkpoint.", cause);
        }
    }
}
