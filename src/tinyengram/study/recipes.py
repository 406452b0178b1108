"""Methods by a short name, with options and a learning rate that are a good start; or from a file of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tinyengram.errors import nearest
from tinyengram.host import peft_methods
from tinyengram.study.plan import ArmSection, StudyError, checked, yaml_problem

_SUFFIXES = (".yaml", ".yml")


def recipe(method: str, blocks: int) -> ArmSection:
    """A method with options and learning rate.

    Args:
        method: ``lora``, ``engram`` (hashed), ``engram-exact``, another PEFT method with its own defaults, or a YAML
            file with ``method``, ``options`` and ``training`` as an arm of a study has them.
        blocks: Decoder blocks of the base; a memory sits on some of them.

    Raises:
        StudyError: There is no such method or file, or the file holds something else.
    """
    if method.endswith(_SUFFIXES):
        return _from_file(Path(method))
    known: dict[str, Callable[[int], ArmSection]] = {"lora": _lora, "engram": _hashed, "engram-exact": _exact}
    if method in known:
        return known[method](blocks)
    names = [*known, *(name for name in peft_methods() if name not in known)]
    if method not in names:
        raise StudyError(
            f"--method {method!r} is unknown.{nearest(method, names)} A file of your own must end in .yaml."
        )
    return ArmSection(method=method, training={"learning_rate": 1e-3})


def _lora(_: int) -> ArmSection:
    options: dict[str, Any] = {"r": 16, "lora_alpha": 16, "target_modules": "all-linear"}
    return ArmSection(method="lora", options=options, training={"learning_rate": 6e-4})


def _hashed(blocks: int) -> ArmSection:
    """As in the experiment, but without a convolution: the first blocks but one, three orders, sixteen heads."""
    options = {
        "layer_ids": list(range(min(1, blocks - 1), min(5, blocks))),
        "max_ngram_size": 4,
        "engram_vocab_size": [500, 100, 100],
        "n_embed_per_ngram": 1024,
        "n_head_per_ngram": 16,
        "kernel_size": 0,  # With one it learnt less in each of three seeds (docs/engram.md).
    }
    return ArmSection(method="engram", options=options, training={"learning_rate": 4e-3})


def _exact(blocks: int) -> ArmSection:
    """Three blocks of the upper half, where the quick study has them."""
    options = {
        "memory": "exact",
        "ngrams": {"orders": [2, 3, 4]},
        "layer_ids": sorted({int(blocks * share) for share in (0.47, 0.67, 0.87)}),
        "n_embed_per_ngram": 256,
        "kernel_size": 0,  # A convolution won 3% of the loss (docs/engram.md), and would have to be carried.
    }
    return ArmSection(method="engram", options=options, training={"learning_rate": 1.2e-2})


def _from_file(file: Path) -> ArmSection:
    if not file.is_file():
        raise StudyError(f"--method {file}: there is no such file.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise StudyError(f"{file} is not UTF-8 ({error.reason}). Convert it.") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{file} is not valid YAML: {yaml_problem(error)}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{file} must hold the keys method, options and training.")
    arm = checked(ArmSection, content, f"{file}: ")
    if arm.rates:
        raise StudyError(f"{file}: rates are for studies (compare); give training.learning_rate here.")
    if arm.wise_ft is not None:
        raise StudyError(f"{file}: wise_ft scales another arm of a study (compare); give a method here.")
    return arm
