"""What this package relies on inside transformers and PEFT, in one place.

Both move: transformers 5.24 renamed the argument that carries the key-value cache, and everything that had its old name
written down was wrong that day. So each thing that others may rename stands here once, with what it is needed for and
since when it is so; ``tests/test_host.py`` holds every line of it against the libraries that are installed. Nothing
here changes what a library does, but for two registries that are filled, PEFT's methods and Trainer's optimizers, and
for :func:`before_saving`.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

# transformers: the argument and the output's attribute that carry the key-value cache, newest name first. ``cache``
# since 5.24 (which takes the old name until 5.40 with a warning); models with code of their own keep the old one.
CACHE_NAMES = ("cache", "past_key_values")

# PEFT 0.21: what a tuner overrides besides the abstract methods. PEFT calls each by this name; after a rename it would
# call its own instead, and a memory would be saved without its checks.
TUNER_HOOKS = (
    "_check_merge_allowed",
    "_create_and_replace",
    "_get_adapter_state_dict",
    "_prepare_adapter_config",
    "_prepare_model",
    "_remap_adapter_state_dict_for_load",
    "_remove_adapter_name_from_key",
    "_replace_module",
    "_unload_and_optionally_merge",
    "delete_adapter",
    "inject_adapter",
    "unmerge_adapter",
)
# PEFT 0.10: what a PEFT model calls around a forward pass on a tuner that has it; no tuner has to.
FORWARD_HOOK = "_enable_peft_forward_hooks"

# PEFT 0.21: what LoRA begins with when it takes that out of the base's weights, by the start of `init_lora_weights`.
# With the adapter switched off such a model says what neither it nor its base ever said.
STARTS_TAKEN_FROM_BASE = ("pissa", "corda", "olora", "loftq", "lora_ga")

# transformers 5.24: models that take a cache but keep state elsewhere, by type, so that it cannot be known what the
# cache's tokens were read with. Cached logits of such a model differ from its own uncached ones, or fail.
STATE_ELSEWHERE = {
    "recurrent_gemma": "keeps its recurrent state on its own modules",
    "minimax": "counts no tokens in its cache",
    "xlstm": "keeps its state in a cache of its own kind",
}


logger = logging.getLogger(__name__)


class HostError(ValueError):
    """An installed library, or a model, lacks something that is relied on; names it with the versions."""


def versions() -> str:
    """The libraries that are relied on with their versions, for messages."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))


# --- arguments of a model ------------------------------------------------------------------------------------------


def forward_arguments(model: Any) -> Mapping[str, inspect.Parameter]:
    """Arguments of a model's forward pass by name; a PEFT model is asked for those of its base.

    A decorator of transformers that takes deprecated names does not hide them: it keeps the wrapped signature.
    """
    while hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return inspect.signature(model.forward).parameters


def by_name(names: Iterable[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, of a call that may give some by place; a compiler follows it, unlike ``Signature.bind``."""
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def takes_argument(model: Any, name: str) -> bool:
    """Whether a model's forward pass has an argument of this name: ``logits_to_keep``, ``position_ids``."""
    return name in forward_arguments(model)


def cache_argument(model: Any) -> str:
    """Name of the argument of a model's forward pass that takes the key-value cache.

    Raises:
        HostError: It has none of the known names: the model keeps its state in another way (RWKV; Mamba before 5.24),
            or transformers renamed it again; or its type is one of :data:`STATE_ELSEWHERE`.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in STATE_ELSEWHERE:
        raise HostError(
            f"{type(model).__name__} {STATE_ELSEWHERE[kind]} ({versions()}), so a memory cannot follow it from step to "
            "step. Use a model with attention layers, or one of the Mamba family."
        )
    arguments = forward_arguments(model)
    for name in CACHE_NAMES:
        if name in arguments:
            return name
    name = model.__name__ if isinstance(model, type) else type(model).__name__
    raise HostError(
        f"{name} takes no key-value cache: none of {', '.join(CACHE_NAMES)} is an argument of its "
        f"forward pass ({versions()}). Use a model with attention layers, or a version of transformers that this "
        "package was run with."
    )


# --- the key-value cache -------------------------------------------------------------------------------------------


def cache_given(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a forward pass, under whichever name, or None."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def cache_of(output: Any) -> Any:
    """The cache that a model's output holds, or None.

    Since 5.24 an output that declares the old name (a model with code of its own) keeps the cache as an attribute of
    the new one, but not among its items.
    """
    return cache_given({**(output if isinstance(output, Mapping) else {}), **getattr(output, "__dict__", {})})


def empty_cache(model: Any) -> Any:
    """A cache of the kind that a model makes for itself: sliding windows, recurrent layers and all."""
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def has_layers(cache: Any) -> bool:
    """Whether a cache is a list of layers, on which something can be kept (``Cache.layers``, since 4.54).

    The paged cache of continuous batching is not, nor are the tuples of old models.
    """
    return isinstance(getattr(cache, "layers", None), list)


def bystander_layer() -> type:
    """What a cache's further entry is derived from.

    Since 5.20 the places of transformers that walk over the layers' keys and values, as to bring offloaded ones back,
    pass over its ``DummyLayer``.
    """
    from transformers import cache_utils

    return getattr(cache_utils, "DummyLayer", object)


def length_of(cache: Any, default: int) -> int:
    """Tokens that a cache holds; ``default`` where none of its layers counts them, or only in a way that is not known.

    Since 5.24 the caches of recurrent models (Mamba) are lists of layers too, of which those without keys do not
    count, and ``get_seq_length`` raises where no layer does. Static caches count in a tensor, on whose value no graph
    that is being compiled can depend.
    """
    import torch
    from transformers import cache_utils

    recurrent = getattr(cache_utils, "LinearAttentionCacheLayerMixin", ())
    counts = any(isinstance(layer, cache_utils.CacheLayerMixin) for layer in cache.layers)
    if not counts and any(isinstance(layer, recurrent) for layer in cache.layers):
        return default
    length = cache.get_seq_length()
    return default if isinstance(length, torch.Tensor) and torch.compiler.is_compiling() else int(length)


def keeps_every_token(cache: Any) -> bool:
    """Whether each layer holds keys and values of every token, by place: ``(batch, heads, time, width)``."""
    from transformers.cache_utils import DynamicLayer

    return all(type(layer) is DynamicLayer for layer in cache.layers)


def make_missing_layers(cache: Any, n_layers: int) -> None:
    """Give a cache the layers that it would make at its first use (``layer_class_to_replicate``, since 4.56)."""
    make = getattr(cache, "layer_class_to_replicate", None)
    while make is not None and len(cache.layers) < n_layers:
        cache.layers.append(make())


# --- the parts of a model ------------------------------------------------------------------------------------------


def text_config(model: Any) -> Any:
    """The part of a model's configuration that speaks of its language model."""
    return model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config


def find_blocks(model: Any) -> tuple[str, str]:
    """Names of a model's decoder and of its list of blocks.

    Found by structure, since each architecture has names of its own: the outermost list with as many modules as the
    configuration counts hidden layers, in a module that takes ``input_ids``.

    Raises:
        HostError: There is no such list, or nothing that counts the blocks.
    """
    from torch import nn

    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise HostError(f"{type(model).__name__} has an encoder; Engram needs a decoder-only language model.")
    depth = None if config is None else getattr(text_config(model), "num_hidden_layers", None)
    if depth is None:
        raise HostError(
            f"{type(model).__name__} has no config that counts its blocks (num_hidden_layers); Engram needs a "
            "decoder-only language model, such as those of transformers."
        )
    lists = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            holder = name.rpartition(".")[0]
            if takes_argument(model.get_submodule(holder), "input_ids"):
                lists.append((holder, name))
    if not lists:
        raise HostError(
            f"{type(model).__name__} has no list of {depth} blocks in a module that takes input_ids; Engram needs a "
            "decoder-only language model."
        )
    return min(lists, key=lambda found: len(found[1]))


# --- PEFT ----------------------------------------------------------------------------------------------------------


def base_is_below(model: Any) -> bool:
    """Whether a model is its base again while its adapters are switched off.

    A model that is no PEFT model is not, nor is one whose adapter changed the base's own weights: by its start (PiSSA
    and its like, see :data:`STARTS_TAKEN_FROM_BASE`) or by training the base's biases (``bias="all"``).
    """
    if not hasattr(model, "disable_adapter"):
        return False
    for config in model.peft_config.values():
        start, bias = getattr(config, "init_lora_weights", True), getattr(config, "bias", "none")
        if str(start).lower().startswith(STARTS_TAKEN_FROM_BASE) or bias not in ("none", False, None):
            return False
    return True


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The base beneath a PEFT model; afterwards what was trainable before is, and nothing else.

    PEFT itself makes every parameter of the active adapters trainable when it switches them on again.
    """
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)


def register_method(name: Any, config: type, tuner: type) -> None:
    """Make a method known to PEFT by filling the tables that ``register_peft_method`` fills.

    That function takes only names of PEFT's own enum (0.21), so the tables are filled here.

    Raises:
        HostError: PEFT no longer has one of :data:`TUNER_HOOKS`.
    """
    from peft import mapping
    from peft.tuners.tuners_utils import BaseTuner

    missing = [hook for hook in TUNER_HOOKS if not hasattr(BaseTuner, hook)]
    if missing:
        raise HostError(
            f"PEFT's tuners lost {', '.join(missing)} ({versions()}), so a memory could not be saved or loaded "
            "rightly. Install a version of PEFT that this package takes."
        )
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[name] = config
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[name] = tuner
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[name] = tuner.prefix  # type: ignore[attr-defined]


def peft_methods() -> dict[str, type]:
    """Config classes of the methods that PEFT knows, by name in lower case."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {str(getattr(name, "value", name)).lower(): config for name, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


# --- the optimizer of transformers.Trainer -------------------------------------------------------------------------


@dataclass(frozen=True)
class AdaptedOptimizer:
    """An entry of Trainer's table of optimizers whose choice another function may change."""

    make: Callable[[Any], tuple[Any, dict[str, Any]]]
    adapt: Callable[[Any, Any, Any, dict[str, Any]], tuple[Any, dict[str, Any]]]

    def __call__(self, context: Any) -> tuple[Any, dict[str, Any]]:
        optimizer, options = self.make(context)
        return self.adapt(context.model, context.args, optimizer, options)


def adapt_optimizers(adapt: Callable[[Any, Any, Any, dict[str, Any]], tuple[Any, dict[str, Any]]]) -> None:
    """Let ``adapt`` change what Trainer makes its optimizer from; an optimizer that a user gave never comes here.

    In transformers 5.6 each name that ``TrainingArguments.optim`` may have stands in a table with a function of a
    context (``args``, ``model``) that returns class and keyword arguments; groups among these, as ``params``, take the
    place of Trainer's own, as GaLore's do. A model cannot tell Trainer how it wants to be trained, so the entries of
    the table are wrapped. Trainer itself is not touched; calling this again changes nothing.

    Args:
        adapt: Takes model, training arguments, class and keyword arguments; returns the latter two.
    """
    try:
        from transformers.trainer_optimizer import _OPTIMIZER_HANDLERS as handlers
    except ImportError:
        logger.warning(
            "Trainer's table of optimizers was not found (%s), so Trainer trains tables of an Engram memory as "
            "everything else. Give it optimizers=(tinyengram.memory.optim.row_sparse_adamw(model, rate), None).",
            versions(),
        )
        return
    for name, make in handlers.items():
        if not isinstance(make, AdaptedOptimizer):
            handlers[name] = AdaptedOptimizer(make, adapt)


def before_saving(gather: Callable[[Any], None]) -> None:
    """Have ``Trainer.save_model`` first call ``gather`` with its model, on every process; once."""
    from transformers import Trainer

    save = Trainer.save_model
    if hasattr(save, "__wrapped__"):
        return

    @functools.wraps(save)
    def save_model(trainer: Any, *given: Any, **named: Any) -> None:
        gather(trainer.model)
        save(trainer, *given, **named)

    Trainer.save_model = save_model  # type: ignore[method-assign, assignment]
