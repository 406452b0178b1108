"""Are generated calls right? Greedy answers, parsed and compared with what is allowed, never as text.

A call is right as BFCL defines it (Patil et al. 2025, "The Berkeley Function Calling Leaderboard"): the right
functions, each argument one of its allowed values, optional arguments given or left out, the order of parallel calls
without meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import BaseModel

from tinyengram.batches import left_padded
from tinyengram.tasks.tool_calls import CALL_MARKER, ToolCall

_PUNCTUATION = re.compile(r"[ ,./\-_*^]")
_OPTIONAL = ""


class CallVerdict(BaseModel):
    """One generated answer, judged.

    Attributes:
        id: Of the tool call.
        text: What was generated.
        parses: Every marked call is a JSON object with a name and arguments, and there is at least one.
        functions: The right functions, each as often as it should be called.
        right: The right functions with allowed arguments.
        refrains: Nothing is called.
    """

    id: str
    text: str
    parses: bool
    functions: bool
    right: bool
    refrains: bool


class CallScores(BaseModel):
    """Verdicts on requests that want a call, and on requests that none of the offered tools fits."""

    wanted: list[CallVerdict]
    unwanted: list[CallVerdict]

    @property
    def parses(self) -> float:
        """Share of wanted calls that parse."""
        return _share([verdict.parses for verdict in self.wanted])

    @property
    def functions(self) -> float:
        """Share of wanted calls with the right functions."""
        return _share([verdict.functions for verdict in self.wanted])

    @property
    def right(self) -> float:
        """Share of wanted calls that are right."""
        return _share([verdict.right for verdict in self.wanted])

    @property
    def refrains(self) -> float:
        """Share of unfitting requests at which nothing is called."""
        return _share([verdict.refrains for verdict in self.unwanted])


def score_calls(
    model: Any,
    tokenizer: Any,
    wanted: Sequence[ToolCall],
    unwanted: Sequence[ToolCall],
    *,
    prompt: Callable[[ToolCall], str],
    max_new_tokens: int = 128,
    batch_size: int = 8,
    on_done: Callable[[int], None] | None = None,
) -> CallScores:
    """Generate an answer to every request and judge it.

    Args:
        model: In evaluation mode, with or without an adapter.
        tokenizer: Its tokenizer.
        wanted: Requests that want a call, with their ground truth or a written output.
        unwanted: Requests that none of the offered tools fits.
        prompt: Writes a request as the text that generation continues.
        max_new_tokens: An answer is cut there, and judged as it is.
        batch_size: Requests at a time, of similar length.
        on_done: Called with the number of requests that were just finished.
    """
    everything = [*wanted, *unwanted]
    texts = _generate(model, tokenizer, [prompt(call) for call in everything], max_new_tokens, batch_size, on_done)
    verdicts = [judge(call, text) for call, text in zip(everything, texts, strict=True)]
    return CallScores(wanted=verdicts[: len(wanted)], unwanted=verdicts[len(wanted) :])


def judge(call: ToolCall, text: str) -> CallVerdict:
    """Judge one generated answer; without a ground truth the calls of ``call.output`` are the only right ones."""
    made = parse_calls(text)
    truth = list(call.ground_truth) or [
        {name: {argument: [value] for argument, value in arguments.items()}}
        for name, arguments in parse_calls(call.output) or []
    ]
    functions = made is not None and sorted(name for name, _ in made) == sorted(name for one in truth for name in one)
    return CallVerdict(
        id=call.id,
        text=text,
        parses=bool(made),
        functions=bool(made) and functions,
        right=bool(made) and functions and _pair_up(made or [], truth),
        refrains=CALL_MARKER not in text,
    )


def parse_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """Calls written as ``<functioncall> {"name": …, "arguments": …}``, or None when one of them is no such object.

    Glaive writes its arguments as JSON within a string in single quotes; both spellings are read.
    """
    calls = []
    for part in text.split(CALL_MARKER)[1:]:
        written = re.sub(r"'(\{.*\})'", r"\1", part.strip(), flags=re.DOTALL)
        try:
            value, _ = json.JSONDecoder().raw_decode(written)
            arguments = value["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            name = value["name"]
        except (ValueError, TypeError, KeyError):
            return None
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return None
        calls.append((name, arguments))
    return calls


def _pair_up(made: list[tuple[str, dict[str, Any]]], truth: list[dict[str, Any]]) -> bool:
    """Whether calls and truths can be paired one to one, in any order."""
    if not made:
        return not truth
    (name, arguments), *rest = made
    for index, one in enumerate(truth):
        fits = name in one and _arguments_fit(arguments, one[name])
        if fits and _pair_up(rest, truth[:index] + truth[index + 1 :]):
            return True
    return False


def _arguments_fit(arguments: dict[str, Any], allowed: dict[str, list[Any]]) -> bool:
    """Every argument is known and has an allowed value, and none that is required is missing."""
    if not arguments.keys() <= allowed.keys():
        return False
    return all(
        # Where a row of BFCL allows no value at all, there is nothing to give.
        any(_same(arguments[name], value) for value in values)
        if name in arguments
        else not values or _OPTIONAL in values
        for name, values in allowed.items()
    )


def _same(value: Any, allowed: Any) -> bool:
    """Whether a value is the allowed one: strings without case and punctuation, whole numbers as floats.

    In an allowed object each key again lists what it may be.
    """
    if isinstance(allowed, dict):
        if not isinstance(value, dict):
            return False
        return _arguments_fit(value, {key: one if isinstance(one, list) else [one] for key, one in allowed.items()})
    if isinstance(allowed, list | tuple):
        if not isinstance(value, list) or len(value) != len(allowed):
            return False
        return all(_same(one, other) for one, other in zip(value, allowed, strict=True))
    if isinstance(value, str) and isinstance(allowed, str):
        return _PUNCTUATION.sub("", value).lower() == _PUNCTUATION.sub("", allowed).lower()
    if isinstance(value, bool) or isinstance(allowed, bool):
        return value is allowed
    if isinstance(value, str) or isinstance(allowed, str):
        return False
    return bool(value == allowed)


def _generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    on_done: Callable[[int], None] | None,
) -> list[str]:
    """Greedy answers, in batches of similar length; a row stops at the end of its turn."""
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")} - {None, tokenizer.unk_token_id}
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    device = next(model.parameters()).device
    answers = [""] * len(prompts)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch, attention = left_padded([ids[index] for index in part], pad)
        with torch.inference_mode():
            written = model.generate(
                input_ids=batch.to(device),
                attention_mask=attention.to(device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(ends),
                pad_token_id=pad,
            )[:, batch.shape[1] :].tolist()
        for row, index in enumerate(part):
            stop = next((at for at, token in enumerate(written[row]) if token in ends), len(written[row]))
            answers[index] = tokenizer.decode(written[row][:stop])
        if on_done is not None:
            on_done(len(part))
    return answers


def _share(judged: Sequence[bool]) -> float:
    return sum(judged) / len(judged) if judged else float("nan")
