"""Configs of a memory to paste: into a program, and among the arms of a study."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

_STUDIED_WIDTH = 256  # of exact memories in the presets


class Snippet(BaseModel):
    """A config as a program makes it, and as an arm of a study."""

    model_config = ConfigDict(frozen=True)

    python: str
    study: str


def exact_snippet(orders: Sequence[int], layer_ids: Sequence[int], tokenizer: Any) -> Snippet:
    """An exact memory of some orders; a program has ``texts_as_ids``, ``answer_masks`` and ``tokenizer`` at hand."""
    sizes: dict[str, Any] = {
        "layer_ids": list(layer_ids),
        "max_ngram_size": max(2, *orders),
        "n_embed_per_ngram": _STUDIED_WIDTH,
    }
    collected = (
        f"collect_ngrams(texts_as_ids, answer_masks, orders={list(orders)}, "
        f"compression=compress_vocabulary(tokenizer), pad_token_id={tokenizer.pad_token_id})"
    )
    return Snippet(
        python=_python({"memory": "exact"}, {"ngrams": collected}, sizes, tokenizer),
        study=_study("engram-exact", {"memory": "exact", "ngrams": {"orders": list(orders)}, **sizes}),
    )


def hashed_snippet(engram_vocab_size: Sequence[int], layer_ids: Sequence[int], tokenizer: Any) -> Snippet:
    """A hashed memory with so many rows per head for each order from 2 on."""
    sizes = {
        "layer_ids": list(layer_ids),
        "max_ngram_size": len(engram_vocab_size) + 1,
        "engram_vocab_size": list(engram_vocab_size),
    }
    return Snippet(python=_python({}, {}, sizes, tokenizer), study=_study("engram-hashed", sizes))


def _python(kind: dict[str, Any], made: dict[str, str], sizes: dict[str, Any], tokenizer: Any) -> str:
    """A config's call; ``made`` are expressions, all else values. A study sets the last three by itself."""
    of_the_base = {
        "tokenizer_name_or_path": tokenizer.name_or_path,
        "pad_token_id": tokenizer.pad_token_id,
        "task_type": "CAUSAL_LM",
    }
    given = [f"{name}={value!r}" for name, value in kind.items()]
    given += [f"{name}={expression}" for name, expression in made.items()]
    given += [f"{name}={value!r}" for name, value in (sizes | of_the_base).items()]
    return "EngramConfig(\n" + "".join(f"    {one},\n" for one in given) + ")"


def _study(arm: str, options: dict[str, Any]) -> str:
    written = "".join(f"    {name}: {_on_one_line(value)}\n" for name, value in options.items())
    return f"{arm}:\n  method: engram\n  options:\n{written}"


def _on_one_line(value: Any) -> str:
    """YAML as the presets write it."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
