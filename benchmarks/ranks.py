"""Tables cut over ranks beside whole ones, both under DistributedDataParallel on gloo: bytes of tables, seconds a step.

Run: PYTHONPATH=src torchrun --standalone --nproc_per_node=2 benchmarks/ranks.py; steps take turns, medians are compared.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch
from peft import get_peft_model
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from tinyengram import EngramConfig
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.processes import leave_process_group

VOCABULARY, BATCH, LENGTH, STEPS = 8000, 4, 128, 15


def made(tables_on: Any) -> tuple[Any, DistributedDataParallel, torch.optim.Optimizer]:
    """A random base of four blocks with two memories of 20 million numbers, wrapped, and its optimizer."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
        )
    )
    config = EngramConfig(
        task_type="CAUSAL_LM",
        layer_ids=[1, 2],
        max_ngram_size=3,
        engram_vocab_size=[40000, 40000],
        n_embed_per_ngram=256,
        n_head_per_ngram=4,
        tables_on=tables_on,
    )
    model = get_peft_model(base, config)
    optimizer = row_sparse_adamw(model, 1e-2)  # First: DistributedDataParallel must know which gradients are sparse.
    return model, DistributedDataParallel(model), optimizer


def step(wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer) -> float:
    """Seconds of one step on random ids."""
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
    distributed.barrier()
    begun = time.perf_counter()
    wrapped(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - begun


def main() -> None:
    distributed.init_process_group("gloo")
    ways = {tables_on: made(tables_on) for tables_on in ("device", "ranks")}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    torch.manual_seed(distributed.get_rank())
    for turn in range(STEPS + 2):
        for name, (_, wrapped, optimizer) in ways.items():
            taken = step(wrapped, optimizer)
            if turn >= 2:
                seconds[name].append(taken)
    if distributed.get_rank() == 0:
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        tables = {
            name: sum(p.nbytes for key, p in model.named_parameters() if key.endswith("tables.weight"))
            for name, (model, _, _) in ways.items()
        }
        print(json.dumps({"bytes": tables, "seconds": medians, "ratio": medians["ranks"] / medians["device"]}))
    distributed.barrier()
    leave_process_group()


if __name__ == "__main__":
    main()
