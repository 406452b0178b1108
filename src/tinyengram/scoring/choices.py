"""Log-likelihoods of many choices, each shared prefix read once.

lm-evaluation-harness reads the whole prompt anew for every choice. Here what all prompts begin with is read once, each
question once on top of it, and each choice on top of that; a branch is a copy of the key-value cache, so whatever a
method keeps on the cache goes along. Tokens are cut exactly as the harness cuts them, so the sums are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tinyengram import host
from tinyengram.virtual_tokens import start_cache

_MAX_BATCH_TOKENS = 16384
_MAX_GROUP = 32
_LEAST_FILLED = 0.6


@dataclass(frozen=True)
class ChoiceRequest:
    """A context and the texts that may follow it, each with the space or line break that joins them."""

    id: str
    context: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """How a question is put: ``write`` gives the text up to the choice, ``lead`` what joins the choice to it."""

    write: Callable[[str], str]
    lead: str

    def request(self, id: str, question: str, choices: Sequence[str]) -> ChoiceRequest:
        """A question put this way."""
        return ChoiceRequest(id, self.write(question), tuple(f"{self.lead}{text}" for text in choices))


@dataclass(frozen=True)
class ChoiceScores:
    """For each choice the sum of its tokens' log-probabilities in nats, and how many tokens it has."""

    id: str
    log_likelihoods: tuple[float, ...]
    n_tokens: tuple[int, ...]


@dataclass
class _Encoded:
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
        for group in _groups(prompts, len(shared), max_batch_tokens, any_length=trunk.can_shift):
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


def tokens_read(tokenizer: Any, requests: Sequence[ChoiceRequest]) -> Iterator[list[int]]:
    """Token ids of each context with each of its choices, as they are read."""
    for request in requests:
        prompt = _tokenise(request, tokenizer)
        for choice in prompt.choices:
            yield prompt.context + choice


def _tokenise(request: ChoiceRequest, tokenizer: Any) -> _Encoded:
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
    return _Encoded(
        request, context, choices, [distinct.index(text) for text in request.choices], [0.0] * len(distinct)
    )


def _common_prefix(contexts: Sequence[list[int]]) -> list[int]:
    """The longest shared beginning that leaves every context at least one token."""
    shortest, longest = min(contexts), max(contexts)
    limit = min(map(len, contexts)) - 1
    length = 0
    while length < limit and shortest[length] == longest[length]:
        length += 1
    return list(shortest[:length])


def _groups(
    prompts: Sequence[_Encoded], shared: int, max_batch_tokens: int, *, any_length: bool
) -> Iterator[list[_Encoded]]:
    """Prompts that are read together: contexts of similar, or else of equal, length."""
    waiting = sorted(prompts, key=lambda prompt: len(prompt.context))
    while waiting:
        longest = len(waiting[-1].context)
        rows = max(1, min(_MAX_GROUP, max_batch_tokens // longest))
        least = shared + _LEAST_FILLED * (longest - shared) if any_length else longest
        fitting = sum(len(prompt.context) >= least for prompt in waiting[-rows:])
        yield waiting[-fitting:]
        del waiting[-fitting:]


class _Branch:
    """A cache whose rows end together: row ``i`` holds nothing in its first ``empty[i]`` places."""

    def __init__(self, cache: Any, empty: torch.Tensor) -> None:
        self.cache, self.empty = cache, empty


class _Reader:
    """Reads tokens on top of a cache; ``trunk`` is read once and branched from.

    Attributes:
        trunk: What was read of the shared prefix, behind a method's virtual tokens.
        can_shift: Whether rows of unequal length can share a batch: each layer of the cache keeps every token, and the
            model is told positions.
    """

    def __init__(self, model: Any, trunk: Sequence[int]) -> None:
        # A method's virtual tokens are a beginning like any other; the base reads on from there.
        model, cache = start_cache(model, 1)
        self._model = model
        self._cache_argument = host.cache_argument(model)
        self._takes_logits_to_keep = host.takes_argument(model, "logits_to_keep")
        self._device = next(model.parameters()).device
        self.trunk = _Branch(cache, torch.zeros(1, dtype=torch.long))
        self.can_shift = host.takes_argument(model, "position_ids") and host.keeps_every_token(cache)
        if trunk:
            self.read(torch.tensor([list(trunk)]), self.trunk, 1)

    def branch(self, branch: _Branch, rows: Sequence[int], surplus: Sequence[int]) -> _Branch:
        """A copy that holds the given rows without their last ``surplus`` places; rows again end together."""
        chosen, drop = torch.tensor(rows), torch.tensor(surplus)
        length = branch.cache.get_seq_length()
        empty = branch.empty[chosen] + drop
        if not drop.any():
            cache = copy.deepcopy(branch.cache)
            if length:
                cache.batch_select_indices(chosen.to(self._device))
            return _Branch(cache, empty)
        row, place = chosen.unsqueeze(1).to(self._device), torch.arange(length) - drop.unsqueeze(1)
        place = (place % length).to(self._device)  # Shifted to the right; what was last comes first.
        cache = copy.copy(branch.cache)
        cache.layers = [copy.copy(layer) for layer in branch.cache.layers]
        for layer in cache.layers:
            if hasattr(layer, "shift"):  # What a method keeps on the cache, such as Engram, which need not be all.
                layer.shift(rows, surplus)
            else:  # (batch, heads, time, width)
                layer.keys = layer.keys[row, :, place].transpose(1, 2)
                layer.values = layer.values[row, :, place].transpose(1, 2)
        return _Branch(cache, empty)

    def read(self, ids: torch.Tensor, branch: _Branch, last: int, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Logits at the last ``last`` places of ``ids``; extends the branch.

        Args:
            ids: int64 ``(rows, width)``.
            branch: What the rows continue.
            last: Places at the end whose logits are needed.
            lengths: int64 ``(rows,)``, tokens of each row; what is behind them is padding. None: every row is full.

        Returns:
            float32 ``(rows, last, vocab)``.
        """
        options: dict[str, Any] = {"logits_to_keep": last} if self._takes_logits_to_keep else {}
        if self.can_shift:
            past, width = branch.cache.get_seq_length(), ids.shape[1]
            place = torch.arange(past + width)
            end = past + (torch.full_like(branch.empty, width) if lengths is None else lengths)
            attended = (place >= branch.empty.unsqueeze(1)) & (place < end.unsqueeze(1))
            # Padding repeats the last position: none goes beyond what the model was made for.
            position = torch.minimum(place[past:], end.unsqueeze(1) - 1) - branch.empty.unsqueeze(1)
            options["position_ids"] = position.to(self._device)
            if not attended.all():
                options["attention_mask"] = attended.long().to(self._device)
        options[self._cache_argument] = branch.cache
        logits = self._model(input_ids=ids.to(self._device), use_cache=True, **options).logits
        return logits[:, -last:].float()


def _score_group(trunk: _Reader, group: list[_Encoded], shared: int, max_batch_tokens: int) -> None:
    """Score prompts whose contexts are read in one pass."""
    rests = [prompt.context[shared:] for prompt in group]
    lengths = torch.tensor([len(rest) for rest in rests])
    width = int(lengths.max())
    ids = torch.tensor([rest + [0] * (width - len(rest)) for rest in rests])
    contexts = trunk.branch(trunk.trunk, [0] * len(group), [0] * len(group))
    last = width - int(lengths.min()) + 1
    logits = trunk.read(ids, contexts, last, lengths)
    first = logits[torch.arange(len(group)), lengths - 1 - (width - last)].log_softmax(-1).cpu()
    longer = []
    for row, prompt in enumerate(group):
        for which, choice in enumerate(prompt.choices):
            prompt.scores[which] = first[row, choice[0]].item()
            if len(choice) > 1:
                longer.append((len(choice), row, which))
    longer.sort()
    while longer:
        longest = longer[-1][0]
        rows = max(1, max_batch_tokens // (shared + width + longest))
        # Not much shorter ones along: what a row is padded with is read for nothing.
        fitting = sum(length >= _LEAST_FILLED * longest for length, _, _ in longer[-rows:])
        part, longer = longer[-fitting:], longer[:-fitting]
        _score_choices(trunk, contexts, (width - lengths).tolist(), group, part)


def _score_choices(
    trunk: _Reader,
    contexts: _Branch,
    surplus: Sequence[int],
    group: list[_Encoded],
    part: Sequence[tuple[int, int, int]],
) -> None:
    """Add what the tokens of choices after their first one contribute; shorter rows are padded behind their end."""
    width = part[-1][0]
    ids = torch.zeros(len(part), width, dtype=torch.long)
    lengths = torch.tensor([length for length, _, _ in part])
    for row, (length, prompt, which) in enumerate(part):
        ids[row, :length] = torch.tensor(group[prompt].choices[which])
    rows = [prompt for _, prompt, _ in part]
    branch = trunk.branch(contexts, rows, [surplus[row] for row in rows])
    logits = trunk.read(ids[:, :-1], branch, width - 1, lengths - 1)
    targets = ids[:, 1:].to(logits.device)
    log_probabilities = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    counted = torch.arange(1, width) < lengths.unsqueeze(1)
    sums = (log_probabilities.cpu().double() * counted).sum(-1).tolist()
    for (_, prompt, which), total in zip(part, sums, strict=True):
        group[prompt].scores[which] += total
