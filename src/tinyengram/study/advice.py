"""How large a memory should be for somebody's chats: counted before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from tinyengram.errors import TinyEngramError
from tinyengram.progress import PhaseEvent
from tinyengram.study.snippets import Snippet, exact_snippet, hashed_snippet
from tinyengram.tasks.left_out import LeftOut, LeftOutCounts

if TYPE_CHECKING:
    import torch

    from tinyengram.memory.collect import NgramCounts
    from tinyengram.memory.sizes import MemorySize
    from tinyengram.tasks.rendering import EncodedExample

WIDTHS = (64, 128, 256, 512)
# Rows per head over distinct n-grams.
_MULTIPLES = (0.25, 0.5, 1.0, 2.0)
# Largest share of n-grams that may share each of their rows with others, so that nothing tells them apart for sure.
_MOST_SHARED = 0.01
_FEW_HELD_OUT = 5


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class OrderCounts(_Frozen):
    """N-grams of one order.

    Attributes:
        order: Tokens of each.
        known: Distinct ones after which a token of an answer is learnt: what an exact memory knows.
        seen_once: How many of these were seen once.
        mean_count: How often each was seen, on average.
        coverage: Share of held-out answer tokens that one of these comes before.
        anywhere: Distinct ones in the whole texts: what falls on the rows of a hashed memory.
    """

    order: int
    known: int
    seen_once: int
    mean_count: float
    coverage: float
    anywhere: int


class ExactChoice(_Frozen):
    """An exact memory of one ``n_embed_per_ngram``; MiB in float32, over all its blocks."""

    n_embed_per_ngram: int
    rows: int
    tables_mib: float
    projections_mib: float
    optimizer_mib: float


class HashedChoice(_Frozen):
    """A hashed memory of one ``engram_vocab_size``; MiB in float32, over all its blocks.

    Attributes:
        engram_vocab_size: Rows per head for each order 2 … N.
        rows: Of all tables.
        sharing: For each order the expected share of n-grams that share their row in one head with others.
        sharing_everywhere: The same of those that share their rows in every head. Both in the block where it is worst.
        advised: Whether it is the smallest of the choices with at most 1% of these in every order.
    """

    engram_vocab_size: list[int]
    rows: int
    sharing: list[float]
    sharing_everywhere: list[float]
    tables_mib: float
    projections_mib: float
    optimizer_mib: float
    advised: bool


class NgramAdvice(_Frozen):
    """What chats hold of n-grams, and what memories would take for them.

    Attributes:
        base, format, rendering: Whose tokens; how the rows are written; how the texts are.
        train_texts, held_out_texts: Texts that were counted, and those that coverage is of.
        train_answer_tokens, held_out_answer_tokens: Learnt tokens in them.
        left_out: What is not counted, by kind and reason.
        remarks: What may not be meant, in sentences.
        orders, exact, hashed: What was counted, and the choices.
        exact_config, hashed_config: The configs that are advised.
    """

    base: str
    format: str
    rendering: str
    train_texts: int
    held_out_texts: int
    train_answer_tokens: int
    held_out_answer_tokens: int
    left_out: list[LeftOut]
    remarks: list[str]
    orders: list[OrderCounts]
    exact: list[ExactChoice]
    hashed: list[HashedChoice]
    exact_config: Snippet
    hashed_config: Snippet


def advise_ngrams(
    name: str,
    base: str,
    *,
    orders: Sequence[int] = (2, 3, 4),
    widths: Sequence[int] = WIDTHS,
    format: str = "auto",
    learn: Any = "all",
    template: Any = "tokenizer",
    max_length: int = 2048,
    max_bad_rows: int = 0,
    eval_fraction: float | None = None,
    on_event: Callable[[PhaseEvent], None] | None = None,
) -> NgramAdvice:
    """Count the n-grams of chats as training would see them, and say what memories would take.

    Chats are read, split, rendered and encoded as a study with its defaults does; the base's weights are not loaded.

    Args:
        name: See :func:`tinyengram.tasks.chat_data.load_conversations`, as for ``format``, ``learn``, ``max_bad_rows``.
        base: Whose tokenizer, chat template and sizes.
        orders: That an exact memory is to know; a hashed one has all from 2 to the highest.
        widths: Choices of ``n_embed_per_ngram`` for an exact memory.
        template, max_length: See :class:`tinyengram.tasks.rendering.Renderer` and its ``encode_all``.
        eval_fraction: See :func:`tinyengram.tasks.chat_data.split`.
        on_event: Is told what is being done.

    Raises:
        TinyEngramError: An order or a width is out of range; nothing can be learnt; the data or the base cannot be had.

    Example:
        >>> advice = advise_ngrams("chats.jsonl", "smollm2-135m-instruct")  # doctest: +SKIP
        >>> print(advice.exact_config.python)  # doctest: +SKIP
    """
    from tinyengram.memory import compress_vocabulary
    from tinyengram.sources import load_config, load_tokenizer
    from tinyengram.tasks.chat_data import load_conversations, split
    from tinyengram.tasks.rendering import Renderer, encode_all

    orders = sorted(set(orders))
    if not orders or orders[0] < 1:
        raise TinyEngramError(f"orders={orders!r}: give at least one order from 1 on, such as 2,3,4.")
    tell = on_event or (lambda _: None)
    tell(PhaseEvent(f"Reading {name}"))
    tokenizer, config = load_tokenizer(base), load_config(base).get_text_config()
    renderer = Renderer(tokenizer, template=template)
    data = load_conversations(name, format=format, learn=learn, max_bad_rows=max_bad_rows)
    parts = split(data.conversations, eval_fraction=eval_fraction)
    tell(PhaseEvent(f"Writing {data.learnt_turns} turns in tokens"))
    encoded = [encode_all(part, renderer, max_length=max_length) for part in (parts.train, parts.held_out)]
    train, held_out = encoded[0].examples, encoded[1].examples
    left_out = LeftOutCounts()
    for known_so_far in (data.left_out, *(part.left_out for part in encoded)):
        left_out.add_all(known_so_far)
    too_few = parts.remark or _remark(len(held_out), encoded[1].too_long)
    tell(PhaseEvent(f"Counting n-grams of {len(train)} texts, of orders {', '.join(map(str, orders))}"))
    all_orders = range(2, max(2, orders[-1]) + 1)  # A hashed memory leaves none out.
    count = _Counting(compress_vocabulary(tokenizer), tokenizer.pad_token_id)
    known, met = count.before_answers(train, orders), count.before_answers(held_out, orders)
    anywhere = count.anywhere(train, sorted({*orders, *all_orders}))
    late, early = _late_blocks(config.num_hidden_layers), _early_blocks(config.num_hidden_layers)
    hashed = _hashed_choices([int(anywhere.is_of(order).sum()) for order in all_orders], early, config.hidden_size)
    advised = next(choice for choice in hashed if choice.advised)
    return NgramAdvice(
        base=base,
        format=data.format,
        rendering=renderer.description,
        train_texts=len(train),
        held_out_texts=len(held_out),
        train_answer_tokens=_answer_tokens(train),
        held_out_answer_tokens=_answer_tokens(held_out),
        left_out=left_out.listed(),
        remarks=[*data.remarks, *([too_few] if too_few else [])],
        orders=[_of_order(order, known, met, anywhere) for order in orders],
        exact=_exact_choices(known, widths, late, config.hidden_size),
        hashed=hashed,
        exact_config=exact_snippet(orders, late, tokenizer),
        hashed_config=hashed_snippet(advised.engram_vocab_size, early, tokenizer),
    )


def _remark(held_out: int, too_long: int) -> str | None:
    """A sentence where the limit on length leaves too few texts to tell the coverage by."""
    if held_out >= _FEW_HELD_OUT:
        return None
    return (
        f"Coverage is that of {held_out} held-out texts, too few to go by: {too_long} turns of held-out conversations "
        "are longer than max_length. Raise max_length or eval_fraction."
    )


def _answer_tokens(examples: Sequence[EncodedExample]) -> int:
    return sum(sum(example.answer_mask) for example in examples)


def _late_blocks(depth: int) -> list[int]:
    """Three blocks of the upper half, at the presets' depths: 14, 20 and 26 of 30. Nothing below them is trained."""
    return sorted({depth * 7 // 15, depth * 2 // 3, depth * 13 // 15})


def _early_blocks(depth: int) -> list[int]:
    """Blocks 1 to 4, as in the published experiment, or those that there are."""
    return [block for block in range(1, 5) if block < depth] or [0]


@dataclass(frozen=True)
class _Counting:
    """How n-grams are counted for a base: its compressed vocabulary, and what stands before a text."""

    compression: torch.Tensor
    pad_token_id: int

    def before_answers(self, examples: Sequence[EncodedExample], orders: Sequence[int]) -> NgramCounts:
        """N-grams after which a token of an answer is learnt."""
        return self._count(examples, [example.answer_mask for example in examples], orders)

    def anywhere(self, examples: Sequence[EncodedExample], orders: Sequence[int]) -> NgramCounts:
        """N-grams of the whole texts."""
        return self._count(examples, None, orders)

    def _count(
        self, examples: Sequence[EncodedExample], masks: list[list[bool]] | None, orders: Sequence[int]
    ) -> NgramCounts:
        from tinyengram.memory.collect import count_ngrams

        ids = [example.input_ids for example in examples]
        return count_ngrams(ids, masks, orders=orders, compression=self.compression, pad_token_id=self.pad_token_id)


def _of_order(order: int, known: NgramCounts, met: NgramCounts, anywhere: NgramCounts) -> OrderCounts:
    """What there is of an order, of training texts and (``met``) held-out ones."""
    counts = known.counts[known.is_of(order)]
    is_covered = met.is_of(order) & (known.count_of(met.keys) > 0)
    return OrderCounts(
        order=order,
        known=len(counts),
        seen_once=int((counts == 1).sum()),
        mean_count=known.positions / max(1, len(counts)),
        coverage=int(met.counts[is_covered].sum()) / max(1, met.positions),
        anywhere=int(anywhere.is_of(order).sum()),
    )


def _mib(size: MemorySize) -> dict[str, float]:
    return {f"{name}_mib": round(getattr(size, name) / 2**20, 2) for name in ("tables", "projections", "optimizer")}


def _exact_choices(
    known: NgramCounts, widths: Sequence[int], layer_ids: list[int], hidden_size: int
) -> list[ExactChoice]:
    import torch

    from tinyengram.memory import EngramConfig, KnownNgrams
    from tinyengram.memory.sizes import exact_size

    ngrams = KnownNgrams.of(torch.from_numpy(known.ngrams))
    longest = max(2, *ngrams.orders)
    options: dict[str, Any] = {"ngrams": ngrams, "layer_ids": layer_ids, "max_ngram_size": longest}
    choices = []
    for width in widths:
        try:
            size = exact_size(EngramConfig(memory="exact", n_embed_per_ngram=width, **options), hidden_size)
        except ValueError as error:
            raise TinyEngramError(f"widths={list(widths)!r} is refused: {error}") from error
        choices.append(ExactChoice(n_embed_per_ngram=width, rows=size.rows, **_mib(size)))
    return choices


def _hashed_choices(distinct: Sequence[int], layer_ids: list[int], hidden_size: int) -> list[HashedChoice]:
    """Tables from a quarter of an order's n-grams to twice as many, in ascending order, one of them advised.

    Args:
        distinct: N-grams of each order from 2 on.
        layer_ids, hidden_size: Of the memory, and of the base.
    """
    from tinyengram.memory import EngramConfig
    from tinyengram.memory.sizes import hashed_size, sharing_of_hashed

    choices: list[HashedChoice] = []
    is_found = False
    for multiple in _MULTIPLES:
        config = EngramConfig(
            layer_ids=layer_ids,
            max_ngram_size=len(distinct) + 1,
            engram_vocab_size=[_round_up(multiple * n_ngrams) for n_ngrams in distinct],
        )
        size = hashed_size(config, distinct, hidden_size)
        sharing, everywhere = zip(*sharing_of_hashed(config, distinct), strict=True)
        enough = max(everywhere) <= _MOST_SHARED or multiple == _MULTIPLES[-1]
        choices.append(
            HashedChoice(
                engram_vocab_size=config.engram_vocab_size,
                rows=size.rows,
                sharing=[round(share, 4) for share in sharing],
                sharing_everywhere=[round(share, 4) for share in everywhere],
                advised=enough and not is_found,
                **_mib(size),
            )
        )
        is_found = is_found or enough
    return choices


def _round_up(number: float) -> int:
    """To two digits, and 2 at least: sizes are asked for, and primes at or above them taken."""
    whole = max(2, math.ceil(number))
    step = 10 ** max(0, len(str(whole)) - 2)
    return -(-whole // step) * step
