"""The operations of `perf device` in PyTorch, timed the same way on the same GPU, as rows of the same CSV file.

Usage: python3 peers.py FILE.csv    (needs torch with CUDA)
"""
import csv, datetime, sys, time
import torch
import torch.nn.functional as F

SAMPLES, SAMPLE_SECONDS, BEYOND_CACHES = 25, 4e-3, 200 << 20
MODELS = {  # tokens, width, hidden, heads, key/value heads, head width, vocabulary
    "smollm2-135m": (2048, 576, 1536, 9, 3, 64, 49152),
    "llama3.1-8b": (2048, 4096, 14336, 32, 8, 128, 128256),
}


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
        def run():
            torch.autograd.grad(F.cross_entropy(F.linear(x, w).float(), targets), x)
        return run

    x, wide = 2 * n * d, 2 * n * f
    yield "RmsNormForward", 2 * x, 0, rms_norm
    yield "SwiGluForward", 3 * wide, 0, swiglu
    yield "AttentionForward", 2 * n * (2 * h + 2 * g) * c, 2 * n * n * h * c, attention
    yield "AttentionBackward", 2 * n * (4 * h + 4 * g) * c, 5 * n * n * h * c, attention_backward
    for suffix, rows in (("", n), (", decode x1", 1), (", decode x16", 16)):
        yield "LinearForward BF16" + suffix, 2 * f * d + 2 * rows * (d + f), 2 * rows * f * d, linear(rows)
    yield "TokenLogProbs", 4 * v * d + 2 * x, 4 * n * d * v, cross_entropy


def seconds(runs, repeats):
    torch.cuda.synchronize()
    start = time.perf_counter()
    for i in range(repeats):
        runs[i % len(runs)]()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def main(path):
    device = torch.cuda.get_device_name()
    with open(path, "a", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        for model, shape in MODELS.items():
            for name, moved, flops, make in cases(*shape):
                copies = max(1, min(16, BEYOND_CACHES // moved))
                runs = [make() for _ in range(copies)]
                seconds(runs, 2 * copies)
                repeats = max(1, min(2000, int(SAMPLE_SECONDS / seconds(runs, copies))))
                times = sorted(seconds(runs, repeats) for _ in range(SAMPLES))
                p20, p50, p80 = (1e6 * times[SAMPLES * k // 10] for k in (2, 5, 8))
                print(f"{model} {name:32} {p50:10.1f} us")
                rows.writerow([datetime.date.today(), "", device, f"torch {torch.__version__}", name, model, "BF16", moved, flops, f"{p20:.2f}", f"{p50:.2f}", f"{p80:.2f}"])
                del runs
                torch.cuda.empty_cache()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
