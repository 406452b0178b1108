"""A model that lies on several devices, or partly on the host; and tensors made where they are used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.device.agreement import agree
from tests.device.conftest import MEMORIES, memory_of
from tests.device.test_decoding import one_by_one
from tests.memory.tiny import full, generate, greedy_by_hand, stir, tiny_config, tiny_model
from tinyengram import EngramConfig, collect_ngrams
from tinyengram.memory.optim import row_sparse_adamw

pytestmark = pytest.mark.device
ROOT = Path(__file__).parent.parent.parent


def options_of(kind: str, ids: torch.Tensor) -> dict[str, Any]:
    known = {"ngrams": collect_ngrams(ids.tolist(), orders=(2, 3))} if kind == "exact" else {}
    return {**MEMORIES[kind], **known}


def uses(model: Any, ids: torch.Tensor) -> None:
    """It reads, decodes and learns where it is."""
    from transformers import DynamicCache

    model.eval()
    agree(model, lambda one: one_by_one(one, ids, DynamicCache(config=one.config)), lambda one: full(one, ids))
    assert torch.equal(generate(model, ids[:, :8]), greedy_by_hand(model, ids[:, :8]))


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_base_that_is_brought_from_the_host_block_by_block(
    device: torch.device, ids: torch.Tensor, kind: str
) -> None:
    base = tiny_model()
    cpu_offload(base, execution_device=device)
    model = get_peft_model(base, tiny_config(**options_of(kind, ids)))
    stir(model)
    here = get_peft_model(tiny_model(), tiny_config(**options_of(kind, ids)))
    stir(here)
    torch.testing.assert_close(full(model.eval(), ids).cpu(), full(here.eval(), ids.cpu()), atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_memory_that_is_brought_from_the_host(device: torch.device, ids: torch.Tensor, kind: str) -> None:
    model = memory_of(kind)
    cpu_offload(model, execution_device=device)
    torch.testing.assert_close(full(model, ids).cpu(), full(memory_of(kind), ids.cpu()), atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("given", ["auto", "split"])
def test_a_base_on_several_devices(device: torch.device, tmp_path: Path, ids: torch.Tensor, kind: str, given) -> None:
    if device.type == "cpu" or torch.accelerator.device_count() < 2:
        pytest.skip("a base on several devices: needs two accelerators")
    tiny_model().save_pretrained(tmp_path / "base")
    first, second = (f"{device.type}:{at}" for at in (0, 1))
    parts = {"model.embed_tokens": first, "model.layers.0": first, "model.layers.1": first, "model.rotary_emb": first}
    parts |= {"model.layers.2": second, "model.layers.3": second, "model.norm": second, "lm_head": second}
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map="auto" if given == "auto" else parts, dtype=torch.float32
    )
    model = get_peft_model(base, tiny_config(**options_of(kind, ids)))
    stir(model)
    uses(model, ids.to(first))
    here = get_peft_model(tiny_model(), tiny_config(**options_of(kind, ids)))
    stir(here)
    wanted = full(here.eval(), ids.cpu())
    for where in ("cpu", first):  # accelerate brings ids to where they are needed.
        torch.testing.assert_close(full(model, ids.to(where)).cpu(), wanted, atol=5e-4, rtol=1e-4)
    optimizer = row_sparse_adamw(model.train(), 1e-3)
    model(input_ids=ids.to(first), labels=ids.to(first), use_cache=False).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("kind", MEMORIES)
def test_tables_in_host_memory(device: torch.device, ids: torch.Tensor, kind: str, tmp_path: Path) -> None:
    if "tables_on" not in {option.name for option in fields(EngramConfig)}:
        pytest.skip("tables in host memory: this version has no tables_on")
    model, whole = memory_of(kind, tables_on="cpu").to(device), memory_of(kind).to(device)
    places = {name.endswith("tables.weight"): p.device.type for name, p in model.named_parameters()}
    assert places == {True: "cpu", False: device.type}
    assert torch.equal(full(model, ids), full(whole, ids))
    uses(model, ids)
    model.save_pretrained(tmp_path)
    config = EngramConfig.from_pretrained(str(tmp_path), tables_on="cpu", inference_mode=True)
    again = PeftModel.from_pretrained(tiny_model().to(device), tmp_path, config=config).eval()
    assert torch.equal(full(again, ids), full(whole, ids))
    optimizer = row_sparse_adamw(model.train(), 1e-2)
    losses = []
    for _ in range(4):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.smoke
def test_nothing_is_made_in_the_wrong_place_and_nothing_is_waited_for() -> None:
    """On a pretended device, so on every machine."""
    if not hasattr(torch._C, "_acc"):
        pytest.skip("a pretended device: this torch cannot be told of one")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-m", "tests.device.pretend"], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    for name, error in found.items():
        assert (error is not None) == ("finds" in name), f"{name}: {error}"
