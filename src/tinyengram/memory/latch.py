"""The latch: a memory that stays shut until a text has opened it, by tokens that a chat template writes with tools.

An *opening* is a run of raw token ids. From the place of its last token on a text is open, up to its end; what was
packed before or behind it is a text of its own. Before that the memory adds nothing, so the model is its base there,
whatever the memory was taught.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any

import torch

from tinyengram.memory.cache import EngramCacheLayer
from tinyengram.memory.reading import Reading

# Beyond an opening's own length, and for the tokens of another text; no token's id.
_NONE = -1
# Stands for a layer where the state on the cache is keyed by adapter and layer: all of a memory's layers open together.
_LATCH = -1
# A step looks so many tokens back at most.
LONGEST = 64
# Tokens of an opening that was found; more would only be more to compare.
_FOUND = 16
TOOLS = "tools"

_PLACE = {"type": "object", "properties": {"place": {"type": "string", "description": "Where."}}, "required": ["place"]}
_AMOUNT = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": []}
SAMPLE_TOOLS: tuple[list[dict[str, Any]], ...] = (
    [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": _PLACE}}],
    [
        {"function": {"parameters": _AMOUNT, "description": "Pays a bill.", "name": "pay"}, "type": "function"},
        {"function": {"description": "Rings.", "name": "alarm", "parameters": _PLACE}, "type": "function"},
    ],
)
# What may stand before and behind a text that is named, for a tokenizer joins its ends with some of it.
_AROUND = ("", " ", "\n", "\n\n", "x", "7", ".", ">", '"', "{")
_SYSTEM = (None, "Answer in one word.", "You are a pilot")
_REQUESTS = (
    [{"role": "user", "content": "Good morning"}],
    [
        {"role": "user", "content": "What can you do?"},
        {"role": "assistant", "content": "Many things."},
        {"role": "user", "content": "7 + 5 ="},
    ],
)
# What somebody may write who is offered no tools: JSON, so that an end of it is not taken for an opening, ...
JSON_TEXTS = ('{"a": {"b": [1, "c"]}}', 'Mend this:\n{\n  "a": {"b": [{"c": "d"}]}\n}\n', '[{"a": "b"}, {"c": null}]')
# ... and the very description of a tool.
TOOL_TEXTS = tuple(
    json.dumps(said, indent=at) for tools in SAMPLE_TOOLS for said in (*tools, *tools[0].values()) for at in (None, 2)
)
# Templates that print the day print another one tomorrow; a function cannot be handed to a template, a macro hides it.
_OTHER_DAY = "{%- macro strftime_now(format) -%}01 Jan 1970{%- endmacro -%}"


def check_opening(given: Any) -> None:
    """Refuse what is no opening.

    Raises:
        ValueError: It is neither None, a text, token ids nor a list of such; names the value.
    """
    if given is None or (isinstance(given, str) and given):
        return
    runs = given if isinstance(given, list | tuple) and given and isinstance(given[0], list | tuple) else [given]
    for run in runs:
        plain = isinstance(run, list | tuple) and run
        if not plain or any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in run):
            raise ValueError(
                f"open_after={given!r}: give 'tools', a text, the ids of tokens that follow one another, such as "
                "[12, 7], or a list of such runs, of which any opens the memory."
            )
        if len(run) > LONGEST:
            raise ValueError(
                f"open_after names {len(run)} tokens in a row, and {LONGEST} is the most; their last ones will do."
            )


def openings_of(given: Any, vocab_size: int, load_tokenizer: Callable[[], Any]) -> list[list[int]]:
    """The runs of token ids that open a memory.

    Args:
        given: ``open_after``, checked; not None.
        vocab_size: Of the base.
        load_tokenizer: Where a text or ``"tools"`` is given.

    Raises:
        ValueError: No token can be found for what was given, or an id is none of the base's.
    """
    if isinstance(given, str):
        try:
            tokenizer = load_tokenizer()
        except Exception as error:
            raise ValueError(
                f"open_after={given!r} needs the base's tokenizer, which cannot be loaded "
                f"({' '.join(str(error).split())[:200]}). Give token ids: open_after="
                + ("tinyengram.opening_of_tools(tokenizer)." if given == TOOLS else "[tokenizer.encode(…)].")
            ) from error
        runs = [opening_of_tools(tokenizer)] if given == TOOLS else openings_of_text(tokenizer, given)
    else:
        runs = [list(run) for run in given] if isinstance(given[0], list | tuple) else [list(given)]
    beyond = [token for run in runs for token in run if token >= vocab_size]
    if beyond:
        raise ValueError(f"open_after names {beyond}, and the base has {vocab_size} tokens.")
    return runs


def opening_of_tools(tokenizer: Any) -> list[int]:
    """What a chat template writes wherever tools are offered and nowhere else, as token ids.

    Args:
        tokenizer: With a chat template.

    Returns:
        At most 16 ids; with a special token among them if there is such a run, since what a user types holds none.

    Raises:
        ValueError: There is no template, or it writes nothing of the kind.

    Example:
        >>> EngramConfig(open_after=opening_of_tools(tokenizer))  # doctest: +SKIP
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "open_after='tools': the tokenizer has no chat template. Name a text that your prompts hold where tools "
            "are offered: open_after='<tools>'."
        )

    days: list[dict[str, Any]] = [{}, {"date_string": "01 Jan 1970"}]

    def rendered(tools: list[dict[str, Any]] | None, systems: Iterable[str | None], requests: Any) -> Iterator[Any]:
        days_and_clock = days
        if "strftime_now" in (source := tokenizer.get_chat_template(None, tools)):
            days_and_clock = [*days, {"chat_template": _OTHER_DAY + source}]
        for system, messages, more in product(systems, requests, days_and_clock):
            said = messages if system is None else [{"role": "system", "content": system}, *messages]
            try:
                text = tokenizer.apply_chat_template(
                    said, tools=tools, add_generation_prompt=True, tokenize=False, **more
                )
            except Exception:  # A template may take no system message, or not the first of these.
                continue
            yield tokenizer(text, add_special_tokens=False)["input_ids"]

    def without(texts: Sequence[str]) -> list[list[int]]:
        """Prompts that offer no tools, with these texts in the places where somebody writes."""
        asked = [[{"role": "user", "content": text}] for text in texts]
        told = [[_REQUESTS[1][0], {"role": "assistant", "content": text}, _REQUESTS[1][2]] for text in texts]
        shut = [*rendered(None, [*_SYSTEM, *texts], _REQUESTS), *rendered(None, [None], [*asked, *told])]
        return list(shut)

    opened = [ids for tools in SAMPLE_TOOLS for ids in rendered(tools, _SYSTEM, _REQUESTS)]
    shut, special = [without([*JSON_TEXTS, *TOOL_TEXTS]), without(JSON_TEXTS)], set(tokenizer.all_special_ids)
    return first_opening([opened], shut, special)


def first_opening(
    opened: Sequence[Sequence[Sequence[int]]], shut: Sequence[Sequence[Sequence[int]]], special: set[int]
) -> list[int]:
    """:func:`common_opening` of the strictest pair that has one; ``opened`` and ``shut`` go from strict to lenient."""
    for one, other in product(opened, shut):
        try:
            return common_opening(one, other, special)
        except ValueError:
            continue
    return common_opening(opened[-1], shut[-1], special)


def openings_of_text(tokenizer: Any, text: str) -> list[list[int]]:
    """The tokens that a text is written with, for each way in which its ends join what may stand around it.

    Raises:
        ValueError: The tokenizer cannot say which tokens these are, or they are too many.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"open_after={text!r}: a {type(tokenizer).__name__} does not tell which tokens write a text. Name "
            "token ids."
        )
    runs = set()
    for before, behind in product(_AROUND, repeat=2):
        found = tokenizer(f"{before}{text}{behind}", add_special_tokens=False, return_offsets_mapping=True)
        first, last = len(before), len(before) + len(text)
        places = [at for at, (start, end) in enumerate(found["offset_mapping"]) if start < last and end > first]
        runs.add(tuple(found["input_ids"][places[0] : places[-1] + 1]) if places else ())
    if not all(0 < len(run) <= LONGEST for run in runs):
        raise ValueError(
            f"open_after={text!r} is written with {min(map(len, runs))} to {max(map(len, runs))} tokens; name a text "
            f"of 1 to {LONGEST}."
        )
    return sorted(map(list, runs))


def common_opening(
    opened: Sequence[Sequence[int]], shut: Sequence[Sequence[int]], special: set[int], *, at_most: int = _FOUND
) -> list[int]:
    """The run of tokens that is in all of ``opened`` and in none of ``shut``.

    Args:
        opened, shut: Token ids of texts.
        special: Ids of special tokens: of two runs the one that holds some is taken, then the longer, then the earlier.
        at_most: Longest run that is looked for.

    Raises:
        ValueError: There is none; says how to name a text.
    """
    best: tuple[bool, int] | None = None
    found: list[int] = []
    for length in range(1, at_most + 1):
        of_each = [{tuple(ids[at : at + length]) for at in range(len(ids) - length + 1)} for ids in opened]
        elsewhere = {tuple(ids[at : at + length]) for ids in shut for at in range(len(ids) - length + 1)}
        shared = set.intersection(*of_each) - elsewhere if of_each else set()
        for at in range(len(opened[0]) - length + 1 if opened else 0):
            run = tuple(opened[0][at : at + length])
            rank = (not special.isdisjoint(run), length)
            if run in shared and (best is None or rank > best):
                best, found = rank, list(run)
    if not found:
        raise ValueError(
            "open_after='tools': the chat template writes nothing that stands wherever tools are offered and nowhere "
            "else. Name a text that your prompts hold where they are: open_after='<tools>'."
        )
    return found


def holds_any(ids: Sequence[int], openings: Sequence[Sequence[int]]) -> bool:
    """Whether one of the runs of tokens stands somewhere in the ids."""
    return any(list(ids[at : at + len(run)]) == list(run) for run in openings for at in range(len(ids) - len(run) + 1))


def as_tensor(openings: Sequence[Sequence[int]]) -> torch.Tensor:
    """int64 ``(openings, longest)``, newest id first, -1 beyond an opening's length."""
    width = max(map(len, openings))
    return torch.tensor([[*reversed(one), *[_NONE] * (width - len(one))] for one in openings])


def open_places(reading: Reading, openings: torch.Tensor, adapter_name: str) -> torch.Tensor:
    """Where a memory is open, bool ``(batch, length)``; notes it on the cache for what is read next.

    Args:
        reading: What is being read, with as much of the past as the longest opening has tokens before its last.
        openings: From :func:`as_tensor`.
        adapter_name: Whose latch it is.
    """
    texts, length = reading.texts, reading.length
    window = reading.window(openings.shape[1], openings.new_tensor(_NONE), None)
    ends = ((window.unsqueeze(-2) == openings) | (openings == _NONE)).all(-1).any(-1)
    # Texts are numbered upwards along a row, 0 being none, so the highest number that was opened is that of the last.
    number = torch.ones_like(window[..., 0]) if texts is None else texts[:, -length:]
    last = torch.where(ends, number, 0).cummax(1).values
    state, key = reading.state, (adapter_name, _LATCH)
    if state is not None:
        before = state.recall(key, 1, last.unsqueeze(-1))
        if before is not None:
            last = torch.maximum(last, before[:, :, 0])
        # Behind padding another text begins, and where much of it was read, the numbers may begin again too.
        state.remember(key, last.where(number > 0, 0).unsqueeze(-1), 1)
    return (last == number) & (number > 0)


def is_known_of(state: EngramCacheLayer, adapter_name: str, past: int) -> bool:
    """Whether a cache with ``past`` tokens says if a text is open: not where the adapter was added later."""
    return not past or (adapter_name, _LATCH) in state.values


def forget(state: EngramCacheLayer, adapter_name: str) -> None:
    """Say no more whether texts are open."""
    state.values.pop((adapter_name, _LATCH), None)
