namespace IlgpuPeft.Training;

/// <summary>How a supervised run goes through its data. Names in brackets are the keys of the configuration file.</summary>
public sealed record SftOptions : TrainingOptions
{
    /// <summary>Peak learning rate (learning_rate). Default 2e-4, the QLoRA paper's for models up to 13B.</summary>
    public override double LearningRate { get; init; } = 2e-4;

    /// <summary>Tokens of a bin with packing; no row may be longer (sequence_len). Default 512, Axolotl's.</summary>
    public int SequenceLength { get; init; } = 512;

    /// <summary>Several rows share a pass up to the sequence length, without seeing each other (sample_packing). Default false, Axolotl's.</summary>
    public bool Packing { get; init; }

    internal override void Validate()
    {
        base.Validate();
        RequireAtLeast(2, SequenceLength, nameof(SequenceLength));
    }
}
