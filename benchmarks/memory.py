"""What Engram costs, as ratios against a named peer in the same process (medians; SmolLM2-135M, batch 4 x 128).

Beside each figure stands the limit that it is to keep, where there is one.

Run: make bench
"""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import graphs, median_seconds, operations
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig

from tinyengram import EngramConfig, collect_ngrams, hardware
from tinyengram.host import cache_argument
from tinyengram.memory.adamw import RowSparseAdamW
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.ngrams import hash_multipliers, hashed_rows, head_sizes
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.sources import load_base

REPEATS = 7
BATCH, LENGTH = 4, 128
NEW_TOKENS = 32
CONTEXTS = (128, 8192)
STEPS = 200  # Of each context; a step adds a token to it.
SMOLLM2_CACHE_BYTES = 30 * 2 * 3 * 64 * 4  # A token: blocks, keys and values, heads, width, float32.
LAST_BLOCKS = [14, 20, 26]
CONFIGS: dict[str, dict[str, Any]] = {
    "hashed 1-4": {"layer_ids": [1, 2, 3, 4]},
    "exact 1-4": {"layer_ids": [1, 2, 3, 4], "memory": "exact", "n_embed_per_ngram": 256},
    "exact 14,20,26": {"layer_ids": LAST_BLOCKS, "memory": "exact", "n_embed_per_ngram": 256},
}


def models(ids: torch.Tensor) -> dict[str, Any]:
    """The base and its adapted copies, each with weights of its own; a tenth of the positions ends a known n-gram."""
    known = collect_ngrams(ids[:, : LENGTH // 10].tolist(), orders=(2, 3, 4))
    configs: dict[str, Any] = {
        "LoRA": LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        "LoRA, dropout 0.05": LoraConfig(
            r=16, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    }
    for name, options in CONFIGS.items():
        ngrams = known if options.get("memory") == "exact" else None
        configs[name] = EngramConfig(task_type="CAUSAL_LM", ngrams=ngrams, **options)
    adapted = {
        name: get_peft_model(load_base("smollm2-135m-instruct").model, config).eval()
        for name, config in configs.items()
    }
    return {"base": load_base("smollm2-135m-instruct").model, **adapted}


def forward(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=False)

    return call


def projections(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    """The two matrix products of each memory, which no other way of computing it would spare; of the base, a forward.

    Of an exact memory at the tenth of the places where it knows an n-gram.
    """
    memories = [module for module in model.modules() if isinstance(module, EngramMemory)]
    if not memories:
        return forward(model, ids)
    places = ids.numel() // 10 if memories[0].unknown_row is not None else ids.numel()
    found = torch.randn(places, memories[0].key_proj.in_features)

    def call() -> object:
        with torch.inference_mode():
            return [projection(found) for one in memories for projection in (one.key_proj, one.value_proj)]

    return call


def training_step(model: Any, ids: torch.Tensor) -> Callable[[], object]:
    model.train()
    optimizer = row_sparse_adamw(model, 0.0)

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


def long_context(options: dict[str, Any]) -> tuple[float, dict[int, float], float]:
    """What a memory costs a decoding step, and keeps on the cache, behind a short and behind a long context.

    The base is as wide as SmolLM2-135M, but has no more blocks than memories and they do next to nothing, so that what
    a memory adds does not drown in them, nor its weights fall out of the processor's cache.

    Returns:
        Milliseconds that it adds to a step behind ``CONTEXTS[0]`` tokens; the ratio to that for each of the others; and
        bytes beside the key-value cache of SmolLM2-135M behind the longest, as a share of it.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=576,
        intermediate_size=8,
        num_hidden_layers=len(options["layer_ids"]),
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2 * CONTEXTS[-1],
        pad_token_id=0,
    )
    ids = torch.randint(3, 1000, (1, CONTEXTS[-1]))
    known = collect_ngrams(ids[:, : CONTEXTS[-1] // 10].tolist(), orders=(2, 3, 4))
    ngrams = known if options.get("memory") == "exact" else None
    options = {**options, "layer_ids": list(range(config.num_hidden_layers))}
    base = AutoModelForCausalLM.from_config(config).eval()
    adapted = copy.deepcopy(base)
    adapted = get_peft_model(adapted, EngramConfig(task_type="CAUSAL_LM", ngrams=ngrams, **options)).eval()
    steps: dict[str, Callable[[], object]] = {}
    share = 0.0
    for context in CONTEXTS:
        for name, model in (("base", base), ("adapted", adapted)):
            cache = DynamicCache(config=config)
            for part in ids[:, :context].split(512, dim=1):
                one_step(model, part, cache)()
            steps[f"{name}, {context}"] = one_step(model, ids[:, :1], cache)
            if name == "adapted":  # Pickled, a tensor is all memory that it holds.
                share = len(pickle.dumps(cache.layers[-1])) / (context * SMOLLM2_CACHE_BYTES)
    seconds = median_seconds(steps, STEPS)
    first, *others = [1000 * (seconds[f"adapted, {n}"] - seconds[f"base, {n}"]) for n in CONTEXTS]
    return first, {n: added / first for n, added in zip(CONTEXTS[1:], others, strict=True)}, share


def one_step(model: Any, ids: torch.Tensor, cache: Any) -> Callable[[], object]:
    def call() -> object:
        with torch.inference_mode():
            return model(input_ids=ids, use_cache=True, logits_to_keep=1, **{cache_argument(model): cache})

    return call


def row_indices() -> float:
    """Seconds for the rows of 8 x 1024 tokens in two layers, 3 orders of 8 heads."""
    window = torch.randint(0, 40_000, (8, 1024, 4))
    sizes = torch.tensor(list(head_sizes([1, 2], [500, 100, 100], 8).values()))
    multipliers = torch.stack([hash_multipliers(layer, 4, 40_000, 0) for layer in (1, 2)])
    largest = int(sizes.max())

    def call() -> object:
        return hashed_rows(window, multipliers, sizes, largest)

    return median_seconds({"rows": call}, 50)["rows"]


def table_growth() -> tuple[float, float]:
    """Seconds of a training step with 100 thousand rows and with 10 million, of width 16."""
    ids = torch.randint(3, 49_000, (BATCH, LENGTH))
    steps = {}
    for rows in (100_000, 10_000_000):
        config = EngramConfig(
            task_type="CAUSAL_LM",
            layer_ids=[1],
            max_ngram_size=2,
            engram_vocab_size=[rows // 16],
            n_embed_per_ngram=256,
            n_head_per_ngram=16,
        )
        steps[rows] = training_step(get_peft_model(load_base("smollm2-135m-instruct").model, config), ids)
    seconds = median_seconds({str(rows): step for rows, step in steps.items()}, REPEATS)
    return seconds["100000"], seconds["10000000"]


def touched_growth() -> tuple[float, float]:
    """Seconds of an optimizer's step on 3 thousand rows, 30 of them new: after 12 thousand and after 400 thousand.

    Of rows that were ever touched in a table of a million, of width 64.
    """
    steps = {}
    for touched in (12_000, 400_000):
        table = torch.nn.Parameter(torch.zeros(1_000_000, 64))
        optimizer = RowSparseAdamW([table], lr=1e-3)
        rows = torch.randperm(len(table))
        for part in rows[:touched].split(20_000):
            step_rows(optimizer, table, part)
        steps[str(touched)] = new_rows_step(optimizer, table, rows, touched)
    seconds = median_seconds(steps, STEPS)
    return seconds["12000"], seconds["400000"]


def new_rows_step(
    optimizer: RowSparseAdamW, table: torch.nn.Parameter, rows: torch.Tensor, touched: int
) -> Callable[[], object]:
    ends = itertools.count(touched + 30, 30)

    def call() -> object:
        end = next(ends)
        known = rows[end % 2 : end - 30 : (end - 30) // 3000]  # From all over the state, each once.
        step_rows(optimizer, table, torch.cat([known, rows[end - 30 : end]]))
        return None

    return call


def step_rows(optimizer: RowSparseAdamW, table: torch.nn.Parameter, rows: torch.Tensor) -> None:
    ones = torch.ones(len(rows), table.shape[1])
    table.grad = torch.sparse_coo_tensor(rows[None], ones, table.shape, check_invariants=False)
    optimizer.step()


def collecting() -> float:
    """Tokens a second on one core: two million in documents of a thousand, a fifth of each an answer."""
    likely = 1 / torch.arange(1, 30_001, dtype=torch.float)  # As words are, by Zipf's law.
    documents = (torch.multinomial(likely, 2_000_000, replacement=True) + 3).view(2000, 1000).tolist()
    masks = [[False] * 800 + [True] * 200] * len(documents)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        calls = {"collect": lambda: collect_ngrams(documents, masks, orders=(2, 3, 4))}
        seconds = median_seconds(calls, REPEATS)["collect"]
    finally:
        torch.set_num_threads(threads)
    return 2_000_000 / seconds


def big_table(*arguments: str) -> dict[str, float]:
    """Figures of ``big_table.py``, each in a process of its own."""
    script = Path(__file__).with_name("big_table.py")
    run = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def sgemm_limit(model: Any) -> float:
    """Tokens a second that training could reach if it were one matrix product of 4 FLOP a parameter and token."""
    matrix = torch.randn(2048, 2048)
    seconds = median_seconds({"sgemm": lambda: matrix @ matrix}, REPEATS)["sgemm"]
    return 2 * 2048**3 / seconds / (4 * sum(parameter.numel() for parameter in model.parameters()))


def main() -> None:
    hardware.keep_freed_memory()
    torch.manual_seed(0)
    ids = torch.randint(3, 49_000, (BATCH, LENGTH))
    every = models(ids)
    table = Table(title=f"{hardware.describe().processor}, {torch.get_num_threads()} threads, medians of {REPEATS}")
    for heading in ("figure", *CONFIGS, "limit", "over"):
        table.add_column(heading, justify="left" if heading in ("figure", "over") else "right")

    def compare(
        figure: str, limit: str, make: Callable[[Any, torch.Tensor], Callable[[], object]], *peers: str
    ) -> dict[str, float]:
        seconds = median_seconds({name: make(every[name], ids) for name in (*peers, *CONFIGS)}, REPEATS)
        for peer in peers:
            ratios = [f"{seconds[name] / seconds[peer]:.2f}" for name in CONFIGS]
            table.add_row(figure, *ratios, limit, f"{peer}, {1000 * seconds[peer]:.0f} ms")
        return seconds

    of_base = operations(every["base"], ids)
    counts = [(operations(every[name], ids) - of_base) / len(CONFIGS[name]["layer_ids"]) for name in CONFIGS]
    table.add_row("operations a memory layer, views left out", *[f"{count:.1f}" for count in counts], "30", "")
    compiled = [str(graphs(every[name], ids[:, :16])) for name in CONFIGS]
    table.add_row("compiled graphs a forward", *compiled, "1", f"LoRA, {graphs(every['LoRA'], ids[:, :16])}")
    compare("forward", "1.04", forward, "base")
    compare("projections alone, over the whole forward", "", projections, "base")
    compare(f"cached decoding of {NEW_TOKENS} tokens", "1.05", decoding, "base")
    seconds = compare("training step", "", training_step, "LoRA", "LoRA, dropout 0.05")
    limit = sgemm_limit(every["base"])
    efficiency = [f"{BATCH * LENGTH / seconds[name] / limit:.2f}" for name in CONFIGS]
    table.add_row("training tokens a second", *efficiency, "", f"sgemm limit, {limit:.0f} tokens/s")
    every.clear()
    long = [long_context(options) for options in CONFIGS.values()]
    growth = [f"{ratio[CONTEXTS[-1]]:.2f}" for _, ratio, _ in long]
    table.add_row(
        f"added time of a decoding step, context {CONTEXTS[-1]}",
        *growth,
        "",
        f"context {CONTEXTS[0]}, {', '.join(f'{first:.2f}' for first, _, _ in long)} ms",
    )
    shares = [f"{share:.2%}" for _, _, share in long]
    table.add_row(f"state beside the key-value cache at {CONTEXTS[-1]}", *shares, "", "SmolLM2-135M's, float32")

    def single(figure: str, value: str, limit: str = "", over: str = "") -> None:
        table.add_row(figure, value, "", "", limit, over)

    single("row indices, 8 x 1024 tokens, 2 layers", f"{1000 * row_indices():.2f} ms", "0.8 ms")
    single("collect_ngrams, tokens a second, one core", f"{collecting() / 1e6:.1f}M")
    few, many = table_growth()
    single("training step, 10M rows", f"{many / few:.2f}", "", f"100k rows, {1000 * few:.0f} ms")
    few, many = touched_growth()
    single("optimizer's step, 400k rows touched", f"{many / few:.2f}", "", f"12k, {1000 * few:.1f} ms")
    long_run, short_run, host = big_table("train", "60"), big_table("train", "2"), big_table("host")
    size = f"{long_run['parameters'] / 1e6:.0f}M table parameters"
    single(f"peak memory, {size}, 60 steps", f"{long_run['peak']:.2f} GiB", "2.6 GiB")
    for run in (short_run, long_run):
        share = run["trained"] / (4 * run["parameters"])
        over = f"trained rows, {run['trained'] / 1e6:.0f} MB; and {run['rest'] / 1e6:.0f} MB beside the tables"
        single(f"tables in a file, {share:.0%} of rows trained", f"{run['tables'] / run['trained']:.2f}", "1.5", over)
    single(
        f"forward, {host['parameters'] / 1e9:.1f}G table parameters on the host",
        f"{host['billion'] / host['small']:.2f}",
        "",
        f"10M, {1000 * host['small']:.0f} ms",
    )
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
