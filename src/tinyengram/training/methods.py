"""PEFT methods by name: their configs from plain options, and whether they fit a base."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.host import peft_methods

if TYPE_CHECKING:
    from peft import PeftConfig

    from tinyengram.sources import Base
    from tinyengram.tasks.rendering import EncodedExample


def peft_config(
    method: str, options: dict[str, Any], *, base: Base, train: Sequence[EncodedExample] | None = None
) -> PeftConfig:
    """Make the PEFT config of an arm from its name and options.

    Engram arms read with the base's own tokenizer unless ``tokenizer_name_or_path`` says otherwise (null: raw ids). For
    ``memory: exact`` the option ``ngrams`` holds the arguments of :func:`tinyengram.collect_ngrams`, applied to
    ``train``.

    Args:
        method: A PEFT method, in any case: ``lora``, ``engram``, ``osf``, …
        options: Its options, by PEFT's names.
        base: The base that will be adapted.
        train: Training examples, for methods that look at them.

    Raises:
        TinyEngramError: The method or an option is unknown, or a value is refused; names the nearest.
    """
    import tinyengram.memory  # noqa: F401 - makes Engram known to PEFT

    known = peft_methods()
    if method.lower() not in known:
        raise TinyEngramError(f"PEFT method {method!r} is unknown.{nearest(method.lower(), known)}")
    config_class = known[method.lower()]
    allowed = {field.name for field in dataclasses.fields(config_class)} - {"fingerprint", "peft_type", "auto_mapping"}
    for name in options:
        if name not in allowed:
            raise TinyEngramError(f"Option {name!r} is unknown to the PEFT method {method!r}.{nearest(name, allowed)}")
    options = {"task_type": "CAUSAL_LM", **options}
    if method.lower() == "engram":
        options.setdefault("tokenizer_name_or_path", base.tokenizer.name_or_path)
        options.setdefault("pad_token_id", base.tokenizer.pad_token_id or 0)
        if options.get("memory") == "exact":
            options["ngrams"] = _collect(options, base, train or [])
    try:
        return config_class(**options)
    except (TypeError, ValueError) as error:
        raise TinyEngramError(f"The options of {method!r} are refused: {error}") from error


def _collect(options: dict[str, Any], base: Base, train: Sequence[EncodedExample]) -> Any:
    """The known n-grams of an exact memory: those that end where a token of the answer is to be predicted."""
    from tinyengram.memory import collect_ngrams, compress_vocabulary

    if not train:
        raise TinyEngramError("memory='exact' collects its n-grams from training examples, and there are none.")
    arguments = dict(options.get("ngrams") or {})
    tokenizer = options["tokenizer_name_or_path"]
    compression = compress_vocabulary(base.tokenizer) if tokenizer is not None else None
    try:
        return collect_ngrams(
            [example.input_ids for example in train],
            [example.answer_mask for example in train],
            compression=compression,
            pad_token_id=options["pad_token_id"],
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise TinyEngramError(f"ngrams={arguments!r} is refused: {error}") from error


def check_config(config: PeftConfig, base: Base) -> int:
    """Refuse, before anything is trained, a config that does not fit the base.

    The adapter is put on a copy of the base without weights, or with them if the method needs them.

    Returns:
        Number of trainable parameters.

    Raises:
        TinyEngramError: PEFT or the method refuses; its reason is passed on.
    """
    import copy

    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    def adapted(hollow: bool) -> int:
        with torch.device("meta") if hollow else nullcontext():
            model: Any = AutoModelForCausalLM.from_config(base.model.config) if hollow else copy.deepcopy(base.model)
            model = get_peft_model(model, copy.deepcopy(config))
        return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

    try:
        try:
            return adapted(hollow=True)
        except (NotImplementedError, RuntimeError):  # The method looks at the base's weights.
            return adapted(hollow=False)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TinyEngramError(f"{type(config).__name__} does not fit the base: {error}") from error
