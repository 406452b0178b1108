"""Log-likelihoods of many choices, each shared prefix read once.

lm-evaluation-harness reads the whole prompt anew for every choice. Here what all prompts begin with is read once, each
question once on top of it, and each choice on top of that; a branch is a copy of the key-value cache, so whatever a
method keeps on the cache goes along. Tokens are cut exactly as the harness cuts them, so the sums are the same.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tinyengram.batches import takes_logits_to_keep

_MAX_BATCH_TOKENS = 8192
_LEAST_FILLED = 0.5


@dataclass(frozen=True)
class ChoiceRequest:
    """A context and the texts that may follow it, each with the space or line break that joins them."""

    id: str
    context: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class ChoiceScores:
    """For each choice the sum of its tokens' log-probabilities in nats, and how many tokens it has."""

    id: str
    log_likelihoods: tuple[float, ...]
    n_tokens: tuple[int, ...]


@dataclass
class _Prompt:
    """A request in tokens; equal choices are one."""

    request: ChoiceRequest
    context: list[int]
    choices: list[list[int]]
    choice_of: list[int]
    scores: list[float]


def choice_log_likelihoods(
    model: Any,
    tokenizer: Any,
    requests: Sequence[ChoiceRequest],
    *,
    max_batch_tokens: int = _MAX_BATCH_TOKENS,
    on_done: Callable[[int], None] | None = None,
) -> list[ChoiceScores]:
    """Score every choice of every request.

    Args:
        model: A causal language model, with or without an adapter, in evaluation mode.
        tokenizer: Its tokenizer.
        requests: Contexts with their choices.
        max_batch_tokens: Bound on rows times length, past included, of one forward pass; bounds memory.
        on_done: Called with the number of requests that were just finished.

    Returns:
        Scores in the order of ``requests``.

    Raises:
        ValueError: A choice or a context has no token.
    """
    prompts = [_tokenise(request, tokenizer) for request in requests]
    if not prompts:
        return []
    with torch.inference_mode():
        shared = _common_prefix([prompt.context for prompt in prompts])
        trunk = _Reader(model, shared)
        by_length: dict[int, list[_Prompt]] = defaultdict(list)
        for prompt in prompts:
            by_length[len(prompt.context) - len(shared)].append(prompt)
        for length in sorted(by_length):
            rows = max(1, max_batch_tokens // (len(shared) + length))
            for group in _parts(by_length[length], rows):
                _score_group(trunk, group, len(shared), max_batch_tokens)
                if on_done is not None:
                    on_done(len(group))
    return [
        ChoiceScores(
            id=prompt.request.id,
            log_likelihoods=tuple(prompt.scores[which] for which in prompt.choice_of),
            n_tokens=tuple(len(prompt.choices[which]) for which in prompt.choice_of),
        )
        for prompt in prompts
    ]


def _tokenise(request: ChoiceRequest, tokenizer: Any) -> _Prompt:
    """Cut context and choices as the harness does: together, with the context's trailing spaces given to the choice."""
    context_text = request.context.rstrip()
    spaces = request.context[len(context_text) :]
    context = tokenizer.encode(context_text, add_special_tokens=False)
    if not context:
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if start is None:
            raise ValueError(f"The context of {request.id} is empty and the tokenizer has no token to start from.")
        context = [start]
    distinct = list(dict.fromkeys(request.choices))
    choices = []
    skip = len(tokenizer.encode(context_text, add_special_tokens=False))
    for text in distinct:
        choice = tokenizer.encode(context_text + spaces + text, add_special_tokens=False)[skip:]
        if not choice:
            raise ValueError(f"The choice {text!r} of {request.id} has no token of its own.")
        choices.append(choice)
    return _Prompt(request, context, choices, [distinct.index(text) for text in request.choices], [0.0] * len(distinct))


def _common_prefix(contexts: Sequence[list[int]]) -> list[int]:
    """The longest shared beginning that leaves every context at least one token."""
    shortest, longest = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    length = 0
    while length < limit and shortest[length] == longest[length]:
        length += 1
    return list(shortest[:length])


class _Reader:
    """Reads tokens on top of a cache; ``trunk`` is read once and branched from."""

    def __init__(self, model: Any, trunk: Sequence[int]) -> None:
        from transformers import DynamicCache

        self._model = model
        self._takes_logits_to_keep = takes_logits_to_keep(model)
        self._device = next(model.parameters()).device
        self.cache = DynamicCache(config=model.config)
        if trunk:
            self.read(torch.tensor([list(trunk)]), self.cache, 1)

    def branch(self, cache: Any, rows: Sequence[int]) -> Any:
        """A copy of ``cache`` that holds the given rows of its batch."""
        branched = copy.deepcopy(cache)
        if branched.get_seq_length():
            branched.batch_select_indices(torch.tensor(rows, device=self._device))
        return branched

    def read(self, ids: torch.Tensor, cache: Any, last: int) -> torch.Tensor:
        """Logits at the last ``last`` positions of ``ids`` ``(rows, length)``; extends ``cache``."""
        options = {"logits_to_keep": last} if self._takes_logits_to_keep else {}
        logits = self._model(input_ids=ids.to(self._device), past_key_values=cache, use_cache=True, **options).logits
        return logits[:, -last:].float()


def _score_group(trunk: _Reader, group: list[_Prompt], shared: int, max_batch_tokens: int) -> None:
    """Score prompts whose contexts go equally far beyond the shared prefix."""
    rest = torch.tensor([prompt.context[shared:] for prompt in group])
    cache = trunk.branch(trunk.cache, [0] * len(group))
    first = trunk.read(rest, cache, 1)[:, 0].log_softmax(-1).cpu()
    longer = []
    for row, prompt in enumerate(group):
        for which, choice in enumerate(prompt.choices):
            prompt.scores[which] = first[row, choice[0]].item()
            if len(choice) > 1:
                longer.append((len(choice), row, which))
    longer.sort()
    while longer:
        longest = longer[-1][0]
        rows = max(1, max_batch_tokens // (shared + rest.shape[1] + longest))
        # Not much shorter ones along: what a row is padded with is read for nothing.
        fitting = sum(length >= _LEAST_FILLED * longest for length, _, _ in longer[-rows:])
        part, longer = longer[-fitting:], longer[:-fitting]
        _score_choices(trunk, cache, group, part)


def _score_choices(trunk: _Reader, cache: Any, group: list[_Prompt], part: Sequence[tuple[int, int, int]]) -> None:
    """Add what the tokens of choices after their first one contribute; shorter rows are padded behind their end."""
    width = part[-1][0]
    ids = torch.zeros(len(part), width, dtype=torch.long)
    lengths = torch.tensor([length for length, _, _ in part])
    for row, (length, prompt, which) in enumerate(part):
        ids[row, :length] = torch.tensor(group[prompt].choices[which])
    logits = trunk.read(ids[:, :-1], trunk.branch(cache, [prompt for _, prompt, _ in part]), width - 1)
    targets = ids[:, 1:].to(logits.device)
    log_probabilities = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    counted = torch.arange(1, width) < lengths.unsqueeze(1)
    sums = (log_probabilities.cpu().double() * counted).sum(-1).tolist()
    for (_, prompt, which), total in zip(part, sums, strict=True):
        group[prompt].scores[which] += total


def _parts(items: list[Any], size: int) -> list[list[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
