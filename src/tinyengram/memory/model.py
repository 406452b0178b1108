"""Engram as a PEFT tuner: which blocks read memory, where token ids come from, what is saved and what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from tinyengram import host
from tinyengram.errors import TinyEngramError
from tinyengram.memory.base import (
    describe_base,
    openings_for,
    pad_token_of,
    refuse_bare_offload,
    refuse_modules_of_blocks,
    refuse_other_base,
    unload_former_memory,
)
from tinyengram.memory.cache import EngramCacheLayer, ForgottenError
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.controls import make_index
from tinyengram.memory.exchange import Exchange, Shard, sharded
from tinyengram.memory.following import follow, lacking_places
from tinyengram.memory.index import EngramIndex
from tinyengram.memory.latch import forget, holds_any, is_known_of, open_places
from tinyengram.memory.layer import EngramLayer, EngramMemory
from tinyengram.memory.optim import for_trainer
from tinyengram.memory.reading import Reading, ReadingSlot
from tinyengram.memory.saving import from_file, to_file, without_adapter_name


class EngramModel(BaseTuner):
    """Puts Engram memories before the blocks of a decoder-only language model.

    The decoder's pre-forward hook sees the token ids, works out which tokens belong to one text, and leaves both for
    the wrapped blocks; a hook behind it clears them. What must outlive a call rides on the key-value cache, also on
    one that the decoder makes itself. Use it
    through ``peft.get_peft_model(model, EngramConfig(...))``.
    """

    prefix = "engram_"
    tuner_layer_cls = EngramLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's name; blocks are found by structure
    uses_shared_state = True

    # --- injection -----------------------------------------------------------------------------------------------

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        self._injected = adapter_name  # PEFT does not pass it to `_prepare_model`.
        host.adapt_optimizers(for_trainer)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_model(self, peft_config: EngramConfig, model: Any) -> None:
        name = self._injected
        decoder_name, blocks_name = host.find_blocks(model)
        host.cache_argument(model.get_submodule(decoder_name))  # Refused now, not at its first cached step.
        blocks = model.get_submodule(blocks_name)
        beyond = [layer for layer in peft_config.layer_ids if layer >= len(blocks)]
        if beyond:
            raise ValueError(
                f"layer_ids={peft_config.layer_ids!r} names {beyond}, but the model has {len(blocks)} blocks, "
                f"0 to {len(blocks) - 1}."
            )
        refuse_bare_offload(model, blocks)
        refuse_modules_of_blocks(peft_config, model, [f"{blocks_name}.{layer}" for layer in peft_config.layer_ids])
        base = describe_base(model, blocks)
        stored = peft_config.from_file
        if stored is not None:
            refuse_other_base(stored.get("base", {}), base, check_weights=peft_config.check_base)
        pad_token_id = pad_token_of(peft_config, model)
        if not 0 <= pad_token_id < base["vocab_size"]:
            raise ValueError(f"pad_token_id={pad_token_id} is outside the base's vocabulary of {base['vocab_size']}.")
        with torch.device("cpu"):  # Also when the base is made without weights, to see whether the sizes fit.
            index = make_index(peft_config, base["vocab_size"], pad_token_id)
            if peft_config.open_after is not None:
                index.open_after(openings_for(peft_config, model, base["vocab_size"]))
        # One config may serve several bases, and PEFT goes on with the object it was given: each adapter keeps its own.
        index.fingerprint = {"base": base, "options": peft_config.own_options(), **index.describe()}
        peft_config.current_fingerprint = index.fingerprint
        peft_config.target_modules = {f"{blocks_name}.{layer}" for layer in peft_config.layer_ids}
        if "engram_index" not in self._modules:  # `hasattr` would ask the wrapped model too.
            decoder = model.get_submodule(decoder_name)
            unload_former_memory(model, decoder, EngramModel)
            self.engram_index = nn.ModuleDict()
            self._slot = ReadingSlot()
            self._exchange = Exchange()
            self._hooks = [
                decoder.register_forward_pre_hook(self._begin_reading, with_kwargs=True),
                decoder.register_forward_hook(self._end_reading, always_call=True),
            ]
            self._argument_names = list(host.forward_arguments(decoder))
            self._n_blocks = len(blocks)
        device = next(blocks.parameters()).device
        self.engram_index[name] = index if device.type == "meta" else index.to(device)
        self._hidden_size = base["hidden_size"]

    def _prepare_adapter_config(self, peft_config: EngramConfig, model_config: dict) -> EngramConfig:
        return peft_config

    def _create_and_replace(
        self,
        peft_config: EngramConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer_id = int(target_name)
        n_rows = self._index(adapter_name).n_rows(layer_id)
        layer = target if isinstance(target, EngramLayer) else EngramLayer(target, layer_id, self._slot)
        layer.update_layer(adapter_name, peft_config, self._hidden_size, n_rows)
        reference = next(layer.get_base_layer().parameters())
        memory = cast(EngramMemory, layer.engram_memory[adapter_name])
        memory.tables.exchange = self._exchange
        if reference.device.type != "meta" and memory.key_proj.weight.device.type != "meta":
            floating = reference.dtype if reference.dtype.is_floating_point else None
            memory.to(device=reference.device, dtype=floating)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's own moves the weight of a linear layer along; a block has none.
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "An Engram memory cannot be merged: what it adds depends on the tokens that are read, so no fixed "
            "weights of the base give the same output. Keep the adapter, or unload() it to have the base back."
        )

    def unmerge_adapter(self) -> None:
        raise ValueError("Nothing is merged: an Engram memory cannot be, so there is nothing to unmerge.")

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            "Engram memories cannot be weighted into one adapter (add_weighted_adapter): their projections and tables "
            "multiply each other. Make them active together instead: model.base_model.set_adapter([name, other])."
        )

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs: Any) -> Any:
        if merge:
            self._check_merge_allowed()
        for hook in self._hooks:
            hook.remove()
        return super()._unload_and_optionally_merge(merge=merge, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "Engram does not mix adapters within a batch (adapter_names); group the rows by adapter and use "
                "set_adapter(), or disable_adapter() for the base."
            )
        yield

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        del self.engram_index[adapter_name]

    # --- reading -------------------------------------------------------------------------------------------------

    def _begin_reading(self, decoder: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Note what is about to be read."""
        given = host.by_name(self._argument_names, args, kwargs)
        cache = host.cache_given(given)
        if (cache is not None or torch.compiler.is_compiling()) and self._is_active() and sharded(self):
            raise TinyEngramError(
                "Tables that lie on ranks (tables_on='ranks') are read by all ranks at once, so neither with a cache "
                "(generate) nor compiled. Save the adapter and load it with tables_on='device' or 'cpu'."
            )
        if cache is not None and not host.has_layers(cache):
            if self._is_active():
                raise ValueError(
                    f"Engram cannot be read with a {type(cache).__name__}, which has no layers: what a memory must "
                    "remember has no place on it, as in continuous batching (generate_batch). Use generate(), or "
                    "disable_adapter() to run the base."
                )
            return
        ids = given.get("input_ids")
        if ids is None:
            if self._is_active():
                raise ValueError(
                    "Engram reads token ids, but the model was called with inputs_embeds alone. Pass input_ids, or use "
                    "disable_adapter() to run the base."
                )
            return
        # Rows are found where their index lies: on the host where the base is offloaded; accelerate moves ids later.
        places = [cast(EngramIndex, index).pad.device for index in self.engram_index.values()]
        place = places[0] if places else ids.device
        if ids.device != place and place.type != "meta":
            for name in ("input_ids", "position_ids", "attention_mask"):
                if isinstance(given.get(name), torch.Tensor):
                    given[name] = given[name].to(place)
        if cache is not None:
            state = EngramCacheLayer.on(cache, self._n_blocks)
            if host.length_of(cache, state.length) != state.length and not self._is_active():
                cache.layers.remove(state)  # A cache that was filled elsewhere, read on by the base alone.
                return
        else:
            state = EngramCacheLayer()  # For the cache that the decoder may make.
        reading = self._reading(given, cache, state)
        self._fetch_from_host(reading)
        self._slot.put(reading)

    def _fetch_from_host(self, reading: Reading) -> None:
        """Have rows of tables on the host brought while the blocks before are computed."""
        if all(cast(EngramConfig, self.peft_config[name]).tables_on != "cpu" for name in self.engram_index):
            return
        for layer in self._layers():
            for name in layer.active_adapters if not layer.disable_adapters else ():
                if name in layer.engram_memory:
                    memory = cast(EngramMemory, layer.engram_memory[name])
                    memory.fetch(reading.rows(name, layer.layer_id), reading, (name, layer.layer_id))

    def _end_reading(self, decoder: Any, args: tuple, output: Any) -> None:
        reading = self._slot.take()
        cache = host.cache_of(output)
        state = None if reading is None else reading.state
        if state is not None and host.has_layers(cache) and state not in cache.layers:
            state.join(cache)

    def _is_active(self, adapter_name: str | None = None) -> bool:
        """Whether a memory, or the named one, is read."""
        return any(
            not layer.disable_adapters
            and (layer.active_adapters if adapter_name is None else adapter_name in layer.active_adapters)
            for layer in self._layers()
        )

    def _layers(self) -> list[EngramLayer]:
        return [module for module in self.model.modules() if isinstance(module, EngramLayer)]

    def _reading(self, given: dict[str, Any], cache: Any, state: EngramCacheLayer) -> Reading:
        past, reach = state.length, max([0, *(self._reach(name) for name in self.engram_index)])
        lacking = lacking_places(state, reach)
        if lacking > 0 and self._is_active() and (cache is None or host.length_of(cache, past) == past):
            raise state.forgotten(lacking)
        reading = follow(
            given,
            cache,
            state,
            reach=reach,
            rows_of=lambda adapter, layer, reading: self._index(adapter).rows(adapter, layer, reading),
        )
        for name in self.engram_index:
            self._open(name, reading, past, forgotten=lacking > 0)
        return reading

    def _open(self, adapter_name: str, reading: Reading, past: int, *, forgotten: bool) -> None:
        """See where a memory with a latch is open, also while it is switched off: what opens it may be read then."""
        openings, state = self._index(adapter_name).openings, reading.state
        if openings is None:
            return
        if state is not None and (forgotten or not is_known_of(state, adapter_name, past)):
            if self._is_active(adapter_name):
                raise ForgottenError(
                    f"The key-value cache does not say whether the latch (open_after) of the memory {adapter_name!r} "
                    "was opened: it was filled before the memory was added, or cropped too far. Read the text again "
                    "with a fresh cache."
                )
            forget(state, adapter_name)
        else:
            reading.opened[adapter_name] = open_places(reading, openings, adapter_name)

    def stays_shut(self, texts: Iterable[Sequence[int]]) -> bool:
        """Whether the model reads texts, given as raw token ids, as its base to the bit, since no memory is opened."""
        configs = [cast(EngramConfig, config) for config in self.peft_config.values()]
        if any(config.open_after is None or config.modules_to_save for config in configs):
            return False
        runs = [run for name in self.engram_index for run in self._index(name).runs]
        return not any(holds_any(ids, runs) for ids in texts)

    def _reach(self, adapter_name: str) -> int:
        """Tokens before the one being read that a memory looks at: by n-grams, its latch or its convolution."""
        config = cast(EngramConfig, self.peft_config[adapter_name])
        convolution = max(0, config.kernel_size - 1) * config.max_ngram_size
        return max(self._index(adapter_name).reach, convolution)

    def _index(self, adapter_name: str) -> EngramIndex:
        return cast(EngramIndex, self.engram_index[adapter_name])

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Tables that lie on ranks, by their names in this model and in the PeftModel around it, which asks here.

        DistributedDataParallel (torch 2.13) leaves these alone: each rank has other rows.
        """
        return [prefix + name for name in sharded(self) for prefix in ("", "base_model.")]

    # --- saving and loading --------------------------------------------------------------------------------------

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return without_adapter_name(key, adapter_name)

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: EngramConfig, adapter_name: str, state_dict: dict, unwanted_adapter_names: list
    ) -> dict[str, torch.Tensor]:
        config.current_fingerprint = _fingerprint(model, adapter_name)
        chosen = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        for key, tables in sharded(model).items():
            if key in chosen:
                if tables.gathered is None:
                    raise TinyEngramError(
                        f"The tables of {adapter_name!r} lie on {tables.shard.ranks} ranks, so that one cannot save "  # type: ignore[union-attr]
                        "them alone: call tinyengram.memory.exchange.gather_tables(model) on every rank, then save on "
                        "rank 0."
                    )
                chosen[key] = tables.gathered
        return to_file(chosen, state_dict, config, adapter_name)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: EngramConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        config.current_fingerprint = _fingerprint(model, adapter_name)
        on_ranks = sharded(model)
        for tables in on_ranks.values():
            tables.gathered = None
        shards = {key: cast(Shard, tables.shard) for key, tables in on_ranks.items()}
        return from_file(state_dict, model.state_dict(), config, adapter_name, shards)


def _fingerprint(model: nn.Module, adapter_name: str) -> dict[str, Any]:
    """What an adapter says of its base, kept with its index."""
    tuner = next(module for module in model.modules() if isinstance(module, EngramModel))
    return tuner._index(adapter_name).fingerprint
