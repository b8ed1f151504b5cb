"""PyTorch beside the operations of `perf device` and the step of `perf device-step`: timed alike on the same GPU, as rows of the same CSV files.

Usage: python3 peers.py DEVICE.csv STEPS.csv    (torch 2.6 or newer with CUDA; the step needs transformers and peft too, and is left out without)
"""
import csv, datetime, itertools, sys, time
import torch
import torch.nn.functional as F

SAMPLES, SAMPLE_SECONDS, BEYOND_CACHES = 25, 4e-3, 200 << 20
MODELS = {  # tokens, width, hidden, heads, key/value heads, head width, vocabulary
    "smollm2-135m": (2048, 576, 1536, 9, 3, 64, 49152),
    "llama3.1-8b": (2048, 4096, 14336, 32, 8, 128, 128256),
}
STEP_MODELS = {  # width, hidden, layers, heads, key/value heads, vocabulary, RoPE base, tied
    "smollm2-135m": (576, 1536, 30, 9, 3, 49152, 100000.0, True),
    "llama3.2-1b": (2048, 8192, 16, 32, 8, 128256, 500000.0, True),
}
OPERATIONS_HEADER = "date,commit,device,who,operation,shape,dtype,bytes,flops,p20_us,p50_us,p80_us"  # as the benchmarks begin these files
STEPS_HEADER = "date,commit,device,who,shape,tokens,step_ms,tokens_per_s,decode_tokens_per_s,launches,allocations,peak_bytes"
STEP_TOKENS, STEP_SEQUENCES, STEP_ROUNDS = 2048, 4, 15


def cases(n, d, f, h, g, c, v):
    """Yields name, fewest bytes, flops, and a function that makes inputs and returns what runs once."""
    def new(*shape):
        return torch.randn(shape, device="cuda", dtype=torch.bfloat16)

    def rms_norm():
        x, w = new(n, d), new(d)
        return lambda: F.rms_norm(x, (d,), w, 1e-5)

    def swiglu():
        gate, up = new(n, f), new(n, f)
        return lambda: F.silu(gate) * up

    def linear(rows):
        def make():
            x, w = new(rows, d), new(f, d)
            return lambda: F.linear(x, w)
        return make

    def attention():
        q, k, val = new(1, h, n, c), new(1, g, n, c), new(1, g, n, c)
        return lambda: F.scaled_dot_product_attention(q, k, val, is_causal=True, enable_gqa=True)

    def attention_backward():
        q, k, val = (t.requires_grad_() for t in (new(1, h, n, c), new(1, g, n, c), new(1, g, n, c)))
        y, dy = F.scaled_dot_product_attention(q, k, val, is_causal=True, enable_gqa=True), new(1, h, n, c)
        return lambda: torch.autograd.grad(y, (q, k, val), dy, retain_graph=True)

    def cross_entropy():
        x, w = new(n, d).requires_grad_(), new(v, d)
        targets = torch.randint(v, (n,), device="cuda")
        return lambda: torch.autograd.grad(F.cross_entropy(F.linear(x, w).float(), targets), x)

    x, wide, visible = 2 * n * d, 2 * n * f, n * (n + 1) // 2
    yield "RmsNormForward", 2 * x, 0, rms_norm
    yield "SwiGluForward", 3 * wide, 0, swiglu
    yield "AttentionForward", 2 * n * (2 * h + 2 * g) * c, 4 * visible * h * c, attention
    yield "AttentionBackward", 2 * n * (4 * h + 4 * g) * c, 10 * visible * h * c, attention_backward
    for suffix, rows in (("", n), (", decode x16", 16), (", decode x1", 1)):
        yield "LinearForward BF16" + suffix, 2 * f * d + 2 * rows * (d + f), 2 * rows * f * d, linear(rows)
    yield "TokenLogProbs", 2 * v * d + 2 * x, 4 * n * d * v, cross_entropy


def timer(runs):
    """Returns what runs a number of times and gives the seconds of one run. The runs take turns from call to call, so that no input is still in a cache."""
    turns = itertools.cycle(runs)

    def seconds(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            next(turns)()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / repeats

    return seconds


def time_operations(write):
    for model, shape in MODELS.items():
        for name, moved, flops, make in cases(*shape):
            copies = max(1, min(16, BEYOND_CACHES // moved))
            try:
                runs = [make() for _ in range(copies)]
                seconds = timer(runs)
                seconds(2 * copies)
                repeats = max(1, min(2000, int(SAMPLE_SECONDS / seconds(copies))))
                times = sorted(seconds(repeats) for _ in range(SAMPLES))
            except (RuntimeError, TypeError) as problem:  # no memory, or no such form in this version
                print(f"{model} {name}: left out, {problem}")
                runs = seconds = None
                torch.cuda.empty_cache()
                continue
            p20, p50, p80 = (1e6 * times[SAMPLES * k // 10] for k in (2, 5, 8))
            print(f"{model} {name:32} {p50:10.1f} us")
            write([f"torch {torch.__version__}", name, model, "BF16", moved, flops, f"{p20:.2f}", f"{p50:.2f}", f"{p80:.2f}"])
            del runs, seconds
            torch.cuda.empty_cache()


def time_steps(write):
    """LoRA of rank 16 on all linear layers of a bfloat16 model with random weights: dense, where `perf device-step` reads NF4."""
    import peft, transformers
    for name, (width, hidden, layers, heads, groups, vocabulary, base, tied) in STEP_MODELS.items():
        config = transformers.LlamaConfig(
            hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=groups, vocab_size=vocabulary,
            max_position_embeddings=8192, rms_norm_eps=1e-5, rope_theta=base, tie_word_embeddings=tied, use_cache=False, attn_implementation="sdpa")
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device("cuda"):
                model = transformers.LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(default)
        model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
        ids = torch.randint(vocabulary, (STEP_SEQUENCES, STEP_TOKENS // STEP_SEQUENCES), device="cuda")

        def step():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):  # peft keeps adapters in float32
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            if not torch.isfinite(loss).item():
                raise RuntimeError(f"{name}: the loss is {loss.item()}; a wrong step is not timed")

        torch.cuda.reset_peak_memory_stats()
        seconds = timer([step])
        seconds(3)
        median = sorted(seconds(1) for _ in range(STEP_ROUNDS))[STEP_ROUNDS // 2]
        who = f"torch {torch.__version__} + transformers {transformers.__version__} + peft {peft.__version__}"
        print(f"{name} LoRA step over dense bf16: {1e3 * median:.1f} ms, {STEP_TOKENS / median:.0f} tokens/s")
        write([who, name, STEP_TOKENS, f"{1e3 * median:.3f}", f"{STEP_TOKENS / median:.1f}", "", "", "", torch.cuda.max_memory_allocated()])
        del model, trained, optimizer, step, seconds
        torch.cuda.empty_cache()


def main(operations, steps):
    origin = [datetime.date.today(), "", torch.cuda.get_device_name()]
    for path, header, measure in ((operations, OPERATIONS_HEADER, time_operations), (steps, STEPS_HEADER, time_steps)):
        with open(path, "a", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            if file.tell() == 0:
                rows.writerow(header.split(","))

            def write(row):
                rows.writerow(origin + row)
                file.flush()

            try:
                measure(write)
            except ImportError as problem:
                print(f"{measure.__name__}: left out, {problem}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
