"""Engram as a PEFT tuner: which blocks read memory, where token ids come from, what is saved and what is refused."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from tinyengram import host
from tinyengram.memory.cache import MARGIN, EngramCacheLayer
from tinyengram.memory.compression import compress_vocabulary
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.layer import EngramLayer, EngramMemory
from tinyengram.memory.ngrams import exact_rows, hash_multipliers, hashed_rows, head_sizes
from tinyengram.memory.reading import Reading, ReadingSlot, number_texts

_CHECKSUM = "engram_index.checksum"
# A table is saved as (row numbers, rows) when that is the smaller way.
_ROWS, _VALUES = ".trained_rows", ".trained_values"


class EngramIndex(nn.Module):
    """How one adapter finds its rows: the vocabulary map with hash parameters or known n-grams, kept as buffers.

    Args:
        config: The memory's options, checked against the base.
        vocab_size: Rows of the base's embedding.
        pad_token_id: Raw id that stands for positions before a text.
    """

    compression: torch.Tensor | None
    pad: torch.Tensor
    sizes: torch.Tensor
    multipliers: torch.Tensor
    ngrams: torch.Tensor
    ngram_keys: torch.Tensor

    def __init__(self, config: EngramConfig, vocab_size: int, pad_token_id: int) -> None:
        super().__init__()
        self.memory, self.max_ngram_size, self.which_rows = config.memory, config.max_ngram_size, config.rows
        stored = config.fingerprint
        if stored is not None:
            _check_fingerprint(stored, config)
        compression = None
        if config.tokenizer_name_or_path is not None:
            compression = (
                torch.zeros(stored["map_size"], dtype=torch.int32)
                if stored
                else _vocabulary_map(config.tokenizer_name_or_path, vocab_size, pad_token_id)
            )
        self.register_buffer("compression", compression)
        self.register_buffer("pad", torch.tensor(0 if stored else self._compressed(pad_token_id)))
        if stored:
            self.compressed_vocab_size = stored["compressed_vocab_size"]
        else:
            self.compressed_vocab_size = vocab_size if compression is None else int(compression.max()) + 1
        self.layer_ids = list(config.layer_ids)
        if config.memory == "hashed":
            primes = head_sizes(config.layer_ids, config.engram_vocab_size, config.n_head_per_ngram)
            self.register_buffer("sizes", torch.tensor([primes[layer] for layer in config.layer_ids]))
            multipliers = [
                hash_multipliers(layer, config.max_ngram_size, self.compressed_vocab_size, config.seed)
                for layer in config.layer_ids
            ]
            self.register_buffer("multipliers", torch.stack(multipliers))
        elif stored:
            shape = (stored["n_ngrams"], max(stored["ngram_orders"]))
            self.orders = tuple(stored["ngram_orders"])
            self.register_buffer("ngrams", torch.zeros(shape, dtype=torch.int64))
            self.register_buffer("ngram_keys", torch.zeros(shape[0], dtype=torch.int64))
        else:
            assert config.ngrams is not None
            self.orders = config.ngrams.orders
            highest = int(config.ngrams.ngrams.max())
            if highest >= self.compressed_vocab_size:
                raise ValueError(
                    f"ngrams holds the id {highest} but there are {self.compressed_vocab_size} canonical ids; collect "
                    "the n-grams with the same tokenizer, and with compression=compress_vocabulary(tokenizer) exactly "
                    "when tokenizer_name_or_path is set."
                )
            self.register_buffer("ngrams", config.ngrams.ngrams.clone())
            self.register_buffer("ngram_keys", config.ngrams.keys.clone())

    def _compressed(self, token_id: int) -> int:
        return token_id if self.compression is None else int(self.compression[token_id])

    def n_rows(self, layer_id: int) -> int:
        """Rows of a layer's table."""
        if self.memory == "hashed":
            return int(self.sizes[self.layer_ids.index(layer_id)].sum())
        return len(self.ngram_keys) + 1

    def describe(self) -> dict[str, Any]:
        """What a saved adapter must say for its buffers to be made before they are loaded."""
        facts: dict[str, Any] = {"compressed_vocab_size": self.compressed_vocab_size}
        if self.compression is not None:
            facts["map_size"] = len(self.compression)
        if self.memory == "exact":
            facts |= {"n_ngrams": len(self.ngram_keys), "ngram_orders": list(self.orders)}
        return facts

    def rows(self, adapter_name: str, layer_id: int, reading: Reading) -> torch.Tensor:
        """Table rows of a layer at each position being read, int64 ``(batch, length, rows per position)``."""
        window = reading.once(
            (adapter_name, "window"), lambda: reading.window(self.max_ngram_size, self.pad, self.compression)
        )
        if self.memory == "exact":
            rows = reading.once(
                (adapter_name, "rows"), lambda: exact_rows(window, self.ngrams, self.ngram_keys, self.orders)
            )
            if self.which_rows == "ngram":
                return rows
            known = torch.tensor([len(self.ngram_keys)], device=rows.device)
            return torch.where(rows < known, self._control(rows, known), known)
        at = self.layer_ids.index(layer_id)
        rows = hashed_rows(window, self.multipliers[at], self.sizes[at])
        return rows if self.which_rows == "ngram" else self._control(rows, self.sizes[at].flatten())

    def _control(self, rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """Other rows of the same heads, from which the n-gram cannot be told; heads of ``sizes`` rows follow another.

        Args:
            rows: int64 ``(batch, length, rows per position)``.
            sizes: int64 ``(rows per position,)``, or ``(1,)`` where all share one head.
        """
        if self.which_rows == "single":
            each = torch.arange(rows.shape[-1], device=rows.device)  # An exact memory's orders share one head.
            return (sizes.cumsum(0) - sizes if len(sizes) > 1 else each % sizes).expand(rows.shape)
        random = torch.rand(int(sizes.sum()), device=rows.device)
        head = torch.repeat_interleave(torch.arange(len(sizes), device=rows.device), sizes)
        # Sorting by (head, random) permutes within each head only; the row "not known" of an exact memory stays.
        order = torch.argsort(random + head)
        return torch.cat([order, sizes.sum().view(1)])[rows]


def _vocabulary_map(tokenizer_name: str, vocab_size: int, pad_token_id: int) -> torch.Tensor:
    """int32 ``(ids,)`` map of the named tokenizer, with ids beyond its vocabulary (padding of the embedding) as pad."""
    from transformers import AutoTokenizer

    mapped = compress_vocabulary(AutoTokenizer.from_pretrained(tokenizer_name))
    if pad_token_id >= len(mapped):
        raise ValueError(
            f"pad_token_id={pad_token_id} is not in the tokenizer {tokenizer_name!r} of {len(mapped)} tokens."
        )
    beyond = mapped[pad_token_id].repeat(max(0, vocab_size - len(mapped)))
    return torch.cat([mapped, beyond]).to(torch.int32)


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

    def _prepare_model(self, peft_config: EngramConfig, model: Any) -> None:
        name = next(name for name, config in self.peft_config.items() if config is peft_config)
        decoder_name, blocks_name = host.find_blocks(model)
        host.cache_argument(model.get_submodule(decoder_name))  # Refused now, not at its first cached step.
        blocks = model.get_submodule(blocks_name)
        beyond = [layer for layer in peft_config.layer_ids if layer >= len(blocks)]
        if beyond:
            raise ValueError(
                f"layer_ids={peft_config.layer_ids!r} names {beyond}, but the model has {len(blocks)} blocks, "
                f"0 to {len(blocks) - 1}."
            )
        base = _describe_base(model, len(blocks))
        if peft_config.fingerprint is not None:
            _refuse_other_base(peft_config.fingerprint.get("base", {}), base)
        pad_token_id = _pad_token_id(peft_config, model)
        if not 0 <= pad_token_id < base["vocab_size"]:
            raise ValueError(f"pad_token_id={pad_token_id} is outside the base's vocabulary of {base['vocab_size']}.")
        with torch.device("cpu"):  # Also when the base is made without weights, to see whether the sizes fit.
            index = EngramIndex(peft_config, base["vocab_size"], pad_token_id)
        peft_config.current_fingerprint = {"base": base, **index.describe()}
        peft_config.target_modules = {f"{blocks_name}.{layer}" for layer in peft_config.layer_ids}
        if "engram_index" not in self._modules:  # `hasattr` would ask the wrapped model too.
            decoder = model.get_submodule(decoder_name)
            _unload_former_memory(model, decoder)
            self.engram_index = nn.ModuleDict()
            self._slot = ReadingSlot()
            self._hooks = [
                decoder.register_forward_pre_hook(self._begin_reading, with_kwargs=True),
                decoder.register_forward_hook(self._end_reading, always_call=True),
            ]
            self._signature = inspect.signature(decoder.forward)
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
        if adapter_name not in self.active_adapters:
            layer.engram_memory[adapter_name].requires_grad_(False)
        reference = next(layer.get_base_layer().parameters())
        memory = cast(EngramMemory, layer.engram_memory[adapter_name])
        if reference.device.type != "meta" and memory.tables.weight.device.type != "meta":
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
        given = self._signature.bind_partial(*args, **kwargs).arguments
        given |= given.get("kwargs", {})
        cache = host.cache_given(given)
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
        if cache is not None:
            state = EngramCacheLayer.on(cache, self._n_blocks)
            if int(cache.get_seq_length()) != state.length and not self._is_active():
                cache.layers.remove(state)  # A cache that was filled elsewhere, read on by the base alone.
                return
        else:
            state = EngramCacheLayer()  # For the cache that the decoder may make.
        self._slot.put(self._reading(ids, given, cache, state))

    def _end_reading(self, decoder: Any, args: tuple, output: Any) -> None:
        reading = self._slot.take()
        cache = host.cache_of(output)
        state = None if reading is None else reading.state
        if state is not None and host.has_layers(cache) and state not in cache.layers:
            state.join(cache)

    def _is_active(self) -> bool:
        return any(
            isinstance(module, EngramLayer) and not module.disable_adapters and module.active_adapters
            for module in self.model.modules()
        )

    def _reading(self, ids: torch.Tensor, given: dict[str, Any], cache: Any, state: EngramCacheLayer) -> Reading:
        ids = ids.reshape(-1, ids.shape[-1])
        batch, length = ids.shape
        past = state.length
        if cache is not None and int(cache.get_seq_length()) != past:
            raise ValueError(
                f"The key-value cache holds {int(cache.get_seq_length())} tokens but the memory saw {past} of them: "
                "it was filled without this model. Read the prompt again with a fresh cache."
            )
        reach = max([0, *(_reach(self.peft_config[name]) for name in self.engram_index)])
        lacking = state.first - max(0, past - reach)
        if lacking > 0 and self._is_active():
            raise state.forgotten(lacking)
        seen = state if state.first < past else None
        positions = given.get("position_ids")
        if positions is None:
            last = ids.new_full((batch, 1), past - 1) if seen is None else seen.positions[:, -1:]
            positions = last + torch.arange(1, length + 1, device=ids.device)
        else:
            # Multimodal models give one plane of positions for each axis; text counts along the first.
            positions = positions.reshape(-1, *positions.shape[-2:])[0].expand(batch, length)
        mask = given.get("attention_mask")
        valid, attends_previous = _what_mask_says(mask, past, batch, length, ids.device)
        texts = number_texts(
            valid,
            positions,
            attends_previous,
            None if seen is None else seen.texts,
            None if seen is None else seen.positions,
        )
        before = ids.new_zeros(batch, reach)
        timeline, timeline_texts = [before, ids], [before, texts]
        if seen is not None and reach:
            tokens, numbers = seen.tokens[:, -reach:], seen.texts[:, -reach:]
            missing = before[:, tokens.shape[1] :]
            timeline, timeline_texts = [missing, tokens, ids], [missing, numbers, texts]
        kept = cache is not None or given.get("use_cache") is not False
        if kept:
            # Up to the margin a chunk is kept whole, and on a GPU it costs a wait to ask how much of it is padding.
            behind = _padding_behind(valid) if length > MARGIN and isinstance(mask, torch.Tensor) else 0
            state.extend(ids, texts, positions, reach=reach, behind=behind)
        return Reading(
            tokens=torch.cat(timeline, dim=1),
            texts=torch.cat(timeline_texts, dim=1),
            length=length,
            rows_of=lambda adapter, layer, reading: self._index(adapter).rows(adapter, layer, reading),
            state=state if kept else None,
        )

    def _index(self, adapter_name: str) -> EngramIndex:
        return cast(EngramIndex, self.engram_index[adapter_name])

    # --- saving and loading --------------------------------------------------------------------------------------

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        for container in ("engram_memory", "engram_index"):
            key = key.replace(f"{container}.{adapter_name}.", f"{container}.")
        return key

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: EngramConfig, adapter_name: str, state_dict: dict, unwanted_adapter_names: list
    ) -> dict[str, torch.Tensor]:
        chosen = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        saved: dict[str, torch.Tensor] = {}
        for key, tensor in chosen.items():
            rows = tensor.any(dim=1).nonzero().flatten() if key.endswith(".tables.weight") else None
            if rows is not None and len(rows) * 2 < len(tensor):
                saved[key + _ROWS], saved[key + _VALUES] = rows, tensor[rows]
            else:
                saved[key] = tensor
        plain = {cls._remove_adapter_name_from_key(key, adapter_name): tensor for key, tensor in saved.items()}
        index_key = next(key for key in saved if f"engram_index.{adapter_name}." in key)
        container = index_key.split(f"engram_index.{adapter_name}.")[0]
        plain |= _modules_saved_whole(state_dict, adapter_name)
        saved[f"{container}engram_index.{adapter_name}.checksum"] = _checksum(plain, config)
        return saved

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: EngramConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Check an adapter whole before a weight is used, and put its tables back to full size."""
        ours = {key: value for key, value in state_dict.items() if ".engram_memory." in key or "engram_index." in key}
        checksum = [key for key in ours if key.endswith(_CHECKSUM)]
        if not checksum:
            raise ValueError("The adapter file holds no Engram checksum: it is damaged, or not an Engram adapter.")
        stated = ours.pop(checksum[0])
        intact = torch.equal(
            stated.cpu(), _checksum({**ours, **_modules_saved_whole(state_dict, adapter_name)}, config)
        )
        wanted = {
            cls._remove_adapter_name_from_key(key, adapter_name): (key, tensor)
            for key, tensor in model.state_dict().items()
            if f".engram_memory.{adapter_name}." in key or f"engram_index.{adapter_name}." in key
        }
        full = dict(ours)
        for key in [key for key in ours if key.endswith(_ROWS)]:
            name = key.removesuffix(_ROWS)
            rows, values = full.pop(key), full.pop(name + _VALUES)
            if name in wanted:
                like = wanted[name][1]
                if values.shape[1:] != like.shape[1:] or not bool(((rows >= 0) & (rows < len(like))).all()):
                    raise ValueError(f"{name} was saved for another size of table; {_CHANGED}")
                full[name] = values.new_zeros(like.shape).index_copy(0, rows.to(values.device), values)
        missing, unexpected = sorted(wanted.keys() - full.keys()), sorted(full.keys() - wanted.keys())
        if missing or unexpected:
            raise ValueError(f"The adapter lacks {missing[:3]} and has unexpected {unexpected[:3]}; {_CHANGED}")
        for name, (_, like) in wanted.items():
            if full[name].shape != like.shape:
                raise ValueError(
                    f"{name} has shape {tuple(full[name].shape)} in the file, {tuple(like.shape)} by its options; "
                    f"{_CHANGED}"
                )
            if name.endswith(("engram_index.multipliers", "engram_index.sizes")) and not torch.equal(
                full[name].cpu(), like.cpu()
            ):
                raise ValueError(f"{name} is not what the options give (seed, layers or sizes); {_CHANGED}")
        if not intact:
            raise ValueError(f"The adapter's checksum is not that of its tensors and options; {_CHANGED}")
        loaded = {wanted[name][0]: tensor for name, tensor in full.items()}
        return {
            **{key: value for key, value in state_dict.items() if key not in ours and key not in checksum},
            **loaded,
        }


_CHANGED = (
    "a file is damaged, or adapter_config.json was changed after saving or belongs to another adapter. Fetch or save "
    "it again; nothing was loaded."
)


def _modules_saved_whole(state_dict: dict[str, torch.Tensor], adapter_name: str) -> dict[str, torch.Tensor]:
    """Weights of an adapter's ``modules_to_save``, by names without the adapter's."""
    part = f".modules_to_save.{adapter_name}."
    return {key.replace(part, "."): tensor for key, tensor in state_dict.items() if part in key}


def _checksum(tensors: dict[str, torch.Tensor], config: EngramConfig) -> torch.Tensor:
    """sha256 over options, names, types, shapes and bytes, as uint8 ``(32,)``."""
    digest = hashlib.sha256(config.identity().encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _check_fingerprint(stored: dict[str, Any], config: EngramConfig) -> None:
    """Refuse a stored fingerprint that lacks what the options need."""
    wanted = {"base", "compressed_vocab_size"}
    wanted |= {"map_size"} if config.tokenizer_name_or_path is not None else set()
    wanted |= {"n_ngrams", "ngram_orders"} if config.memory == "exact" else set()
    if missing := sorted(wanted - stored.keys()):
        raise ValueError(f"The fingerprint lacks {missing}; {_CHANGED}")


def _unload_former_memory(model: Any, decoder: nn.Module) -> None:
    """Free a base from the memory of an earlier PeftModel, as when seeds are tried one after the other on one base."""
    if any(isinstance(module, EngramModel) for module in model.modules()):
        raise ValueError("The model carries an Engram memory already; add another with add_adapter(name, config).")
    for hook in list(decoder._forward_pre_hooks.values()):
        former = getattr(hook, "__self__", None)
        if isinstance(former, EngramModel):
            warnings.warn("The base carries the Engram memory of another PeftModel, which is taken off.", stacklevel=2)
            for handle in former._hooks:
                handle.remove()
            for name, module in list(model.named_modules()):
                if isinstance(module, EngramLayer):
                    model.set_submodule(name, module.base_layer)


def _describe_base(model: Any, depth: int) -> dict[str, Any]:
    embedding = model.get_input_embeddings()
    config = host.text_config(model)
    return {
        "model_type": config.model_type,
        "num_hidden_layers": depth,
        "hidden_size": getattr(config, "hidden_size", embedding.weight.shape[1]),
        "vocab_size": embedding.weight.shape[0],
    }


def _refuse_other_base(stored: dict[str, Any], base: dict[str, Any]) -> None:
    for name, value in stored.items():
        if base.get(name) != value:
            raise ValueError(
                f"The adapter was made for a base with {name}={value!r}, but this one has {base.get(name)!r}. Load "
                "it on the base it was trained on."
            )


def _pad_token_id(config: EngramConfig, model: Any) -> int:
    """The configured pad token, else the base's, else its end token, else 0."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    text_config = host.text_config(model)
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(text_config, name, None)
        token = token[0] if isinstance(token, list) else token
        if token is not None and token >= 0:
            return token
    return 0


def _reach(config: Any) -> int:
    """Tokens before the one being read that a memory looks at: by its n-grams or by its convolution."""
    return max(config.max_ngram_size - 1, max(0, config.kernel_size - 1) * config.max_ngram_size)


def _padding_behind(valid: torch.Tensor) -> int:
    """Places of padding behind the shortest row; ``valid`` is bool ``(batch, length)``."""
    place = torch.arange(1, valid.shape[1] + 1, device=valid.device)
    return valid.shape[1] - int((place * valid).amax(1).min())


def _what_mask_says(
    mask: Any, past: int, batch: int, length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Which tokens of a chunk are real, and which attend to the one before them.

    Args:
        mask: None; bool or int ``(batch, past + length)``; a block mask ``(batch, 1, length, past + length)``, bool or
            added to the scores; or such masks by kind of attention.

    Returns:
        bool ``(batch, length)``, and bool ``(batch, length)`` or None where the mask does not say.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if not isinstance(mask, torch.Tensor):
        return torch.ones(batch, length, dtype=torch.bool, device=device), None
    if mask.dim() == 2:
        return mask[:, past : past + length].bool().expand(batch, length), None
    allowed = mask if mask.dtype == torch.bool else mask == 0
    allowed = allowed[:, 0]
    # The mask of a sliding window leaves out the columns of tokens that have fallen out of it.
    newest = past - max(0, past + length - mask.shape[-1])
    query = torch.arange(length, device=device)
    itself = allowed[:, query, newest + query]
    previous = allowed[:, query, (newest + query - 1).clamp(min=0)]
    if not past:
        previous = previous & (query > 0)
    return itself.expand(batch, length), previous.expand(batch, length)
