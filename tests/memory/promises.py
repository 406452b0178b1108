"""What a memory promises of where it speaks, each written once as a check; `test_leaks` shows that each can fail."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from transformers import StaticCache

from tests.memory.tiny import VOCABULARY, logits_of
from tinyengram.memory.layer import EngramLayer

TOLERANCE = 2e-4


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for rounding."""
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=0)


def added(model: torch.nn.Module, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """What the first block's memory adds to a stream that is the same everywhere, ``(batch, length, hidden)``."""
    layer = next(module for module in model.modules() if isinstance(module, EngramLayer))
    recollect, constant, found = layer._recollect, torch.ones(32), []

    def noting(name: str, reading: Any, hidden: torch.Tensor) -> torch.Tensor | None:
        one = recollect(name, reading, constant.expand_as(hidden))
        found.append(torch.zeros_like(hidden) if one is None else one)
        return one

    layer._recollect = noting
    try:
        logits_of(model, ids, use_cache=False, **inputs)
    finally:
        del layer._recollect
    return found[0]


def places_of(known: Collection[tuple[int, ...]], text: list[int], pad: int = 0) -> list[int]:
    """Where a known n-gram (oldest id first) ends in a text, before which ``pad`` stands."""
    orders = {len(ngram) for ngram in known}
    longest = max(orders)
    padded = [pad] * longest + text
    ends = range(longest + 1, len(padded) + 1)
    return [end - longest - 1 for end in ends if any(tuple(padded[end - order : end]) in known for order in orders)]


def silent_without_known_ngrams(model: torch.nn.Module, base: torch.nn.Module, text: list[int]) -> None:
    """A text without a known n-gram has the base's bits."""
    ids = torch.tensor([text])
    assert torch.equal(logits_of(model, ids), logits_of(base, ids))


def silent_but_at_taps(model: torch.nn.Module, known: Collection[tuple[int, ...]], text: list[int]) -> None:
    """Exactly nothing is added but where a known n-gram ends, or lies under a tap of the convolution."""
    options = next(iter(model.peft_config.values()))
    taps = range(0, max(1, options.kernel_size) * options.max_ngram_size, options.max_ngram_size)
    reached = {place + tap for place in places_of(known, text) for tap in taps}
    spoken = added(model, torch.tensor([text]))[0].any(-1).nonzero().flatten().tolist()
    assert reached.issuperset(spoken), f"spoke at {sorted(set(spoken) - reached)}"
    assert set(places_of(known, text)) <= set(spoken), "silent where it knows the n-gram"


def shut_until_opened(model: torch.nn.Module, opening: list[int], texts: list[list[int]]) -> None:
    """Of packed texts, each is spoken in from where it holds the whole opening, and nowhere before."""
    ids = torch.tensor([[token for text in texts for token in text]])
    positions = torch.tensor([[place for text in texts for place in range(len(text))]])
    spoken = added(model, ids, position_ids=positions)[0].any(-1).tolist()
    ends = [[text[max(0, at + 1 - len(opening)) : at + 1] == opening for at in range(len(text))] for text in texts]
    opened = [any(of_text[: at + 1]) for of_text in ends for at in range(len(of_text))]
    assert spoken == opened


def causal(model: torch.nn.Module, ids: torch.Tensor, at: int) -> None:
    """No position before ``at`` depends on a token from there on."""
    other = ids.clone()
    other[:, at:] = (ids[:, at:] + 7) % (VOCABULARY - 3) + 3
    assert not torch.equal(other, ids)
    same(logits_of(model, other, use_cache=False)[:, :at], logits_of(model, ids, use_cache=False)[:, :at])


def padding_is_no_text(model: torch.nn.Module, ids: torch.Tensor, padding: Iterable[int]) -> None:
    """Whatever ids stand before a text as padding, what is added to the text is the same."""
    before = torch.tensor([list(padding)]).expand(len(ids), -1)
    mask = torch.cat([torch.zeros_like(before), torch.ones_like(ids)], dim=1)
    padded = added(model, torch.cat([before, ids], dim=1), attention_mask=mask)
    same(padded[:, before.shape[1] :], added(model, ids))


def packed_texts_are_apart(model: torch.nn.Module, ids: torch.Tensor, lengths: list[int]) -> None:
    """What is added to a text packed behind others is what is added to it alone."""
    positions = torch.cat([torch.arange(length) for length in lengths])[None].expand(len(ids), -1)
    alone = torch.cat([added(model, text) for text in ids.split(lengths, dim=1)], dim=1)
    same(added(model, ids, position_ids=positions), alone)


def former_generations_are_forgotten(model: torch.nn.Module, former: torch.Tensor, ids: torch.Tensor) -> None:
    """A text reads as it does alone, with a new cache and with a used one that was reset."""
    cache = StaticCache(config=model.config, max_cache_len=64)
    logits_of(model, former, cache=cache)
    cache.reset()
    alone = logits_of(model, ids, use_cache=False)
    same(logits_of(model, ids, cache=cache), alone)
    same(logits_of(model, ids, cache=StaticCache(config=model.config, max_cache_len=64)), alone)
