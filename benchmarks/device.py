"""What Engram costs on whatever accelerator is there: ratios against named peers in the same process, with limits.

Needs torch, transformers, PEFT and this repository. The base is a random Llama of SmolLM2-135M's shape. On a device
times are between events in its own queue; calls take turns, and medians are compared.

Run: make bench-device
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from tinyengram import EngramConfig, collect_ngrams
from tinyengram.host import cache_argument
from tinyengram.memory.ngrams import hash_multipliers, hashed_rows, head_sizes
from tinyengram.memory.optim import row_sparse_adamw

SMOLLM2_135M: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed 1-4": {},
    "exact 1-4": {"memory": "exact", "n_embed_per_ngram": 256},
}
# What we hold ourselves to, by figure; of ratios over the peer, or milliseconds.
LIMITS = {
    "forward": 1.15,
    "cached decoding": 1.30,
    "training step": 1.00,
    "peak memory, forward": 1.10,
    "peak memory, training": 1.00,
    "row indices": 1.0,
    "compiled forward": 1.20,
}
NEW_TOKENS = 32


class Clock:
    """Milliseconds of a call: between events on CUDA, else by the host's clock with the device waited for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def time(self, call: Callable[[], object]) -> float:
        self.wait()
        if self.device.type != "cuda":
            begun = time.perf_counter()
            call()
            self.wait()
            return 1000 * (time.perf_counter() - begun)
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)

    def medians(self, calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
        """Median milliseconds of each call after three that do not count; the calls take turns."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            for _ in range(3):
                call()
        for _ in range(repeats):
            for name, call in calls.items():
                times[name].append(self.time(call))
        return {name: statistics.median(values) for name, values in times.items()}

    def peak(self, call: Callable[[], object]) -> float:
        """MiB that a call has the device hold at most, with what was there before; CUDA only."""
        call()
        self.wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) / 2**20


def make_models(base: Any, ids: torch.Tensor) -> dict[str, Any]:
    """The base, a LoRA and the memories, each on weights of its own; a tenth of the positions ends a known n-gram."""
    known = collect_ngrams(ids[:, : ids.shape[1] // 10].tolist(), orders=(2, 3, 4))
    configs: dict[str, Any] = {
        "LoRA": LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    }
    for name, options in MEMORIES.items():
        ngrams = known if options.get("memory") == "exact" else None
        configs[name] = EngramConfig(task_type="CAUSAL_LM", layer_ids=[1, 2, 3, 4], ngrams=ngrams, **options)
    adapted = {name: get_peft_model(copy.deepcopy(base), config).eval() for name, config in configs.items()}
    for name in MEMORIES:  # Tables that were trained, so that nothing is skipped.
        for parameter_name, parameter in adapted[name].named_parameters():
            if parameter_name.endswith("tables.weight"):
                torch.nn.init.normal_(parameter.detach()[:-1], std=0.02)
    return {"base": base, **adapted}


def forward(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False)

    return call


def decoding(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    """A prompt and steps behind it, as ``generate`` takes them but without what it does around a step."""

    def call() -> object:
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            for part in (ids[:1], *[ids[:1, :1]] * NEW_TOKENS):
                model(input_ids=part, use_cache=True, logits_to_keep=1, **{cache_argument(model): cache})
        return cache

    return call


def training(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    model.train()
    optimizer = row_sparse_adamw(model, 0.0)

    def call() -> object:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return None

    return call


def row_indices(device: torch.device) -> Callable[[], object]:
    """Rows of 8 x 1024 tokens in two layers, 3 orders of 8 heads."""
    window = torch.randint(0, 40_000, (8, 1024, 4), device=device)
    sizes = head_sizes([1, 2], [500, 100, 100], 8)
    multipliers = torch.stack([hash_multipliers(layer, 4, 40_000, 0) for layer in sizes]).to(device)
    primes = torch.tensor(list(sizes.values()), device=device)
    largest = int(primes.max())

    def call() -> object:
        return hashed_rows(window, multipliers, primes, largest)

    return call


class Table:
    """Rows of figures with their limits, as Markdown."""

    def __init__(self) -> None:
        self.rows = [["figure", *MEMORIES, "over", "limit"], ["---", *["---:"] * len(MEMORIES), "---", "---:"]]
        self.beyond: list[str] = []

    def add(self, figure: str, values: list[float], over: str, unit: str = "") -> None:
        limit = LIMITS[figure]
        self.beyond += [f"{figure}: {value:.2f}{unit}, limit {limit:.2f}{unit}" for value in values if value > limit]
        cells = [f"{value:.2f}{unit}" for value in values] + [""] * (len(MEMORIES) - len(values))
        self._row([figure, *cells, over, f"{limit:.2f}{unit}"])

    def leave_out(self, figure: str, reason: str) -> None:
        self._row([figure, *["not measured"] * len(MEMORIES), reason, f"{LIMITS[figure]:.2f}"])

    def _row(self, cells: list[str]) -> None:
        """Shown at once: what was measured is known even where a run is stopped."""
        self.rows.append(cells)
        print(" | ".join(cells), file=sys.stderr, flush=True)

    def __str__(self) -> str:
        return "\n".join(f"| {' | '.join(row)} |" for row in self.rows)


def measure(device: torch.device, dtype: torch.dtype, sizes: tuple[int, int], repeats: int, base: Any) -> Table:
    clock, table = Clock(device), Table()
    ids = torch.randint(3, base.config.vocab_size, sizes)
    every = {name: model.to(device) for name, model in make_models(base.to(dtype), ids).items()}
    ids = ids.to(device)

    def compare(figure: str, make: Callable[[Any, torch.Tensor], Callable[[], object]], peer: str) -> None:
        calls = {name: make(every[name], ids) for name in (peer, *MEMORIES)}
        found = clock.medians(calls, repeats)
        table.add(figure, [found[name] / found[peer] for name in MEMORIES], f"{peer}, {found[peer]:.1f} ms")

    def compare_peaks(figure: str, make: Callable[[Any, torch.Tensor], Callable[[], object]], peer: str) -> None:
        if device.type != "cuda":
            table.leave_out(figure, f"needs CUDA, this is {device.type}")
            return
        found = {}
        for name in (peer, *MEMORIES):  # One at a time on the device, so that a peak is its own.
            for model in every.values():
                model.to("cpu")
            torch.cuda.empty_cache()
            found[name] = clock.peak(make(every[name].to(device), ids))
        for model in every.values():
            model.to(device)
        table.add(figure, [found[name] / found[peer] for name in MEMORIES], f"{peer}, {found[peer]:.0f} MiB")

    compare("forward", forward, "base")
    compare("cached decoding", decoding, "base")
    compare_peaks("peak memory, forward", forward, "base")
    if device.type == "cuda" and find_spec("triton") is None:
        table.leave_out("compiled forward", "needs triton")
    else:
        backend = "aot_eager" if device.type == "cpu" else "inductor"
        compare("compiled forward", lambda model, ids: forward(torch.compile(model, backend=backend), ids), "base")
    compare("training step", training, "LoRA")
    compare_peaks("peak memory, training", training, "LoRA")
    found = clock.medians({"rows": row_indices(device)}, max(repeats, 20))
    table.add("row indices", [found["rows"]], "8 x 1024 tokens, 2 layers", " ms")
    return table


def describe(device: torch.device) -> str:
    """Device, driver and versions, in one line."""
    name, driver = platform.processor() or platform.machine(), "none"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            driver = "unknown"
    libraries = ", ".join(f"{one} {version(one)}" for one in ("torch", "transformers", "peft"))
    cuda = f", CUDA {torch.version.cuda}" if torch.version.cuda else ""
    return f"{device.type}: {name}, driver {driver}{cuda}; {libraries}; Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="such as cuda:1 or cpu; else the accelerator, else the CPU")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="else bfloat16 on an accelerator")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--blocks", type=int, default=SMOLLM2_135M["num_hidden_layers"], help="fewer for a dry run")
    parser.add_argument("--out", type=Path, help="a Markdown file to write the table to")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a figure is beyond its limit")
    given = parser.parse_args()
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = torch.device(given.device or (found.type if found else "cpu"))
    dtype = getattr(torch, given.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**{**SMOLLM2_135M, "num_hidden_layers": given.blocks})).eval()
    table = measure(device, dtype, (given.batch, given.length), given.repeats, base)
    shape = f"SmolLM2-135M's shape, {given.blocks} blocks, {dtype}, batch {given.batch} x {given.length}"
    beyond = "\n".join(f"- beyond its limit: {one}" for one in table.beyond) or "Every figure is within its limit."
    page = f"{describe(device)}\n\n{shape}; medians of {given.repeats}, taking turns.\n\n{table}\n\n{beyond}\n"
    print(page)
    if given.out:
        given.out.write_text(page)
    return 1 if given.strict and table.beyond else 0


if __name__ == "__main__":
    sys.exit(main())
