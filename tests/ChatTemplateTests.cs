using System.Text.Json;
using System.Text.RegularExpressions;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class ChatTemplateTests
{
    static readonly ChatMessage[] Conversation = [new("system", "Be brief."), new("user", "Hi"), new("assistant", "Hello"), new("user", "Bye")];

    // Templates that, on these conversations, write turns and nothing else once the bos token is left to the tokenizer.
    [Theory]
    [InlineData("_base", "chatml")]
    [InlineData("HuggingFaceH4/zephyr-7b-gemma-v0.1", "chatml")]
    public void Render_published_conversation_is_the_published_text(string name, string expectedName)
    {
        JsonElement golden = Golden(name);
        JsonElement data = golden.GetProperty("data");
        ChatMessage[] messages = [.. data.GetProperty("messages").EnumerateArray().Select(message => new ChatMessage(message.GetProperty("role").GetString()!, message.GetProperty("content").GetString()!))];
        string bos = data.TryGetProperty("bos_token", out JsonElement token) ? token.GetString()! : "";

        ChatTemplate template = ChatTemplate.Detect(golden.GetProperty("chat_template").GetString());

        Assert.Equal(expectedName, template.Name);
        Assert.Equal(golden.GetProperty("target").GetString(), bos + template.Render(messages, data.GetProperty("add_generation_prompt").GetBoolean()));
    }

    // Templates that put texts of their own into the turns: the turns are read back from the published text, so that the frame around them is what is compared.
    [Theory]
    [InlineData("Qwen/Qwen2.5-VL-7B-Instruct", "chatml", @"<\|im_start\|>(system|user)\n(.*?)<\|im_end\|>", "")]
    [InlineData("meta-llama/Llama-3.1-8B-Instruct", "llama3", @"<\|start_header_id\|>(system|user)<\|end_header_id\|>\n\n(.*?)<\|eot_id\|>", "<|begin_of_text|>")]
    public void Render_turns_of_a_published_text_is_that_text(string name, string expectedName, string turn, string bos)
    {
        JsonElement golden = Golden(name);
        string target = golden.GetProperty("target").GetString()!;
        ChatMessage[] messages = [.. Regex.Matches(target, turn, RegexOptions.Singleline).Select(match => new ChatMessage(match.Groups[1].Value, match.Groups[2].Value))];

        ChatTemplate template = ChatTemplate.Detect(golden.GetProperty("chat_template").GetString());

        Assert.Equal(2, messages.Length);
        Assert.Equal(expectedName, template.Name);
        Assert.Equal(target, bos + template.Render(messages));
    }

    [Theory]
    [InlineData("chatml", "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n")]
    [InlineData("alpaca", "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello\n\n### Instruction:\nBye\n\n### Response:\n")]
    [InlineData("plain", "Be brief.\nHi\nHello\nBye\n")]
    public void Render_conversation_with_generation_prompt(string name, string expected) => Assert.Equal(expected, ChatTemplate.Named(name).Render(Conversation));

    [Fact]
    public void Render_alpaca_without_system_begins_with_its_preamble() => Assert.Equal(
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nHi\n\n",
        ChatTemplate.Named("alpaca").Render([new("user", "Hi")], addGenerationPrompt: false));

    [Fact]
    public void Render_unknown_role_is_refused() =>
        Assert.Contains("role 'tool'", Assert.Throws<ArgumentException>(() => ChatTemplate.Named("chatml").Render([new("tool", "{}")])).Message, StringComparison.Ordinal);

    [Fact]
    public void Named_unknown_lists_the_names() =>
        Assert.Contains("chatml, llama3, alpaca, plain", Assert.Throws<ArgumentException>(() => ChatTemplate.Named("vicuna")).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData(null, "has no chat template")]
    [InlineData("{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}", "does not evaluate Jinja templates")]
    public void Detect_template_without_known_markers_says_what_to_do(string? source, string expected)
    {
        var thrown = Assert.Throws<NotSupportedException>(() => ChatTemplate.Detect(source));
        Assert.Contains(expected, thrown.Message, StringComparison.Ordinal);
        Assert.Contains("Choose one by name", thrown.Message, StringComparison.Ordinal);
    }

    static JsonElement Golden(string name) => JsonElement.Parse(File.ReadAllText(Path.Combine(TestAssets.Path("assets/golden-chat-templates"), "e2e.json")))
        .GetProperty("cases").EnumerateArray().Single(entry => entry.GetProperty("name").GetString() == name);
}
