"""Nulls of a study: a LoRA that counts only where a memory's latch is open, or where a memory would know an n-gram.

Its delta is exactly zero elsewhere, so that the model is its base there; what it learns is learnt where it counts. Made
with ``opened_by`` among the options of ``lora``; kept in ``adapter_config.json``, which only
:func:`tinyengram.training.load_adapter` heeds: PEFT itself would load a LoRA that is always on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer

from tinyengram import host
from tinyengram.errors import TinyEngramError
from tinyengram.memory.cache import EngramCacheLayer, ForgottenError
from tinyengram.memory.following import follow, lacking_places
from tinyengram.memory.latch import as_tensor, is_known_of, open_places
from tinyengram.memory.ngrams import KnownNgrams, exact_rows
from tinyengram.memory.reading import Reading, ReadingSlot

_NAME = "opened lora"
# Options of a LoRA whose delta is more than what one linear layer adds at a place, or that trains other things too.
_NOT_BY_PLACE = (
    "use_dora",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "use_bdlora",
    "velora_config",
)


@dataclass
class OpenedLoraConfig(LoraConfig):
    """A LoRA with ``opened_by``: ``{"after": runs of token ids}`` or ``{"ngrams": [...], "map": [...], "pad": id}``."""

    opened_by: dict[str, Any] | None = field(default=None, repr=False)


def refuse_unopenable(method: str, options: dict[str, Any], opened_by: Any) -> None:
    """Refuse what cannot be switched place by place.

    Raises:
        TinyEngramError: Names the method, the option or the value, and what can be used.
    """
    if method.lower() != "lora":
        raise TinyEngramError(
            f"opened_by is for lora, and the method is {method!r}, whose change cannot be switched by place. Use lora; "
            "a memory has open_after."
        )
    wrong = [name for name in _NOT_BY_PLACE if options.get(name)]
    wrong += ["bias"] if options.get("bias", "none") != "none" else []
    start = str(options.get("init_lora_weights", ""))
    wrong += ["init_lora_weights"] if start.startswith(host.STARTS_TAKEN_FROM_BASE) else []
    if wrong:
        raise TinyEngramError(f"opened_by does not go with {wrong[0]}={options[wrong[0]]!r}: leave one of them out.")
    keys = set(opened_by) if isinstance(opened_by, dict) else set()
    if keys not in ({"after"}, {"ngrams"}):
        raise TinyEngramError(f"opened_by={opened_by!r}: give {{after: tools}} or {{ngrams: {{orders: [2, 3, 4]}}}}.")


class Opener:
    """Switches the LoRA of a model by place; what it must remember rides on the key-value cache, as a memory's does."""

    def __init__(self, model: Any, rule: dict[str, Any]) -> None:
        decoder_name, blocks_name = host.find_blocks(model.get_base_model())
        decoder = model.get_base_model().get_submodule(decoder_name)
        self._n_blocks = len(model.get_base_model().get_submodule(blocks_name))
        self._argument_names, self._slot = list(host.forward_arguments(decoder)), ReadingSlot()
        self._openings = as_tensor(rule["after"]) if "after" in rule else None
        self._known: KnownNgrams | None = None
        self._map: torch.Tensor | None = None
        if self._openings is None:
            self._known, self._pad = KnownNgrams.of(torch.tensor(rule["ngrams"])), torch.tensor(rule["pad"])
            self._map = None if rule["map"] is None else torch.tensor(rule["map"], dtype=torch.int32)
        width = self._openings.shape[1] if self._openings is not None else max(rule_orders(self._known))
        self._reach = max(1, width - 1)
        decoder.register_forward_pre_hook(self._begin, with_kwargs=True)
        decoder.register_forward_hook(self._end, always_call=True)
        self._layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        for layer in self._layers:
            if layer.lora_embedding_A:
                raise TinyEngramError(
                    "opened_by does not go with a LoRA of the embedding; leave it out of the modules."
                )
            for factor in layer.lora_B.values():
                factor.register_forward_hook(self._switch)

    def _begin(self, decoder: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        given = host.by_name(self._argument_names, args, kwargs)
        cache, active = host.cache_given(given), not self._layers[0].disable_adapters
        if given.get("input_ids") is None or (cache is not None and not host.has_layers(cache)):
            if active:
                raise ValueError("A LoRA with opened_by reads token ids (input_ids) and a cache that has layers.")
            return
        state = EngramCacheLayer() if cache is None else EngramCacheLayer.on(cache, self._n_blocks)
        lacking, past = lacking_places(state, self._reach), state.length
        if lacking > 0 and active:
            raise state.forgotten(lacking)
        reading = follow(given, cache, state, reach=self._reach, rows_of=_no_rows)
        reading.opened[_NAME] = self._open(reading, past)
        self._slot.put(reading)

    def _open(self, reading: Reading, past: int) -> torch.Tensor:
        device = reading.tokens.device
        if self._openings is not None:
            self._openings = self._openings.to(device)
            if reading.state is not None and not is_known_of(reading.state, _NAME, past):
                raise ForgottenError("The key-value cache does not say whether opened_by was met: read the text again.")
            return open_places(reading, self._openings, _NAME)
        assert self._known is not None
        orders, compression = rule_orders(self._known), None if self._map is None else self._map.to(device)
        window = reading.window(max(orders), self._pad.to(device), compression)
        rows = exact_rows(window, self._known.ngrams.to(device), self._known.keys.to(device), orders)
        return (rows < len(self._known.keys)).any(-1)

    def _end(self, decoder: Any, args: tuple, output: Any) -> None:
        reading, cache = self._slot.take(), host.cache_of(output)
        state = None if reading is None else reading.state
        if state is not None and host.has_layers(cache) and state not in cache.layers:
            state.join(cache)

    def _switch(self, factor: Any, args: tuple, added: torch.Tensor) -> torch.Tensor:
        reading = self._slot.reading
        if reading is None or added.shape[:2] != reading.opened[_NAME].shape:
            raise RuntimeError(
                "A LoRA with opened_by was run where it cannot know which places are read: outside its model's forward "
                "pass (gradient checkpointing), or in a layer that reads places in another order (experts)."
            )
        return added.where(reading.opened[_NAME].unsqueeze(-1).to(added.device), 0)


def rule_orders(known: KnownNgrams | None) -> tuple[int, ...]:
    """Orders of the n-grams that open."""
    assert known is not None
    return known.orders


def open_by_its_rule(model: Any, rule: dict[str, Any] | None) -> None:
    """Switch the LoRA of a PEFT model by ``rule``, from its config or file; nothing without one."""
    if rule is not None:
        Opener(model, rule)


def _no_rows(adapter_name: str, layer_id: int, reading: Reading) -> torch.Tensor:
    raise RuntimeError("A LoRA has no rows.")
