"""What Engram costs, as ratios against a named peer in the same process (medians; SmolLM2-135M, batch 4 x 128).

Run: make bench
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table

from tinyengram import EngramConfig, collect_ngrams, hardware
from tinyengram.memory.ngrams import hash_multipliers, hashed_rows, head_sizes
from tinyengram.sources import load_base

REPEATS = 7
BATCH, LENGTH = 4, 128
NEW_TOKENS = 32
HASHED: dict[str, Any] = {"layer_ids": [1, 2, 3, 4]}
EXACT: dict[str, Any] = {"layer_ids": [1, 2, 3, 4], "memory": "exact", "n_embed_per_ngram": 256}


def median_seconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median time of each call; the calls take turns, so that a noisy moment hits them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(REPEATS):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


def models(ids: torch.Tensor) -> dict[str, Any]:
    """The base and its adapted copies, each with weights of its own."""
    known = collect_ngrams(ids.tolist(), orders=(2, 3, 4))
    lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    configs = {
        "LoRA r16 all-linear": lora,
        "Engram hashed": EngramConfig(task_type="CAUSAL_LM", **HASHED),
        "Engram exact": EngramConfig(task_type="CAUSAL_LM", ngrams=known, **EXACT),
    }
    base = load_base("smollm2-135m-instruct").model
    adapted = {
        name: get_peft_model(load_base("smollm2-135m-instruct").model, config).eval()
        for name, config in configs.items()
    }
    return {"base": base, **adapted}


def forward(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False, logits_to_keep=1)

    return call


def training_step(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=0.0)

    def call() -> object:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return None

    return call


def decoding(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        return model.generate(
            input_ids=ids[:1],
            attention_mask=torch.ones_like(ids[:1]),
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
        )

    return call


def row_indices() -> float:
    """Seconds for the rows of 8 x 1024 tokens in two layers, 3 orders of 8 heads."""
    window = torch.randint(0, 40_000, (8, 1024, 4))
    sizes = head_sizes([1, 2], [500, 100, 100], 8)
    layers = [(hash_multipliers(layer, 4, 40_000, 0), torch.tensor(sizes[layer])) for layer in (1, 2)]

    def call() -> object:
        return [hashed_rows(window, multipliers, primes) for multipliers, primes in layers]

    return median_seconds({"rows": call})["rows"]


def main() -> None:
    hardware.keep_freed_memory()
    torch.manual_seed(0)
    ids = torch.randint(3, 49_000, (BATCH, LENGTH))
    every = models(ids)
    table = Table(title=f"{hardware.describe().processor}, {torch.get_num_threads()} threads, medians of {REPEATS}")
    for heading in ("figure", "Engram hashed", "Engram exact", "over"):
        table.add_column(heading, justify="left" if heading in ("figure", "over") else "right")

    def compare(figure: str, make: Callable[[Any, torch.Tensor], Callable[[], object]], peer: str) -> None:
        names = (peer, "Engram hashed", "Engram exact")
        seconds = median_seconds({name: make(every[name], ids) for name in names})
        ratios = [f"{seconds[name] / seconds[peer]:.2f}" for name in names[1:]]
        table.add_row(figure, *ratios, f"{peer}, {1000 * seconds[peer]:.0f} ms")

    compare("forward", forward, "base")
    compare(f"cached decoding of {NEW_TOKENS} tokens", decoding, "base")
    for model in every.values():
        model.train()
    compare("training step", training_step, "LoRA r16 all-linear")
    table.add_row("row indices, 8 x 1024 tokens, 2 layers", f"{1000 * row_indices():.2f} ms", "", "")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
