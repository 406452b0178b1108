"""What is told of a memory is what it did: its rows, its gate, what it added, and nothing where it said nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model

from tests.memory.tiny import logits_of, some_ids, stir, tiny_config, tiny_model
from tinyengram import collect_ngrams
from tinyengram.memory.explaining import Spoke, what_memories_did
from tinyengram.memory.layer import EngramLayer

IDS = some_ids(4, 16, seed=9)
TAUGHT, OTHER = IDS[0].tolist(), IDS[1].tolist()


def memory(kind: str, **options: Any) -> Any:
    if kind == "exact":
        options |= {"memory": "exact", "ngrams": collect_ngrams([TAUGHT], orders=(2, 3))}
    model = get_peft_model(tiny_model(), tiny_config(kernel_size=0, **options))
    stir(model)
    return model.eval()


@pytest.mark.parametrize("kind", ["hashed", "exact"])
@pytest.mark.parametrize("gate", ["sigmoid", "hard"])
def test_gates_and_strengths_are_those_of_the_forward_pass(
    kind: str, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = memory(kind, gate=gate)
    noted, logits = what_memories_did(model, TAUGHT)
    assert torch.equal(logits, logits_of(model, torch.tensor([TAUGHT]))[0])
    streams: dict[int, list[torch.Tensor]] = {}
    recollect = EngramLayer._recollect

    def watched(layer: EngramLayer, name: str, reading: Any, hidden: torch.Tensor) -> torch.Tensor | None:
        added = recollect(layer, name, reading, hidden)
        streams[layer.layer_id] = [hidden[0], torch.zeros_like(hidden[0]) if added is None else added[0]]
        return added

    monkeypatch.setattr(EngramLayer, "_recollect", watched)
    logits_of(model, torch.tensor([TAUGHT]))
    for number, layer in enumerate((1, 2)):
        stream, added = streams[layer]
        spoken = [spokes[number] for spokes in noted]
        assert [one.layer for one in spoken] == [layer] * len(TAUGHT)
        assert [one.strength for one in spoken] == pytest.approx((added.norm(dim=-1) / stream.norm(dim=-1)).tolist())
        memory_of_layer = next(m for m in model.modules() if isinstance(m, EngramLayer) and m.layer_id == layer)
        own = memory_of_layer.engram_memory["default"]
        for at, one in enumerate(spoken):
            if not one.found:
                assert (one.gate, one.strength) == (0, 0)
                continue
            width = own.tables.weight.shape[1]
            found = torch.zeros(own.value_proj.in_features)
            heads = len(one.found[0].rows)
            for ngram in one.found:
                start = (ngram.order - 2) * heads * width
                found[start : start + heads * width] = own.tables.weight[list(ngram.rows)].flatten()
            torch.testing.assert_close(one.gate * own.value_proj(found), added[at], atol=1e-5, rtol=1e-4)


def test_an_exact_memory_tells_the_ngrams_that_it_knows() -> None:
    noted, _ = what_memories_did(memory("exact"), TAUGHT)
    orders = [[ngram.order for ngram in spokes[0].found] for spokes in noted]
    assert orders == [[2, 3]] * len(TAUGHT)  # Those at the beginning reach back to before the text.
    assert all(spoke.found == () for spokes in what_memories_did(memory("exact"), OTHER)[0] for spoke in spokes)


def test_rows_that_were_never_trained_are_told() -> None:
    model = memory("hashed")
    noted, _ = what_memories_did(model, TAUGHT)
    last = noted[-1][0].found[0]
    assert last.trained == len(last.rows)
    layer = next(module for module in model.modules() if isinstance(module, EngramLayer) and module.layer_id == 1)
    with torch.no_grad():
        layer.engram_memory["default"].tables.weight[last.rows[0]] = 0
    again = what_memories_did(model, TAUGHT)[0][-1][0].found[0]
    assert (again.rows, again.trained) == (last.rows, last.trained - 1)


def test_a_shut_latch_is_told() -> None:
    model = memory("hashed", open_after=[TAUGHT[4:6]])
    noted, _ = what_memories_did(model, TAUGHT)
    shut = Spoke(layer=1, is_open=False, gate=0.0, strength=0.0, found=())
    is_open = [spokes[0].is_open for spokes in noted]
    first = is_open.index(True)
    assert all(spokes[0] == shut for spokes in noted[:first])
    assert all(is_open[first:])
    assert first in (5, 6)


def test_nothing_is_left_on_the_model() -> None:
    model = memory("hashed")
    what_memories_did(model, TAUGHT)
    assert not any(module._forward_hooks for module in model.modules() if isinstance(module, EngramLayer))
    layers = [module for module in model.modules() if isinstance(module, EngramLayer)]
    assert not any(one._forward_hooks for layer in layers for one in layer.engram_memory.values())
