using CsCheck;
using IlgpuPeft.Config;
using IlgpuPeft.Data;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class ConfigTests : IDisposable
{
    const string Minimal = "base_model: ./model\nlearning_rate: 2e-4\ndatasets:\n  - path: data.jsonl\n    type: alpaca\n";

    readonly string folder = Directory.CreateTempSubdirectory("ilgpu-peft-config").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    LoadedConfig Read(string yaml, params string[] overrides)
    {
        string path = Path.Combine(folder, "run.yaml");
        File.WriteAllText(path, yaml);
        return ConfigReader.Read(path, overrides);
    }

    IReadOnlyList<ConfigProblem> Problems(string yaml, params string[] overrides) => Assert.Throws<ConfigException>(() => Read(yaml, overrides)).Problems;

    ConfigProblem Problem(string yaml, params string[] overrides) => Assert.Single(Problems(yaml, overrides));

    [Fact]
    public void Minimal_config_gives_defaults_and_no_notes()
    {
        var (config, notes) = Read(Minimal);
        Assert.Empty(notes);
        Assert.Null(config.Adapter);
        Assert.Equal(2e-4, config.LearningRate);
        Assert.Equal(512, config.SequenceLen);
        Assert.Equal("cosine", config.LrScheduler);
        Assert.True(config.ShuffleMergedDatasets);
        Assert.Equal(Path.Combine(folder, "model"), config.BaseModel);
        Assert.Equal(Path.Combine(folder, "model-out"), config.OutputDir);
        Assert.Equal(Path.Combine(folder, "data.jsonl"), config.Datasets[0].Path);
    }

    [Fact]
    public void Output_folder_of_two_parts_is_not_taken_for_a_hub_name() =>
        Assert.Equal(Path.Combine(folder, "outputs", "run"), Read(Minimal + "output_dir: outputs/run\n").Config.OutputDir);

    [Fact]
    public void Every_honoured_key_is_read_into_its_property()
    {
        var (config, notes) = Read(Everything);
        Assert.Equal(["pad_token", "eval_sample_packing", "eval_batch_size", "bf16"], notes.Select(note => note.Split(' ')[0].TrimEnd(':').Split('.')[^1]));
        Assert.Equal(("qlora", true, 16, 32.0, 0.05), (config.Adapter, config.LoadIn4Bit, config.LoraR, config.LoraAlpha, config.LoraDropout));
        Assert.Equal(["q_proj", "v_proj"], config.LoraTargetModules);
        Assert.False(config.BnbConfigKwargs.UseDoubleQuant);
        Assert.Equal(
            new DatasetSource
            {
                Path = Path.Combine(folder, "qa.csv"), Type = DatasetType.PromptCompletion, FileType = DataFileType.Csv, Field = "f",
                FieldInstruction = "question", FieldInput = "i", FieldOutput = "answer",
                FieldChosen = "good", FieldRejected = "bad", FieldLabel = "liked",
            },
            config.Datasets[1]);
        Assert.Equal(
            new DatasetSource { Path = Path.Combine(folder, "chat.json"), Type = DatasetType.ChatTemplate, FieldMessages = "conversations", MessageRole = "from", MessageContent = "value" },
            config.Datasets[2]);
        Assert.Equal("chatml", config.ChatTemplate);
        Assert.Equal(("</s>", "<s>"), (config.SpecialTokens.EosToken, config.SpecialTokens.BosToken));
        Assert.Equal((ExcessLength.Truncate, true, 2, 4), (config.ExcessLengthStrategy, config.SamplePacking, config.MicroBatchSize, config.GradientAccumulationSteps));
        Assert.Equal((1.5, 100, "adamw_bnb_8bit", "linear", 0.03), (config.NumEpochs, config.MaxSteps!.Value, config.Optimizer, config.LrScheduler, config.WarmupRatio!.Value));
        Assert.Equal((0.1, 0.5, 0.8, 0.95, 1e-6), (config.WeightDecay, config.MaxGradNorm, config.AdamBeta1, config.AdamBeta2, config.AdamEpsilon));
        Assert.Equal((10, 2, 5, 7), (config.SaveSteps!.Value, config.SaveTotalLimit!.Value, config.EvalSteps!.Value, config.LoggingSteps));
        Assert.Equal((5.0, 2, 7, "cpu", "f32"), (config.LossWatchdogThreshold!.Value, config.LossWatchdogPatience, config.Seed, config.Device, config.Dtype));
        Assert.Equal(Path.Combine(folder, "out", "checkpoint-5"), config.ResumeFromCheckpoint);
    }

    const string Everything = """
        base_model: ./model
        adapter: qlora
        load_in_4bit: true
        bnb_config_kwargs: {bnb_4bit_use_double_quant: false, bnb_4bit_quant_type: nf4}
        lora_r: 16
        lora_alpha: 32
        lora_dropout: 0.05
        lora_target_modules: [q_proj, v_proj]
        peft_use_rslora: true
        datasets:
          - path: ./a.json
            type: alpaca
            split: train
          - path: qa.csv
            type: prompt_completion
            ds_type: csv
            field: f
            field_instruction: question
            field_input: i
            field_output: answer
            field_chosen: good
            field_rejected: bad
            field_label: liked
          - path: chat.json
            type: chat_template
            field_messages: conversations
            message_property_mappings: {role: from, content: value}
        chat_template: chatml
        val_set_size: 0.05
        shuffle_merged_datasets: false
        train_on_inputs: yes
        special_tokens: {pad_token: "<pad>", bos_token: "<s>", eos_token: "</s>"}
        sequence_len: 128
        excess_length_strategy: truncate
        sample_packing: true
        eval_sample_packing: false
        micro_batch_size: 2
        gradient_accumulation_steps: 4
        eval_batch_size: 3
        num_epochs: 1.5
        max_steps: 100
        optimizer: adamw_bnb_8bit
        lr_scheduler: linear
        learning_rate: 0.0002
        warmup_ratio: 0.03
        weight_decay: 0.1
        max_grad_norm: 0.5
        adam_beta1: 0.8
        adam_beta2: 0.95
        adam_epsilon: 1e-6
        gradient_checkpointing: true
        bf16: auto
        output_dir: ./out
        save_steps: 10
        save_total_limit: 2
        eval_steps: 5
        logging_steps: 7
        resume_from_checkpoint: ./out/checkpoint-5
        loss_watchdog_threshold: 5.0
        loss_watchdog_patience: 2
        seed: 7
        device: cpu
        dtype: f32
        """;

    // The key sets of Axolotl's examples llama-3/qlora-1b.yml and mistral/qlora.yml, with typical values.
    [Theory]
    [InlineData("sequence_len: 2048\nlora_target_modules: [gate_proj, down_proj, up_proj, q_proj, v_proj, k_proj, o_proj]\neval_sample_packing: true\n" +
        "special_tokens:\n  pad_token: \"<|end_of_text|>\"\n")]
    [InlineData("model_type: MistralForCausalLM\ntokenizer_type: LlamaTokenizer\nsequence_len: 8192\nlora_target_linear: true\n" +
        "lora_target_modules:\n  - gate_proj\n  - down_proj\nspecial_tokens:\n")]
    public void Axolotl_examples_are_read_with_notes_only(string special)
    {
        var (config, notes) = Read("""
            base_model: NousResearch/Llama-3.2-1B
            load_in_8bit: false
            load_in_4bit: true
            datasets:
              - path: teknium/GPT4-LLM-Cleaned
                type: alpaca
            dataset_prepared_path: last_run_prepared
            val_set_size: 0.1
            output_dir: ./outputs/qlora-out
            adapter: qlora
            lora_model_dir:
            sample_packing: true
            lora_r: 32
            lora_alpha: 16
            lora_dropout: 0.05
            wandb_project:
            wandb_entity:
            wandb_watch:
            wandb_name:
            wandb_log_model:
            gradient_accumulation_steps: 4
            micro_batch_size: 2
            num_epochs: 1
            optimizer: adamw_bnb_8bit
            lr_scheduler: cosine
            learning_rate: 0.0002
            bf16: auto
            tf32: false
            gradient_checkpointing: true
            resume_from_checkpoint:
            logging_steps: 1
            attn_implementation: flash_attention_2
            loss_watchdog_threshold: 5.0
            loss_watchdog_patience: 3
            warmup_ratio: 0.1
            evals_per_epoch: 4
            saves_per_epoch: 1
            weight_decay: 0.0

            """ + special);
        Assert.Equal("NousResearch/Llama-3.2-1B", config.BaseModel);
        Assert.Equal("teknium/GPT4-LLM-Cleaned", config.Datasets[0].Path);
        Assert.Contains(notes, note => note.StartsWith("attn_implementation is ignored: attention is always fused", StringComparison.Ordinal));
        Assert.DoesNotContain(notes, note => note.StartsWith("optimizer", StringComparison.Ordinal));
    }

    [Theory]
    [InlineData("adamw_torch_fused", "adamw_torch", false)]
    [InlineData("adamw_8bit", "adamw_bnb_8bit", false)]
    [InlineData("paged_adamw_32bit", "adamw_torch", true)]
    [InlineData("paged_adamw_8bit", "adamw_bnb_8bit", true)]
    public void Names_of_AdamW_are_read_as_the_one_of_as_many_bits(string name, string runs, bool noted)
    {
        var (config, notes) = Read(Minimal + $"optimizer: {name}\n");
        Assert.Equal(runs, config.Optimizer);
        Assert.Equal(noted ? [$"optimizer: {name} runs as {runs}: the optimizer's state stays on the device."] : [], notes);
    }

    [Theory]
    [InlineData("lora_r: eight", "expected a whole number of at least 1, got \"eight\"")]
    [InlineData("lora_r: 0", "expected a whole number of at least 1, got \"0\"")]
    [InlineData("lora_r: 99999999999", "expected a whole number of at least 1")]
    [InlineData("lora_r: [1]", "expected a whole number of at least 1, got a list")]
    [InlineData("lora_dropout: 1.0", "expected a number from 0 to 0.99, got \"1.0\"")]
    [InlineData("lora_dropout: .nan", "expected a number from 0 to 0.99")]
    [InlineData("weight_decay: Infinity", "expected a number of at least 0")]
    [InlineData("sample_packing: maybe", "expected true or false, got \"maybe\"")]
    [InlineData("optimizer: lion", "got \"lion\". Only AdamW")]
    [InlineData("lr_scheduler: polynomial", "expected constant, constant_with_warmup, linear or cosine, got \"polynomial\"")]
    [InlineData("lora_target_modules: q_proj", "expected a list of names such as [q_proj, v_proj], or all-linear, got \"q_proj\"")]
    [InlineData("special_tokens: none", "expected a group of keys")]
    [InlineData("output_dir: [a]", "expected the path of a file or folder, got a list")]
    [InlineData("output_dir: \"a\\0b\"", "expected the path of a file or folder")]
    [InlineData("chat_template: gemma", "expected tokenizer_default, chatml, llama3, alpaca or plain, got \"gemma\"")]
    [InlineData("bnb_config_kwargs: {bnb_4bit_quant_type: fp4}", "expected nf4, got \"fp4\"")]
    [InlineData("lora_modules_to_save: [lm_head]", "Axolotl's `lora_modules_to_save` is not supported")]
    [InlineData("peft_use_dora: true", "Axolotl's `peft_use_dora` is not supported: use plain LoRA")]
    [InlineData("fsdp: [full_shard]", "Axolotl's `fsdp` is not supported")]
    [InlineData("fsdp_config: {a: 1}", "Axolotl's `fsdp_config` is not supported")]
    [InlineData("wandb_project: mine", "metrics.jsonl")]
    [InlineData("load_in_8bit: true", "use load_in_4bit: true with adapter: qlora")]
    [InlineData("lora_rank: 8", "Did you mean \"lora_r\"?")]
    [InlineData("larning_rate: 1", "there is no such key. Did you mean \"learning_rate\"?")]
    [InlineData("mirco_batch_size: 1", "Did you mean \"micro_batch_size\"?")]
    [InlineData("qqqqqq: 1", "there is no such key. Remove it.")]
    [InlineData("learning_rate: 1e-3", "the key stands twice; the first is on line 2")]
    [InlineData("load_in_4bit: true", "Set adapter: qlora")]
    [InlineData("val_set_size: 1.5", "expected a fraction below 1 or a whole number, got 1.5")]
    [InlineData("eval_steps: 5", "there is nothing to validate on")]
    [InlineData("early_stopping_patience: 5", "Axolotl's `early_stopping_patience` is not supported")]
    [InlineData("adapter: lora", "lora needs layers to adapt")]
    [InlineData("a: &x 1", "an anchor (&name) is not supported")]
    [InlineData("a: *x", "an alias (*name) is not supported")]
    [InlineData("? [a]\n: b", "a key is a list or a group")]
    [InlineData("seed: [1", "not valid YAML")]
    public void Mistake_is_a_problem_with_its_line(string line, string message)
    {
        var problem = Problem(Minimal + line);
        Assert.Contains(message, problem.Message, StringComparison.Ordinal);
        Assert.InRange(problem.Line, 6, 7);
    }

    [Theory]
    [InlineData("warmup_steps: 5\nwarmup_ratio: 0.1", "contradicts warmup_ratio")]
    [InlineData("output_dir: ./model/", "is also output_dir, where the trained model would replace it")]
    [InlineData("output_dir: sub/../model\nadapter: lora\nlora_target_linear: true", "is also output_dir, where adapter, log and checkpoints would lie among the model's files")]
    [InlineData("output_dir: there\nadapter: lora\nlora_target_linear: true\nrl: dpo\nreference_model_dir: there", "reference_model_dir: it is also output_dir")]
    [InlineData("output_dir: there\nadapter: lora\nlora_target_linear: true\nrl: ppo\nrewards:\n  - model: there", "rewards.0.model: it is also output_dir")]
    [InlineData("save_steps: 5\nsaves_per_epoch: 1", "contradicts saves_per_epoch")]
    [InlineData("adapter: lora\nlora_target_linear: true\nload_in_4bit: true", "Set adapter: qlora")]
    [InlineData("adapter: qlora\nlora_target_linear: true\nload_in_4bit: false", "false contradicts adapter: qlora")]
    [InlineData("test_datasets:\n  - {path: a.json, type: alpaca}\nval_set_size: 0.1", "contradicts val_set_size")]
    [InlineData("eval_steps: 5\nevals_per_epoch: 1\nval_set_size: 10", "contradicts evals_per_epoch")]
    public void Contradiction_names_both_keys(string lines, string message) => Assert.Contains(message, Problem(Minimal + lines).ToString(), StringComparison.Ordinal);

    [Theory]
    [InlineData("datasets:\n  - type: alpaca", 2, "datasets.0.path", "required")]
    [InlineData("datasets:\n  - path: a.jsonl", 2, "datasets.0.type", "required")]
    [InlineData("datasets:\n  - path: a.jsonl\n    type: sharegpt", 3, "datasets.0.type", "expected alpaca, completion, prompt_completion, chat_template or tokenized, got \"sharegpt\"")]
    [InlineData("datasets:\n  - path: a.jsonl\n    type: alpaca\n    shards: 4", 4, "datasets.0.shards", "give the path of a local JSONL")]
    [InlineData("datasets:\n  - path: a.jsonl\n    type: alpaca\n    feild: x", 4, "datasets.0.feild", "Did you mean \"field\"?")]
    [InlineData("datasets:\n  - path: a.jsonl\n    type: alpaca\n    split: test", 4, "datasets.0.split", "expected train")]
    [InlineData("datasets: a.jsonl", 1, "datasets", "expected a list of groups")]
    public void Mistake_inside_a_dataset_has_its_line_and_path(string datasets, int line, string key, string message)
    {
        var problem = Problem(datasets + "\nbase_model: m\nlearning_rate: 1e-4");
        Assert.Equal((line, key), (problem.Line, problem.Key));
        Assert.Contains(message, problem.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void All_problems_are_reported_at_once_in_the_order_of_lines()
    {
        var failure = Assert.Throws<ConfigException>(() => Read("lora_r: x\nnonsense: 1\nlearning_rate: -1\nlora_r: 5"));
        Assert.Equal(["base_model", "datasets", "lora_r", "nonsense", "learning_rate", "lora_r"], failure.Problems.Select(problem => problem.Key));
        Assert.Equal([0, 0, 1, 2, 3, 4], failure.Problems.Select(problem => problem.Line));
        Assert.Equal(6, failure.Message.Split('\n').Length);
        Assert.Contains($"{Path.Combine(folder, "run.yaml")}:3: learning_rate: expected a number above 0, up to 10, got", failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Adapter_may_be_replaced_by_its_continuation() =>
        Assert.EndsWith("there", Read(Minimal + "adapter: lora\nlora_model_dir: there\noutput_dir: there").Config.OutputDir, StringComparison.Ordinal);

    [Fact]
    public void Blank_and_switched_off_keys_count_as_absent() =>
        Assert.Empty(Read(Minimal + "adapter:\nfsdp: []\ndeepspeed: null\nwandb_project: ''\nload_in_8bit: false\nlora_modules_to_save: ~\n").Notes);

    [Fact]
    public void Lora_keys_without_an_adapter_give_a_note() =>
        Assert.Equal("lora_r is ignored: adapter is blank, so every weight is trained.", Assert.Single(Read(Minimal + "lora_r: 8").Notes));

    [Fact]
    public void Key_that_a_loaded_adapter_has_itself_gives_a_note() =>
        Assert.Equal("lora_dropout is ignored: the adapter in lora_model_dir has its own rank, scale, dropout and layers.",
            Assert.Single(Read(Minimal + "adapter: lora\nlora_model_dir: there\nlora_dropout: 0.1").Notes));

    [Fact]
    public void Relative_paths_start_at_the_files_folder_and_only_inputs_may_be_hub_names()
    {
        Directory.CreateDirectory(Path.Combine(folder, "models", "tiny"));
        const string rest = "output_dir: runs/one\nlearning_rate: 1e-4\ndatasets:\n  - {path: owner/data, type: alpaca}\n  - {path: data/a.jsonl, type: alpaca}\nbase_model: ";
        var config = Read(rest + "models/tiny").Config;
        Assert.Equal(Path.Combine(folder, "models", "tiny"), config.BaseModel);
        Assert.Equal(Path.Combine(folder, "runs", "one"), config.OutputDir);
        Assert.Equal(["owner/data", Path.Combine(folder, "data", "a.jsonl")], config.Datasets.Select(source => source.Path));
        Assert.Equal("owner/model", Read(rest + "owner/model").Config.BaseModel);
        Assert.Equal(Path.GetFullPath(Path.Combine(folder, "..", "model")), Read(rest + "../model").Config.BaseModel);
    }

    [Fact]
    public void Qlora_alone_means_4_bit() => Assert.True(Read(Minimal + "adapter: qlora\nlora_target_linear: true").Config.LoadIn4Bit);

    [Fact]
    public void Override_replaces_adds_and_reaches_into_lists()
    {
        var config = Read(Minimal, "seed=5", "datasets.0.path=b.jsonl", "datasets.1.path=c.jsonl", "datasets.1.type=completion",
            "adapter=lora", "lora_target_modules=[q_proj, k_proj]", "special_tokens.eos_token=</s>").Config;
        Assert.Equal(5, config.Seed);
        Assert.Equal(["b.jsonl", "c.jsonl"], config.Datasets.Select(source => Path.GetFileName(source.Path)));
        Assert.Equal(["q_proj", "k_proj"], config.LoraTargetModules);
        Assert.Equal("</s>", config.SpecialTokens.EosToken);
    }

    [Fact]
    public void Override_alone_can_hold_the_whole_configuration() =>
        Assert.Equal("c.jsonl", Path.GetFileName(Read("", "base_model=m", "learning_rate=1e-4", "datasets.0.path=c.jsonl", "datasets.0.type=completion").Config.Datasets[0].Path));

    [Theory]
    [InlineData("lora_r=x", "--set lora_r=x: lora_r: expected a whole number")]
    [InlineData("lora_rr=8", "--set lora_rr=8: lora_rr: there is no such key. Did you mean \"lora_r\"?")]
    [InlineData("seed", "--set seed: expected key=value")]
    [InlineData("=5", "expected key=value")]
    [InlineData("datasets.7.path=a", "there is no such place")]
    [InlineData("seed.x=a", "seed: expected a whole number")]
    [InlineData("datasets.0.path.x=a", "there is no such place")]
    [InlineData("seed=[", "not valid YAML")]
    public void Override_that_is_wrong_is_named(string assignment, string message) =>
        Assert.Contains(message, Problem(Minimal, assignment).ToString(), StringComparison.Ordinal);

    [Theory]
    [InlineData("- a\n- b", "got a list")]
    [InlineData("hello", "got \"hello\"")]
    [InlineData("a: 1\n---\nb: 2", "a second document")]
    public void File_that_is_no_group_of_keys_is_a_problem(string yaml, string message) =>
        Assert.Contains(Problems(yaml), problem => problem.Message.Contains(message, StringComparison.Ordinal));

    [Fact]
    public void Deep_nesting_is_a_problem_not_a_stack_overflow() =>
        Assert.Contains("nested too deeply", Problem("a: " + new string('[', 100_000)).Message, StringComparison.Ordinal);

    [Fact]
    public void Absent_file_is_a_problem() =>
        Assert.Contains("cannot be read", Assert.Throws<ConfigException>(() => ConfigReader.Read(Path.Combine(folder, "none.yaml"), [])).Message, StringComparison.Ordinal);

    [Fact]
    public void Oversized_file_is_a_problem() =>
        Assert.Contains("expected a configuration of at most", Problem(Minimal + new string('#', 1 << 20)).Message, StringComparison.Ordinal);

    [Fact]
    public void Written_configuration_reads_back_as_the_same()
    {
        string yaml = ConfigWriter.ToYaml(Read(Everything).Config);
        var (again, notes) = Read(yaml);
        Assert.Empty(notes);
        Assert.Equal(yaml, ConfigWriter.ToYaml(again));
        Assert.Contains("  - path: ", yaml, StringComparison.Ordinal);
        Assert.Contains("lora_r: 16\n", yaml, StringComparison.Ordinal);
    }

    [Fact]
    public void Written_text_survives_any_characters() => Gen.String.Where(text => !text.Any(char.IsSurrogate)).Sample(text =>
    {
        var config = Read(Minimal).Config with { Adapter = "lora", SpecialTokens = new SpecialTokensConfig { EosToken = text + "." }, LoraTargetModules = [text + "a"] };
        var again = Read(ConfigWriter.ToYaml(config)).Config;
        Assert.Equal(text + ".", again.SpecialTokens.EosToken);
        Assert.Equal(text + "a", Assert.Single(again.LoraTargetModules));
    }, iter: 200, threads: 1);

    [Fact]
    public void Every_key_is_in_one_list_and_snake_case()
    {
        string[] names = [.. RunKeys.Table.Honoured.Select(key => key.Name), .. AxolotlKeys.Ignored.Keys, .. AxolotlKeys.Unsupported.Keys];
        Assert.Equal(names.Length, names.Distinct().Count());
        Assert.All(names, name => Assert.Matches("^[a-z][a-z0-9_]*\\*?$", name));
    }

    [Fact]
    public void Mutated_yaml_is_read_or_refused_with_problems() =>
        Mutations.Of(Everything).Sample(text =>
        {
            try
            {
                Read(text);
            }
            catch (ConfigException refused)
            {
                Assert.NotEmpty(refused.Problems);
            }
        }, iter: 1_000, threads: 1);

    [Theory]
    [InlineData("", "", 0)]
    [InlineData("abc", "", 3)]
    [InlineData("ab", "ba", 1)]
    [InlineData("kitten", "sitting", 3)]
    [InlineData("ca", "abc", 3)] // optimal string alignment edits no part twice
    public void Distance_counts_edits_and_swaps(string a, string b, int distance)
    {
        Assert.Equal(distance, Spelling.Distance(a, b));
        Assert.Equal(distance, Spelling.Distance(b, a));
    }
}
