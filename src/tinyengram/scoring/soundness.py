"""Whether what is measured of a model is the model: the same numbers however a text is read, and in the right places.

Each gap compares two ways of computing one thing, in standard deviations of the logits or in nats per token. A base has
gaps of its own, by rounding; those of an adapted model that are much larger are a method that is read wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tinyengram.scoring.choices import ChoiceRequest, choice_log_likelihoods
from tinyengram.virtual_tokens import for_generation, without_virtual

TOLERANCE = 2e-3
"""What no gap needs to be below: standard deviations of logits, nats per token."""

_AHEAD = 1e-5  # Stricter: a causal model reads what stands before a token in the very same way.
_FEW = 16
_TIMES_THE_BASES_OWN = 8
_REQUESTS = (
    ChoiceRequest("one", "Q: What is the capital of France?\nA:", (" Paris", " the city of Lyon")),
    ChoiceRequest("two", "Q: What do bees make?\nA:", (" honey", " wax, and honey too", " x")),
)


@dataclass(frozen=True)
class Gaps:
    """How far two ways of computing one thing lie apart.

    Attributes:
        ahead: What another last token changes before its own place, in standard deviations of logits.
        cache: Between logits of generation with a cache and of one reading of what was generated.
        pieces: Between choices scored in pieces, on top of shared beginnings, and each read whole; nats per token.
        generated: The tokens that were generated.
    """

    ahead: float
    cache: float
    pieces: float
    generated: tuple[int, ...]


class Unsound(Exception):
    """What was found; the message completes "The method cannot be used: "."""


def measure_gaps(model: Any, tokenizer: Any, prompt: Sequence[int], *, new_tokens: int = 6) -> Gaps:
    """Read and generate in every way that a study does.

    Args:
        model: In evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        prompt: Token ids to go on from, at least two.
        new_tokens: How many are generated.
    """
    with torch.inference_mode():
        cache, generated = _cache_gap(model, prompt, new_tokens)
        return Gaps(_ahead_gap(model, prompt), cache, _pieces_gap(model, tokenizer), generated)


def check_gaps(gaps: Gaps, of_base: Gaps) -> None:
    """Refuse a model whose gaps are much larger than its base's.

    Raises:
        Unsound: Says which, with both figures.
    """

    def limit(own: float) -> float:
        return max(TOLERANCE, _TIMES_THE_BASES_OWN * own)

    if not gaps.ahead <= max(_AHEAD, _TIMES_THE_BASES_OWN * of_base.ahead):
        raise Unsound(
            "its logits do not stand where its tokens do: another last token changes those before it by "
            f"{gaps.ahead:.2g} standard deviations, as where a method looks ahead or adds tokens to a text."
        )
    if not gaps.cache <= limit(of_base.cache):
        raise Unsound(
            f"it generates differently with and without a cache: logits are {gaps.cache:.2g} standard deviations "
            f"apart, the base's own {of_base.cache:.2g}."
        )
    if not gaps.pieces <= limit(of_base.pieces):
        raise Unsound(
            f"it scores a choice differently in pieces and whole: {gaps.pieces:.2g} nats a token apart, the base's own "
            f"{of_base.pieces:.2g}."
        )


def check_switched_off(model: Any, of_base: torch.Tensor, prompt: Sequence[int]) -> None:
    """Refuse a model that is not its base when its adapter is off: divergence from the base is measured against that.

    Args:
        model: In evaluation mode, with an adapter.
        of_base: The base's own logits of ``prompt``, from :func:`whole_logits`.
        prompt: Token ids.

    Raises:
        Unsound: They differ.
    """
    with torch.inference_mode():
        gap = _in_deviations(whole_logits(model, prompt, off=True), of_base)
    if not gap <= TOLERANCE:
        raise Unsound(
            f"with its adapter switched off it is not the base: logits are {gap:.2g} standard deviations apart, since "
            "a part of the base's weights is moved into the adapter (as PiSSA, OLoRA and LoftQ do). So drift and "
            "hold_weight have nothing to compare with: leave these out of the study, or choose another initialisation."
        )


def whole_logits(model: Any, ids: Sequence[int], *, off: bool = False) -> torch.Tensor:
    """Logits of one text read whole without a cache, float32 ``(length, vocab)``, with the adapter on or ``off``."""
    tokens = torch.tensor([list(ids)], device=next(model.parameters()).device)
    with torch.inference_mode(), model.disable_adapter() if off else nullcontext():
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    return without_virtual(logits, len(ids))[0].float()


def _in_deviations(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of logits in standard deviations of ``other``; infinity where there is no number."""
    apart = ((one - other).abs().max() / other.std()).item() if one.numel() else 0.0
    return apart if math.isfinite(apart) else math.inf


def _ahead_gap(model: Any, prompt: Sequence[int]) -> float:
    prompt = prompt[:_FEW]  # Of a mean over a text a token is the more, the shorter the text.
    changed = [*prompt[:-1], prompt[0] if prompt[0] != prompt[-1] else prompt[-1] ^ 1]
    one, other = whole_logits(model, prompt), whole_logits(model, changed)
    return _in_deviations(one[:-1], other[:-1])


def _cache_gap(model: Any, prompt: Sequence[int], new_tokens: int) -> tuple[float, tuple[int, ...]]:
    ids = torch.tensor([list(prompt)], device=next(model.parameters()).device)
    generator, inputs = for_generation(model, ids, torch.ones_like(ids))
    output = generator.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    generated = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    cached = torch.cat(list(output.logits)).float()
    whole = whole_logits(model, [*prompt, *generated[:-1]])[len(prompt) - 1 :]
    return _in_deviations(cached, whole), tuple(generated)


def _pieces_gap(model: Any, tokenizer: Any) -> float:
    gap = 0.0
    for request, scores in zip(_REQUESTS, choice_log_likelihoods(model, tokenizer, _REQUESTS), strict=True):
        skip = len(tokenizer.encode(request.context, add_special_tokens=False))
        for choice, found, n_tokens in zip(request.choices, scores.log_likelihoods, scores.n_tokens, strict=True):
            ids = tokenizer.encode(request.context + choice, add_special_tokens=False)
            each = whole_logits(model, ids[:-1]).log_softmax(-1)[skip - 1 :]
            whole = each.gather(-1, torch.tensor(ids[skip:], device=each.device).unsqueeze(-1)).sum().item()
            apart = abs(found - whole) / n_tokens
            gap = max(gap, apart) if math.isfinite(apart) else math.inf
    return gap
