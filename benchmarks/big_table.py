"""Tables of hundreds of millions of parameters: peak memory, file, and the cost of tables on the host.

Run by benchmarks/memory.py: python benchmarks/big_table.py train|host [STEPS]; prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import median_seconds, peak_memory
from peft import get_peft_model
from safetensors import safe_open

from tinyengram import EngramConfig, hardware
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.sources import load_base

BATCH, LENGTH = 4, 128
HEADS, ORDERS, LAYERS, ROW_WIDTH = 16, 3, 2, 64


def config(parameters: int, **options: Any) -> EngramConfig:
    """Two memories with about so many table parameters together."""
    return EngramConfig(
        task_type="CAUSAL_LM",
        layer_ids=[1, 2],
        max_ngram_size=ORDERS + 1,
        engram_vocab_size=[parameters // (LAYERS * ORDERS * HEADS * ROW_WIDTH)] * ORDERS,
        n_embed_per_ngram=HEADS * ROW_WIDTH,
        n_head_per_ngram=HEADS,
        **options,
    )


def table_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith("tables.weight"))


def train(steps: int) -> dict[str, float]:
    """Train 370 million table parameters and save them."""
    torch.manual_seed(0)
    model = get_peft_model(load_base("smollm2-135m-instruct").model, config(370_000_000)).train()
    optimizer = row_sparse_adamw(model, 1e-3)
    # As training data do, the batches share most of their text: a template and a set of tools.
    shared = torch.randint(3, 49_000, (BATCH, 3 * LENGTH // 4))
    for _ in range(steps):
        ids = torch.cat([shared, torch.randint(3, 49_000, (BATCH, LENGTH - shared.shape[1]))], dim=1)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peak = peak_memory()
    sizes = {"tables": 0, "trained": 0, "rest": 0}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "adapter_model.safetensors", "pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                tensor = file.get_tensor(name)
                sizes["tables" if ".tables." in name else "rest"] += tensor.nbytes
                sizes["trained"] += tensor.nbytes if name.endswith("trained_values") else 0
    return {"parameters": table_parameters(model), "peak": peak, **sizes}


def host() -> dict[str, float]:
    """A forward pass with a billion table parameters on the host over the same without any memory."""
    ids = torch.randint(3, 49_000, (BATCH, LENGTH))
    models: dict[str, Any] = {"base": load_base("smollm2-135m-instruct").model}
    for name, parameters, where in (("small", 10_000_000, "cpu"), ("billion", 1_000_000_000, "cpu")):
        adapted = get_peft_model(load_base("smollm2-135m-instruct").model, config(parameters, tables_on=where))
        for module in adapted.modules():
            if hasattr(module, "on_host"):
                module.weight.data.fill_(0.01)  # So that every page is there.
        models[name] = adapted.eval()

    def forward(model: Any) -> Any:
        def call() -> object:
            with torch.inference_mode():
                return model(input_ids=ids, use_cache=False)

        return call

    seconds = median_seconds({name: forward(model) for name, model in models.items()}, 5)
    return {"parameters": table_parameters(models["billion"]), **seconds}


if __name__ == "__main__":
    hardware.keep_freed_memory()
    print(json.dumps(train(int(sys.argv[2])) if sys.argv[1] == "train" else host()))
