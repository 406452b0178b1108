"""Cached is uncached on a device: greedy, beams, padding, static caches, compiled, replayed; and a step never waits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from tests.device.agreement import agree
from tests.device.conftest import memory_of
from tests.device.replays import Replays
from tests.memory.tiny import full, generate, greedy_by_hand, logits_of, on, some_ids

pytestmark = pytest.mark.device


def one_by_one(model: Any, ids: torch.Tensor, cache: Any, run: Any = None, prompt: int = 8) -> torch.Tensor:
    """Logits of a prompt read at once and of every token behind it in a step of its own, by ``run`` if given."""
    told, run = on(model, cache), model if run is None else run
    with torch.no_grad():
        parts = [model(input_ids=ids[:, :prompt], **told).logits]
        for at in range(prompt, ids.shape[1]):
            # What a replayed graph returned is written over by the next.
            parts.append(run(input_ids=ids[:, at : at + 1].clone(), **told).logits.clone())
    return torch.cat(parts, dim=1)


def test_greedy_decoding(model: Any, ids: torch.Tensor) -> None:
    wanted = greedy_by_hand(model, ids[:, :8])
    assert torch.equal(generate(model, ids[:, :8]), wanted)
    assert torch.equal(generate(model, ids[:, :8], cache_implementation="static", disable_compile=True), wanted)


def test_static_decoding_as_transformers_compiles_it(model: Any, ids: torch.Tensor, needs: Any) -> None:
    """On an accelerator ``generate`` compiles a step with a static cache by itself, into graphs that are replayed."""
    needs("cuda", "generate() that compiles by itself")
    needs_a_compiler()
    wanted = greedy_by_hand(model, ids[:, :8])
    for _ in range(2):
        assert torch.equal(generate(model, ids[:, :8], cache_implementation="static"), wanted)


def test_beams(model: Any, ids: torch.Tensor) -> None:
    options = {"num_beams": 4, "num_return_sequences": 3, "output_scores": True, "return_dict_in_generate": True}
    cached, uncached = (generate(model, ids[:, :8], use_cache=use, **options) for use in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(cached.sequences_scores, uncached.sequences_scores, atol=5e-4, rtol=0)


def test_left_padding(model: Any, ids: torch.Tensor) -> None:
    padded = torch.cat([torch.full_like(ids[:, :5], 50), ids], dim=1)
    mask = torch.cat([torch.zeros_like(ids[:, :5]), torch.ones_like(ids)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def in_steps(one: Any) -> torch.Tensor:
        cache, parts = DynamicCache(config=one.config), []
        for start, end in ((0, 14), *((at, at + 1) for at in range(14, 29))):
            told = {"attention_mask": mask[:, :end], "position_ids": positions[:, start:end]}
            parts.append(logits_of(one, padded[:, start:end], cache=cache, **told))
        return torch.cat(parts, dim=1)[:, 5:]

    agree(model, in_steps, lambda one: full(one, ids))
    found = model.generate(padded, attention_mask=mask, max_new_tokens=8, do_sample=False, eos_token_id=None)
    assert torch.equal(found[:, 5:], greedy_by_hand(model, ids, steps=8))


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_one_token_at_a_time(model: Any, ids: torch.Tensor, kind: str) -> None:
    def cache(one: Any) -> Any:
        return DynamicCache(config=one.config) if kind == "dynamic" else StaticCache(one.config, max_cache_len=32)

    agree(model, lambda one: one_by_one(one, ids, cache(one)), lambda one: full(one, ids))


def test_a_long_prompt_and_a_cropped_cache(model: Any, device: torch.device) -> None:
    """Longer than what is kept, so that windows are moved; rolled back as draft models do."""
    ids = some_ids(2, 240).to(device)

    def rolled_back(one: Any) -> torch.Tensor:
        cache = DynamicCache(config=one.config)
        parts = [logits_of(one, ids[:, :200], cache=cache)]
        logits_of(one, ids.flip(1)[:, :7], cache=cache)
        cache.crop(-7)
        parts += [logits_of(one, part, cache=cache) for part in ids[:, 200:].split([1] * 20 + [20], dim=1)]
        return torch.cat(parts, dim=1)

    agree(model, rolled_back, lambda one: full(one, ids))


# --- compiled ------------------------------------------------------------------------------------------------------


def needs_a_compiler() -> None:
    if find_spec("triton") is None:
        pytest.skip("torch.compile with inductor: triton is not installed")


def compilers(device: torch.device) -> list[dict[str, Any]]:
    """Ways to compile: on a CPU the graphs are captured and run as they are."""
    if device.type == "cpu":
        return [{"backend": "aot_eager"}]
    needs_a_compiler()
    return [{}, {"mode": "reduce-overhead"}]


@pytest.mark.parametrize("kind", ["hashed", "exact"])
def test_compiled_forward(device: torch.device, ids: torch.Tensor, kind: str) -> None:
    model = memory_of(kind).to(device)
    for options in compilers(device):
        torch.compiler.reset()
        run = torch.compile(model, **options)

        def compiled(one: Any, run: Any = run) -> torch.Tensor:
            for _ in range(3):  # Recorded at the second call, replayed at the third.
                found = full(run, ids).clone()
            return found

        agree(model, compiled, lambda one: full(one, ids))


@pytest.mark.parametrize("kind", ["hashed", "exact"])
def test_compiled_decoding_with_a_static_cache(device: torch.device, ids: torch.Tensor, kind: str) -> None:
    model = memory_of(kind).to(device)
    for options in compilers(device):
        torch.compiler.reset()
        run = torch.compile(model, **options)
        cache = StaticCache(model.config, max_cache_len=32)
        found = one_by_one(model, ids, cache, run)
        torch.testing.assert_close(found, full(model, ids), atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["hashed", "exact"])
def test_nothing_is_kept_that_a_replay_writes_over(device: torch.device, ids: torch.Tensor, kind: str) -> None:
    """What a graph returns belongs to it: as CUDA graphs are, it is gone when the next step begins."""
    torch.compiler.reset()
    model = memory_of(kind).to(device)
    replays = Replays()
    run, cache = torch.compile(model, backend=replays), StaticCache(model.config, max_cache_len=32)

    def step(**arguments: Any) -> Any:
        replays.begin()
        return run(**arguments)

    found = one_by_one(model, ids, cache, step)
    assert replays.graphs
    torch.testing.assert_close(found, full(model, ids), atol=5e-4, rtol=1e-4)


# --- what a step costs the host -------------------------------------------------------------------------------------


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("kind", ["hashed", "hashed, no convolution"])
def test_a_decoding_step_never_waits_for_the_device(
    device: torch.device, ids: torch.Tensor, needs: Any, kind: str
) -> None:
    """Of an exact memory it does once: it computes only where an n-gram is known."""
    needs("cuda", "a decoding step that waits")
    model = memory_of(kind).to(device)
    cache = DynamicCache(config=model.config)
    one_by_one(model, ids, cache)
    token = ids[:, :1].clone()
    with model.disable_adapter(), waiting_is_an_error():
        try:
            logits_of(model, token, cache=cache)
        except RuntimeError as error:
            pytest.skip(f"a decoding step that waits: the base itself does ({error})")
    with waiting_is_an_error():
        for _ in range(100):  # More than there are free places behind a window.
            logits_of(model, token, cache=cache)


def test_host_memory_does_not_grow_with_decoded_tokens(model: Any, device: torch.device, ids: torch.Tensor) -> None:
    statm = Path("/proc/self/statm")

    def after(steps: int) -> tuple[int, float]:
        """Tensors alive and MiB of the process."""
        for at in range(steps):
            logits_of(model, ids[:, at % 24 : at % 24 + 1], cache=cache)
        gc.collect()
        mib = int(statm.read_text().split()[1]) * 4096 / 2**20 if statm.exists() else 0.0
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()), mib

    # A sliding cache would not grow either; a base that keeps every token does so on its own device.
    cache = StaticCache(model.config, max_cache_len=512)
    after(120)
    tensors, mib = after(100)
    tensors_later, mib_later = after(200)
    assert tensors_later <= tensors
    assert mib_later - mib < 4
