"""PEFT methods by name: their configs from plain options, and whether they fit a base."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError, nearest
from tinyengram.host import peft_methods, versions
from tinyengram.training.options import fill_in, refuse_method, refuse_options, refuse_unknown

if TYPE_CHECKING:
    from peft import PeftConfig

    from tinyengram.sources import Base
    from tinyengram.tasks.rendering import EncodedExample
    from tinyengram.training.examples import Examples
    from tinyengram.training.settings import TrainingSettings


def peft_config(
    method: str,
    options: dict[str, Any],
    *,
    base: Base,
    train: Sequence[EncodedExample] | None = None,
    settings: TrainingSettings | None = None,
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
        settings: How it will be trained, for methods that must know its length (AdaLoRA).

    Raises:
        TinyEngramError: The method or an option is unknown, or is not taken; says why and names the nearest.
    """
    import tinyengram.memory  # noqa: F401 - makes Engram known to PEFT

    known = peft_methods()
    name = method.lower()
    if name not in known:
        raise TinyEngramError(f"PEFT method {method!r} is unknown.{nearest(name, known)}")
    refuse_method(name)
    config_class = known[name]
    allowed = {field.name for field in dataclasses.fields(config_class)} - {"fingerprint", "peft_type", "auto_mapping"}
    refuse_unknown(method, options, allowed)
    refuse_options(name, options)
    options = fill_in(name, options, allowed, base=base, settings=settings, examples=len(train or ()))
    if name == "engram":
        options.setdefault("tokenizer_name_or_path", base.tokenizer.name_or_path)
        options.setdefault("pad_token_id", base.tokenizer.pad_token_id or 0)
        if options.get("memory") == "exact":
            options["ngrams"] = _collect(options, base, train or [])
    try:
        return config_class(**options)
    except Exception as error:  # Of whatever kind: PEFT's methods have no agreed one.
        raise TinyEngramError(f"The options of {method!r} are refused: {_reason(error)}") from error


def config_for(
    method: str, options: dict[str, Any], *, base: Base, examples: Examples, settings: TrainingSettings
) -> PeftConfig:
    """:func:`peft_config` for examples that will be learnt: with a latch that they open.

    Raises:
        TinyEngramError: As there, or no training example holds what ``open_after`` names.
    """
    if "opened_by" in options:
        return _opened_lora(method, options, base=base, examples=examples, settings=settings)
    given = options.get("open_after")
    if method.lower() == "engram" and given is not None:
        options = {**options, "open_after": _resolved(given, "open_after", base, examples)}
    return peft_config(method, options, base=base, train=examples.train, settings=settings)


def _resolved(given: Any, option: str, base: Base, examples: Examples) -> list[list[int]]:
    """The runs of tokens that open, which some training example must hold."""
    from tinyengram.memory.latch import TOOLS, check_opening, holds_any, openings_of

    try:
        check_opening(given)
        found = examples.opening_of_tools if given == TOOLS else given
        runs = openings_of(found, len(base.tokenizer), lambda: base.tokenizer)
    except ValueError as error:
        raise TinyEngramError(str(error)) from error
    shut = [one.id for one in examples.train if not holds_any(one.input_ids, runs)]
    if len(shut) == len(examples.train):
        raise TinyEngramError(
            f"{option}={given!r}: none of the {len(shut)} training examples holds it, so there would be learnt "
            "nothing. Name what your prompts hold, as they are written."
        )
    if shut:
        warnings.warn(
            f"{len(shut)} of {len(examples.train)} training examples never open the memory ({option}={given!r}), "
            f"which learns nothing from them, such as {shut[0]}.",
            stacklevel=2,
        )
    return runs


def _opened_lora(
    method: str, options: dict[str, Any], *, base: Base, examples: Examples, settings: TrainingSettings
) -> PeftConfig:
    """A LoRA that counts only where ``opened_by`` says; see :mod:`tinyengram.training.opened`."""
    from tinyengram.training.opened import OpenedLoraConfig, refuse_unopenable

    rule, others = options["opened_by"], {name: value for name, value in options.items() if name != "opened_by"}
    refuse_unopenable(method, others, rule)
    if "after" in rule:
        found: dict[str, Any] = {"after": _resolved(rule["after"], "opened_by.after", base, examples)}
    else:
        from tinyengram.memory import compress_vocabulary

        name, pad = base.tokenizer.name_or_path, base.tokenizer.pad_token_id or 0
        reads = {"ngrams": rule["ngrams"], "tokenizer_name_or_path": name, "pad_token_id": pad}
        known = _collect(reads, base, examples.train)
        canonical = compress_vocabulary(base.tokenizer).tolist()
        found = {"ngrams": known.ngrams.tolist(), "map": canonical, "pad": canonical[pad]}
    plain = peft_config(method, others, base=base, train=examples.train, settings=settings)
    own = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain) if field.init}
    return OpenedLoraConfig(**own, opened_by=found)


def _reason(error: Exception) -> str:
    """What an error of PEFT says, in a line; its kind where that is an accident and not meant for a reader."""
    said = " ".join(str(error).split())
    if isinstance(error, ValueError | ImportError | NotImplementedError) and said:
        return said
    return f"{said or type(error).__name__} ({type(error).__name__} in {versions()})"


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
    refuse_names_without_module(config, base.model)
    try:
        try:
            trainable = _trainable_parameters(config, base, hollow=True)
        except Exception:  # The method looks at the base's weights, or it fails there too.
            trainable = _trainable_parameters(config, base, hollow=False)
    except Exception as error:
        raise TinyEngramError(f"{type(config).__name__} does not fit the base: {_reason(error)}") from error
    if not trainable:
        raise TinyEngramError(f"{type(config).__name__} trains no parameter of the base; give it something to adapt.")
    return trainable


def _trainable_parameters(config: PeftConfig, base: Base, *, hollow: bool) -> int:
    """How many parameters an adapter trains, counted on a copy of the base, which has no weights if ``hollow``."""
    import copy

    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.device("meta") if hollow else nullcontext():
        model: Any = AutoModelForCausalLM.from_config(base.model.config) if hollow else copy.deepcopy(base.model)
        model = get_peft_model(model, copy.deepcopy(config))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def refuse_names_without_module(config: PeftConfig, model: Any) -> None:
    """Refuse a config that names modules of which some are not there: PEFT adapts the others without a word.

    Raises:
        TinyEngramError: Names those, and what they may be meant to be.
    """
    modules = [name for name, _ in model.named_modules()]
    for option in _NAMES_MODULES:
        wanted = getattr(config, option, None)
        if not wanted or isinstance(wanted, str):  # A pattern, or all-linear.
            continue
        absent = sorted(name for name in wanted if not any(f".{module}".endswith(f".{name}") for module in modules))
        if absent:
            parts = {name.rpartition(".")[2] for name in modules} - {""}
            parts = {part for part in parts if not part.isdigit()}
            raise TinyEngramError(
                f"{type(config).__name__}: {option} names {', '.join(map(repr, absent))}, and the base has no such "
                f"module.{nearest(absent[0], parts)}"
            )


_NAMES_MODULES = ("target_modules", "feedforward_modules", "exclude_modules", "modules_to_save")
