using IlgpuPeft.Config;
using IlgpuPeft.Data;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Axolotl's ways of asking for what happens here anyway: read without a word, and refused where they ask for something else.</summary>
public sealed class AxolotlIdiomTests : IDisposable
{
    const string Base = "base_model: ./model\nlearning_rate: 2e-4\ndatasets:\n  - path: chat.jsonl\n    type: chat_template\n";

    readonly TempFolder temp = new();

    public void Dispose() => temp.Dispose();

    [Theory]
    [InlineData("roles_to_train: [assistant]")]
    [InlineData("roles_to_train: [assistant, gpt]")]
    [InlineData("train_on_eos: turn")]
    [InlineData("train_on_eot: turn")]
    [InlineData("roles: {assistant: [gpt, assistant], user: [human, user], system: [system], tool: [tool]}")]
    [InlineData("roles: {user: [user]}")]
    public void Dataset_key_that_says_what_happens_anyway_is_read(string line)
    {
        var (config, notes) = Read(Base + "    " + line);
        Assert.Empty(notes);
        Assert.Equal(config, Read(Base).Config with { Datasets = config.Datasets });
        Assert.Equal(Read(Base).Config.Datasets, config.Datasets);
    }

    [Theory]
    [InlineData("roles_to_train: [user]", "expected [assistant], got a list. The assistant's turns are trained on.")]
    [InlineData("roles_to_train: assistant", "expected [assistant], got \"assistant\"")]
    [InlineData("train_on_eos: all", "expected turn, got \"all\". The end of each of the assistant's turns is trained on")]
    [InlineData("train_on_eot: none", "expected turn, got \"none\"")]
    [InlineData("roles: {assistant: [bot]}", "tool: [tool] or a part of it, got a group of keys. Rename other roles in the data.")]
    [InlineData("roles: {judge: [assistant]}", "or a part of it, got a group of keys")]
    [InlineData("message_field_role: from", "not supported: write message_property_mappings: {role: ...}")]
    [InlineData("message_field_content: value", "not supported: write message_property_mappings: {content: ...}")]
    [InlineData("message_field_training: train", "all of the assistant's turns are trained on")]
    public void Dataset_key_that_asks_for_something_else_gets_advice(string line, string message)
    {
        var problem = Assert.Single(Assert.Throws<ConfigException>(() => Read(Base + "    " + line)).Problems);
        Assert.Equal((6, "datasets.0." + line.Split(':')[0]), (problem.Line, problem.Key));
        Assert.Contains(message, problem.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("bradley_terry.chat_template")]
    [InlineData("orpo.chat_template")]
    [InlineData("chat_template.default")]
    [InlineData("chat_template.argilla")]
    [InlineData("chat_template.argilla_chat")]
    public void Name_of_a_conversation_format_is_chat_template(string type)
    {
        var config = Read(Base.Replace("chat_template", type, StringComparison.Ordinal)).Config;
        Assert.Equal(DatasetType.ChatTemplate, config.Datasets[0].Type);
        Assert.Contains("    type: chat_template\n", ConfigWriter.ToYaml(config), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("lora_target_modules: all-linear\nlora_target_linear: false\n")]
    [InlineData("lora_target_linear: false\nlora_target_modules: all-linear\n")]
    public void All_linear_needs_no_brackets(string lines)
    {
        var config = Read(Base + "adapter: lora\n" + lines).Config;
        Assert.Equal(["all-linear"], config.LoraTargetModules);
        Assert.Equal(["all-linear"], Read(ConfigWriter.ToYaml(config)).Config.LoraTargetModules);
    }

    [Fact]
    public void Tilde_is_the_home_folder()
    {
        string home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        var config = Read(Base + "output_dir: ~/runs/one").Config;
        Assert.Equal(Path.Combine(home, "runs", "one"), config.OutputDir);
        var problem = Assert.Single(Assert.Throws<ConfigException>(() => Read(Base + "output_dir: ~other/runs")).Problems);
        Assert.Equal((6, "output_dir"), (problem.Line, problem.Key));
    }

    LoadedConfig Read(string yaml)
    {
        File.WriteAllText(temp.File("run.yaml"), yaml);
        return ConfigReader.Read(temp.File("run.yaml"), []);
    }
}
