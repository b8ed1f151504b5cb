using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// How the fields of a row become a prompt and a response. What else a row holds is the method's business: preference methods find chosen and rejected in place of the response
/// (<see cref="Dataset.LoadPairs"/>), KTO a label beside it (<see cref="Dataset.LoadLabelled"/>), policy methods need the prompt alone (<see cref="Dataset.LoadPrompts"/>).
/// </summary>
public enum DatasetType
{
    /// <summary>instruction, input (may be empty) and output in the Alpaca prompt; the output is trained on.</summary>
    Alpaca,

    /// <summary>Running text in one field; all of it is trained on, and long texts are cut into pieces of the sequence length. Has no prompt, so it is for supervised training alone.</summary>
    Completion,

    /// <summary>prompt and completion, joined as they are; the completion is trained on.</summary>
    PromptCompletion,

    /// <summary>
    /// A list of messages with role and content, written by a chat template; the assistant's turns are trained on. Responses of pairs may also be texts, after a prompt that is a text in
    /// <c>input</c> or <c>prompt</c>; and a pair's text in <c>system</c> is its first message.
    /// </summary>
    ChatTemplate,

    /// <summary>
    /// input_ids, with optional labels and attention_mask. Pairs: prompt_ids, chosen_ids and rejected_ids; labelled responses: prompt_ids and completion_ids; prompts: input_ids.
    /// Responses are taken as they are, so they must hold their end-of-sequence token.
    /// </summary>
    Tokenized,
}

/// <summary>The format of a data file.</summary>
public enum DataFileType
{
    /// <summary>An array of objects, or one object a line (JSONL); the first character tells which.</summary>
    Json,

    /// <summary>Comma-separated values (RFC 4180) with a header row.</summary>
    Csv,
}

/// <summary>What happens to a row longer than the sequence length.</summary>
public enum ExcessLength
{
    /// <summary>The row is left out, and counted in the report.</summary>
    Drop,

    /// <summary>The row loses its end, and is counted in the report.</summary>
    Truncate,

    /// <summary>The row is an error.</summary>
    Raise,
}

/// <summary>One entry of <c>datasets</c>: a file and how to read its rows.</summary>
public sealed record DatasetSource
{
    /// <summary>The data file.</summary>
    public string Path { get; init; } = "";

    /// <summary>How rows become prompts and responses.</summary>
    public DatasetType Type { get; init; }

    /// <summary>File format; null takes it from the file's extension.</summary>
    public DataFileType? FileType { get; init; }

    /// <summary>Field that holds the text of <see cref="DatasetType.Completion"/>; null is <c>text</c>.</summary>
    public string? Field { get; init; }

    /// <summary>Field of the instruction or prompt; null is <c>instruction</c> for alpaca, <c>prompt</c> for prompt_completion.</summary>
    public string? FieldInstruction { get; init; }

    /// <summary>Field of alpaca's optional input; null is <c>input</c>.</summary>
    public string? FieldInput { get; init; }

    /// <summary>Field of the response; null is <c>output</c> for alpaca, <c>completion</c> for prompt_completion.</summary>
    public string? FieldOutput { get; init; }

    /// <summary>Field of a conversation's list of messages; null is <c>messages</c>. Of the prompt's where responses have fields of their own; null is then <c>prompt</c> or <c>messages</c>.</summary>
    public string? FieldMessages { get; init; }

    /// <summary>Field of the preferred response of a pair; null is <c>chosen</c>.</summary>
    public string? FieldChosen { get; init; }

    /// <summary>Field of the other response of a pair; null is <c>rejected</c>.</summary>
    public string? FieldRejected { get; init; }

    /// <summary>Field that says whether a response was liked; null is <c>label</c>.</summary>
    public string? FieldLabel { get; init; }

    /// <summary>Property of a message that names who speaks; null is <c>role</c>.</summary>
    public string? MessageRole { get; init; }

    /// <summary>Property of a message that holds what is said; null is <c>content</c>.</summary>
    public string? MessageContent { get; init; }

    /// <summary>What errors advise. Default <see cref="DatasetHints.Code"/>.</summary>
    public DatasetHints Hints { get; init; } = DatasetHints.Code;
}

/// <summary>How rows become examples, for all sources of a run.</summary>
public sealed record DatasetOptions
{
    /// <summary>The most tokens an example may have. Default 512.</summary>
    public int SequenceLength { get; init; } = 512;

    /// <summary>Tokens of <see cref="SequenceLength"/> that <see cref="Dataset.LoadPrompts"/> keeps free for the answer to a prompt. Default 0.</summary>
    public int ReservedLength { get; init; }

    /// <summary>What messages call <see cref="ReservedLength"/>. Default <c>response_length</c>.</summary>
    public string ReservedKey { get; init; } = "response_length";

    /// <summary>What happens to longer rows. Completion text is cut into pieces instead.</summary>
    public ExcessLength ExcessLength { get; init; }

    /// <summary>Whether prompts are trained on too.</summary>
    public bool TrainOnInputs { get; init; }

    /// <summary>Rows of the model's embedding: a token id at or past it is an error. Null checks nothing.</summary>
    public int? VocabularySize { get; init; }

    /// <summary>The token that ends a response; null takes the tokenizer's.</summary>
    public int? EosId { get; init; }

    /// <summary>How conversations are written; null takes the tokenizer's own template.</summary>
    public ChatTemplate? ChatTemplate { get; init; }

    /// <summary>Ends reading between two rows, with an <see cref="OperationCanceledException"/>. Default: never.</summary>
    public CancellationToken CancellationToken { get; init; }

    /// <summary>The most tokens of what is read.</summary>
    internal int Room => SequenceLength - ReservedLength;

    /// <summary>The same as a message says it.</summary>
    internal string RoomInWords => ReservedLength == 0 ? $"sequence_len, {SequenceLength}" : $"{Room}: sequence_len, {SequenceLength}, less {ReservedKey}, {ReservedLength}";

    /// <summary>How to have more room.</summary>
    internal string MoreRoom => ReservedLength == 0 ? $"raise sequence_len ({SequenceLength})" : $"raise sequence_len ({SequenceLength}) or lower {ReservedKey} ({ReservedLength})";
}
