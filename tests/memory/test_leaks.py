"""The checks of where a memory speaks hold, and each fails for a memory that leaks: leaks made by hand, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.memory import promises
from tests.memory.tiny import some_ids, tiny_model, trained_memory
from tinyengram import KnownNgrams
from tinyengram.memory import model, texts
from tinyengram.memory.cache import EngramCacheLayer
from tinyengram.memory.latch import open_places
from tinyengram.memory.layer import EngramMemory

IDS = some_ids(2, 24)
KNOWN = {(5, 6), (5, 6, 7)}
UNKNOWN_TEXT = [9, 5, 8, 6, 7, 9, 11, 6]
TAUGHT_TEXT = [9, 8, 5, 6, 7, *range(20, 50)]

read, number, recall = EngramMemory.forward, texts.number_texts, EngramCacheLayer.recall


def exact() -> Any:
    return trained_memory(memory="exact", ngrams=KnownNgrams.of(torch.tensor([[6, 5, -1], [7, 6, 5]])))


CHECKS: dict[str, Callable[[], None]] = {
    "silent": lambda: promises.silent_without_known_ngrams(exact(), tiny_model(), UNKNOWN_TEXT),
    "silent but at taps": lambda: promises.silent_but_at_taps(exact(), KNOWN, TAUGHT_TEXT),
    "causal": lambda: promises.causal(trained_memory(), IDS, 12),
    "padding": lambda: promises.padding_is_no_text(trained_memory(), IDS, [11, 12, 13, 50]),
    "packed": lambda: promises.packed_texts_are_apart(trained_memory(), IDS, [9, 1, 14]),
    "latched": lambda: promises.shut_until_opened(
        trained_memory(open_after=[5, 6, 7]), [5, 6, 7], [[9, 5, 6, 7, 9, 8], [9, 5, 6, 8, 7], [5, 6, 7], [6, 7, 9]]
    ),
    "former": lambda: promises.former_generations_are_forgotten(trained_memory(), some_ids(2, 30, seed=4), IDS),
}


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_promised_holds(check: str) -> None:
    CHECKS[check]()


def to_every_later_position(self: EngramMemory, *args: Any) -> torch.Tensor | None:
    added = read(self, *args)
    return added if added is None else added.cumsum(1)


def to_the_position_before(self: EngramMemory, *args: Any) -> torch.Tensor | None:
    added = read(self, *args)
    return added if added is None else added + torch.nn.functional.pad(added[:, 1:], (0, 0, 0, 1))


def from_row_0_where_unknown(self: EngramMemory, hidden: torch.Tensor, rows: torch.Tensor, *args: Any) -> Any:
    return read(self, hidden, rows if self.unknown_row is None else rows % self.unknown_row, *args)


def from_padding(valid: torch.Tensor, *args: Any) -> torch.Tensor:
    return number(torch.ones_like(valid), *args)


def from_another_text(valid: torch.Tensor, *args: Any) -> torch.Tensor:
    return valid.long()


def a_place_early(*args: Any) -> torch.Tensor:
    opened = open_places(*args)
    return opened | torch.nn.functional.pad(opened[:, 1:], (0, 1))


def on_the_last_token_alone(reading: Any, openings: torch.Tensor, name: str) -> torch.Tensor:
    return open_places(reading, openings[:, :1], name)


def from_the_text_before(*args: Any) -> torch.Tensor:
    return open_places(*args).cummax(1).values


def a_place_late(*args: Any) -> torch.Tensor:
    return torch.nn.functional.pad(open_places(*args)[:, :-1], (1, 0))


def of_a_former_generation() -> Callable[..., Any]:
    former: dict[Any, torch.Tensor] = {}

    def leaking(self: EngramCacheLayer, key: Any, reach: int, like: torch.Tensor) -> torch.Tensor | None:
        past = recall(self, key, reach, like)
        if self.length == like.shape[1] and key in former:
            past = former[key]
        former[key] = like[:, -reach:].detach()
        return past

    return leaking


@pytest.mark.parametrize(
    ("where", "name", "leak", "check"),
    [
        (EngramMemory, "forward", to_every_later_position, "silent but at taps"),
        (EngramMemory, "forward", to_the_position_before, "silent but at taps"),
        (EngramMemory, "forward", to_the_position_before, "causal"),
        (EngramMemory, "forward", from_row_0_where_unknown, "silent"),
        (EngramMemory, "forward", from_row_0_where_unknown, "silent but at taps"),
        (texts, "number_texts", from_padding, "padding"),
        (texts, "number_texts", from_another_text, "packed"),
        (model, "open_places", a_place_early, "latched"),
        (model, "open_places", a_place_late, "latched"),
        (model, "open_places", on_the_last_token_alone, "latched"),
        (model, "open_places", from_the_text_before, "latched"),
        (EngramMemory, "forward", to_the_position_before, "latched"),
        (EngramCacheLayer, "recall", of_a_former_generation(), "former"),
    ],
)
def test_a_leak_is_seen(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, leak: Any, check: str) -> None:
    monkeypatch.setattr(where, name, leak)
    with pytest.raises(AssertionError):
        CHECKS[check]()
