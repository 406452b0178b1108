"""Caches of texts that were begun apart go on together, each row as it would alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import DynamicCache

from tests.memory.tiny import stir, tiny_config, tiny_model
from tinyengram import collect_ngrams
from tinyengram.memory import joining
from tinyengram.memory.cache import MARGIN, EngramCacheLayer, Window

KNOWN = [[7, 8, 9, 10, 11, 12]]
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {"init": "paper"},
    "exact": {"memory": "exact", "init": "paper"},
    "exact without a convolution": {"memory": "exact", "init": "paper", "kernel_size": 0},
}
# The known n-grams stand in the first alone, in the second's beginning, in none, and beyond what a cache keeps.
TEXTS = [[7, 8, 9, 10], [7, 8, 9] + [3] * 20, [5, 4], [7, 8, 9, 10] + [6, 2] * MARGIN]
NEXT = [7, 8, 9, 10, 3, 4, 7, 8]


@pytest.fixture(scope="module", params=MEMORIES)
def model(request: pytest.FixtureRequest) -> Any:
    options = dict(MEMORIES[request.param])
    if options.get("memory") == "exact":
        options["ngrams"] = collect_ngrams(KNOWN, orders=(2, 3))
    model = get_peft_model(tiny_model(max_position_embeddings=512), tiny_config(**options)).eval()
    stir(model)
    return model


def read(model: Any, ids: list[list[int]], cache: Any = None, lengths: list[int] | None = None) -> Any:
    options: dict[str, Any] = {}
    if lengths is not None:
        places = torch.tensor(lengths).unsqueeze(1)
        options = {"attention_mask": (torch.arange(max(lengths)) >= max(lengths) - places).long()}
        options["position_ids"] = places - 1
    with torch.inference_mode():
        return model(input_ids=torch.tensor(ids), past_key_values=cache, use_cache=True, **options)


def together(model: Any, texts: list[list[int]], order: list[int], leave_at: int | None = None) -> list[torch.Tensor]:
    """Logits of each text over :data:`NEXT`, which all read one token a step after they were joined."""
    caches = [read(model, [text]).past_key_values for text in texts]
    # Token by token an exact memory that knows nothing notes nothing, and its windows fall behind.
    caches[1] = read(model, [texts[1][:3]]).past_key_values
    for token in texts[1][3:]:
        read(model, [[token]], caches[1])
    cache = joining.join([caches[at] for at in order])
    lengths, rows = [len(texts[at]) for at in order], list(order)
    logits: dict[int, list[torch.Tensor]] = {at: [] for at in order}
    for step, token in enumerate(NEXT):
        if step == leave_at:
            longest = lengths.index(max(lengths))
            kept = [at for at in range(len(rows)) if at != longest]
            rows, lengths = [rows[at] for at in kept], [lengths[at] for at in kept]
            joining.keep_rows(cache, kept, cache.get_seq_length() - max(lengths))
        lengths = [length + 1 for length in lengths]
        read_now = read(model, [[token]] * len(rows), cache, lengths).logits[:, -1]
        for at, row in zip(rows, read_now, strict=True):
            logits[at].append(row)
    return [torch.stack(logits[at]) for at in range(len(texts))]


def alone(model: Any, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([text + NEXT]), use_cache=False).logits[0, -len(NEXT) :]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
@pytest.mark.parametrize("leave_at", [None, 3])
def test_each_row_goes_on_as_alone(model: Any, order: list[int], leave_at: int | None) -> None:
    for text, row in zip(TEXTS, together(model, TEXTS, order, leave_at), strict=True):
        expected = alone(model, text)[: len(row)]
        torch.testing.assert_close(row, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


def test_the_caches_of_the_base_too(model: Any) -> None:
    with model.disable_adapter():
        for text, row in zip(TEXTS, together(model, TEXTS, [0, 1, 2, 3], 3), strict=True):
            torch.testing.assert_close(row, alone(model, text)[: len(row)], rtol=1e-3, atol=1e-3)


def test_what_is_not_known_of_one_is_known_of_none() -> None:
    """A window of two places of five, and one of four from its first on."""
    cropped, whole = Window(torch.ones(1, 2, 1), 0, 2, 5), Window(torch.ones(1, 4, 1), 0, 4, 4)
    joined = joining._joined([cropped, whole])
    assert (joined.kept.shape, joined.total, joined.first) == ((2, 2, 1), 5, 3)
    short = joining._joined([whole, Window(torch.ones(1, 1, 1), 0, 1, 1)])
    assert short.kept[:, :, 0].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]


def test_joined_rows_are_not_taken_for_whole_texts(model: Any) -> None:
    cache = joining.join([read(model, [text]).past_key_values for text in TEXTS[:2]])
    (state,) = [layer for layer in cache.layers if isinstance(layer, EngramCacheLayer)]
    assert not state.plain
    assert state.length == cache.get_seq_length() == max(map(len, TEXTS[:2]))


def test_caches_that_lose_tokens_are_not_joined(model: Any) -> None:
    assert joining.can_be_joined(read(model, [[1, 2]]).past_key_values)
    config = model.get_base_model().config
    sliding = type(config)(**{**config.to_dict(), "sliding_window": 4, "layer_types": ["sliding_attention"] * 4})
    assert not joining.can_be_joined(DynamicCache(config=sliding))
