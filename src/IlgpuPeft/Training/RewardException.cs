namespace IlgpuPeft.Training;

/// <summary>A reward could not be had for a sample: it threw, or is not a finite number. The run stops and keeps what it learned before.</summary>
/// <param name="message">Which reward, which sample, and what came.</param>
/// <param name="cause">What the reward threw, or null.</param>
public sealed class RewardException(string message, Exception? cause = null) : Exception(message, cause);
