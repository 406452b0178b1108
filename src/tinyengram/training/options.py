"""Options of PEFT methods: what is meant by another name, what is filled in, and what is not taken and why.

What a user gave is never changed. Filled in is only what a method cannot be made without, or what does not fit the base
as PEFT would have it; ``docs/methods.md`` lists it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError, nearest

if TYPE_CHECKING:
    from tinyengram.sources import Base
    from tinyengram.training.settings import TrainingSettings

VIRTUAL_TOKENS = 20
"""Virtual tokens of a prompt or a prefix where no number is given, as in PEFT's guides."""

_ADAPTION_LENGTH = 10  # And all blocks but the lowest two: arXiv 2303.16199, section 4.1.

# Methods that are not taken, and what is to be used in their place.
_NOT_TAKEN = {
    "lily": "it weighs its experts by the mean over every token of every text that is read together, later tokens "
    "included, so that no token has a probability that is its own; use lora",
    "xlora": "it mixes adapters that are trained already by what the whole text says, later tokens included, so that "
    "no token has a probability that is its own; train a single adapter (lora)",
    "poly": "it learns several tasks at once and must be told the task of every text (task_ids), and a study teaches "
    "one; use lora",
    "multitask_prompt_tuning": "it learns several tasks at once and must be told the task of every text (task_ids), "
    "and a study teaches one; use prompt_tuning",
}
# Initialisations of LoRA that need a pass over data which PEFT leaves to a program of one's own.
_OWN_PASS = {"corda": "preprocess_corda", "lora_ga": "preprocess_loraga"}

# Options that must divide the widths of what is adapted, with PEFT's defaults.
_MUST_DIVIDE = {"c3a": ("block_size", 256), "vblora": ("vector_length", 256), "road": ("group_size", 64)}

# What an option is also called, and the names that it has with one method or another.
_ALSO_CALLED = {
    "rank": ("r", "rank", "init_r"),
    "lora_r": ("r",),
    "r": ("rank", "init_r", "n_frequency"),
    "alpha": ("lora_alpha", "alpha"),
    "lora_alpha": ("alpha",),
    "scaling": ("lora_alpha", "scaling"),
    "dropout": ("lora_dropout", "module_dropout", "dropout"),
    "lora_dropout": ("module_dropout", "dropout"),
    "modules": ("target_modules",),
    "targets": ("target_modules",),
    "layers": ("layer_ids", "layers_to_transform", "adapter_layers"),
    "init": ("init_lora_weights", "init_weights"),
    "prompt_length": ("num_virtual_tokens", "adapter_len"),
    "virtual_tokens": ("num_virtual_tokens", "adapter_len"),
    "n_tokens": ("num_virtual_tokens", "adapter_len"),
    "tokens": ("token_indices", "cpt_token_ids"),
    "n_heads": ("n_head_per_ngram",),
    "num_heads": ("n_head_per_ngram",),
    "heads": ("n_head_per_ngram",),
    "ngram_size": ("max_ngram_size",),
    "vocab_size": ("engram_vocab_size",),
    "steps": ("total_step",),
    "total_steps": ("total_step",),
}
_OF_THE_TRAINING = {"lr": "learning_rate", "learning_rate": "learning_rate", "epochs": "epochs", "steps": "max_steps"}


def refuse_method(method: str) -> None:
    """Refuse a method that PEFT has and that cannot be trained, scored and generated from rightly here.

    Raises:
        TinyEngramError: Says why, and what to use instead.
    """
    if method in _NOT_TAKEN:
        raise TinyEngramError(f"PEFT method {method!r} is not taken: {_NOT_TAKEN[method]}.")


def refuse_unknown(method: str, options: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse options that a method does not have.

    Raises:
        TinyEngramError: Names the option that was probably meant.
    """
    known = set(allowed)
    for name in options:
        if name in known:
            continue
        meant = next((one for one in _ALSO_CALLED.get(name.lower(), ()) if one in known), None)
        if meant is not None:
            remedy = f" It is called {meant!r} there."
        elif name in _OF_THE_TRAINING:
            remedy = f" Set {_OF_THE_TRAINING[name]!r} in the arm's training section."
        else:
            remedy = nearest(name, known)
        raise TinyEngramError(f"Option {name!r} is unknown to the PEFT method {method!r}.{remedy}")


def refuse_options(method: str, options: Mapping[str, Any]) -> None:
    """Refuse what a method cannot do here, or cannot be made without.

    Raises:
        TinyEngramError: Says why, and what to use instead.
    """

    def refuse(what: str, remedy: str) -> None:
        raise TinyEngramError(f"The options of {method!r} are refused: {what}. {remedy}")

    if options.get("task_type", "CAUSAL_LM") != "CAUSAL_LM":
        refuse(f"task_type={options['task_type']!r}, and a language model is trained", "Leave task_type out.")
    if options.get("inference_mode"):
        refuse("inference_mode=true freezes the adapter", "Leave it out.")
    if options.get("alora_invocation_tokens"):
        refuse(
            "alora_invocation_tokens: an activated LoRA looks for its tokens in each piece that is read, and texts are "
            "read in pieces, on top of a cache",
            "Use opened_by: {after: <the invocation's text>}, which is remembered from piece to piece.",
        )
    if (init := options.get("init_lora_weights")) in _OWN_PASS:
        refuse(
            f"init_lora_weights={init!r} needs a pass over data before the adapter is made ({_OWN_PASS[str(init)]})",
            "Use 'eva', which looks at the training data by itself, or 'pissa' or 'olora', which look at the weights.",
        )
    if method == "adalora" and options.get("target_r", 8) >= options.get("init_r", 12):
        refuse(
            f"target_r={options.get('target_r', 8)} is not below init_r={options.get('init_r', 12)}",
            "Give a rank to end with that is below the one to begin with.",
        )
    if method == "adamss" and options.get("use_asa"):
        refuse("use_asa keeps state that no checkpoint holds, so that a run could not go on", "Leave use_asa out.")
    if method == "trainable_tokens" and not options.get("token_indices"):
        refuse("token_indices is missing", "Give the ids of the tokens to train, such as token_indices: [1, 2].")
    if method == "cpt":
        if not options.get("cpt_token_ids"):
            refuse(
                "cpt_token_ids is missing",
                "Give the token ids of the context to start from, with cpt_tokens_type_mask; or use prompt_tuning.",
            )
        if options.get("opt_weighted_loss_type", "none") != "none":
            refuse("opt_weighted_loss_type weighs the labels, and every label counts alike here", "Leave it out.")


def fill_in(
    method: str,
    options: Mapping[str, Any],
    fields: Iterable[str],
    *,
    base: Base,
    settings: TrainingSettings | None,
    examples: int,
) -> dict[str, Any]:
    """Options with what a method cannot be made without on this base.

    Args:
        method: In lower case.
        options: What the user gave; kept.
        fields: Options that the method has.
        base: The base that will be adapted.
        settings: How it will be trained; None: not known.
        examples: Training examples.

    Raises:
        TinyEngramError: AdaLoRA's ``total_step`` is missing and cannot be known, or is another than will be taken.
    """
    fields, filled = set(fields), {"task_type": "CAUSAL_LM", **options}
    if "num_virtual_tokens" in fields and method != "cpt":
        filled.setdefault("num_virtual_tokens", VIRTUAL_TOKENS)
    if filled.get("prompt_tuning_init") == "TEXT":
        filled.setdefault("tokenizer_name_or_path", base.tokenizer.name_or_path)
    if method == "adaption_prompt":
        depth = getattr(base.model.config, "num_hidden_layers", None)
        filled.setdefault("adapter_len", _ADAPTION_LENGTH)
        filled.setdefault("adapter_layers", max(1, depth - 2) if depth else None)
    if method == "adalora":
        filled["total_step"] = _total_step(options.get("total_step"), settings, examples)
    if method in _MUST_DIVIDE:
        name, default = _MUST_DIVIDE[method]
        filled.setdefault(name, _dividing(_common_width(base.model), default))
    if "target_modules" in fields and filled.get("target_modules") is None and _is_unmapped(method, base.model):
        filled["target_modules"] = "all-linear"
    return filled


def _common_width(model: Any) -> int:
    """The largest number that divides the widths of every linear layer but that of the output."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    output = model.get_output_embeddings()
    widths: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not output:
            widths += module.weight.shape
    return math.gcd(*widths)


def _dividing(width: int, most: int) -> int:
    """The largest divisor of ``width`` that is at most ``most``; ``most`` itself where there is no width."""
    return next((size for size in range(min(width, most), 0, -1) if width % size == 0), most)


def _is_unmapped(method: str, model: Any) -> bool:
    """Whether PEFT knows linear layers to adapt by this method in other architectures, but not in this one."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    by_name = {str(getattr(name, "value", name)).lower(): tuner for name, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()}
    known = getattr(by_name.get(method), "target_module_mapping", None) or {}
    return bool(known) and method != "ln_tuning" and getattr(model.config, "model_type", None) not in known


def total_steps(settings: TrainingSettings, examples: int) -> int:
    """Optimizer steps of a run on so many training examples, as ``transformers.Trainer`` counts them."""
    if settings.max_steps is not None:
        return settings.max_steps
    batches = math.ceil(examples / settings.batch_size)
    return math.ceil((settings.epochs or 1.0) * max(1, math.ceil(batches / settings.gradient_accumulation)))


def _total_step(given: int | None, settings: TrainingSettings | None, examples: int) -> int:
    """The steps over which AdaLoRA spreads its budget: those of the run."""
    if settings is None:
        if given is None:
            raise TinyEngramError(
                "The options of 'adalora' are refused: total_step is missing, and the training's length is not known. "
                "Give total_step, the number of optimizer steps."
            )
        return given
    steps = total_steps(settings, examples)
    if steps < 2:
        raise TinyEngramError(
            "The options of 'adalora' are refused: its budget shrinks over 2 steps at least; train longer."
        )
    if given is not None and given != steps:
        raise TinyEngramError(
            f"The options of 'adalora' are refused: total_step={given}, but {steps} steps are trained. Leave "
            "total_step out: it follows the training's length."
        )
    return steps
