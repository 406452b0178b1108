"""Rows of several key-value caches in one, so that texts which began at different times are continued together.

Rows end together: a shorter one has empty places before its beginning, as with left padding. What a memory remembers
of a row is moved with its keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from tinyengram.memory.cache import EngramCacheLayer, Window


def can_be_joined(cache: Any) -> bool:
    """Whether a cache keeps every token's key and value in plain tensors, and nothing else but what a memory does."""
    return all(
        isinstance(layer, EngramCacheLayer) or (type(layer) is DynamicLayer and layer.is_initialized)
        for layer in cache.layers
    )


def join(caches: Sequence[Any]) -> Any:
    """The first cache, with the rows of all.

    Args:
        caches: For each :func:`can_be_joined`; all of one model. The others are used up.
    """
    first, *_ = caches
    for place, layer in enumerate(first.layers):
        layers = [cache.layers[place] for cache in caches]
        if isinstance(layer, EngramCacheLayer):
            _join_states(layers)
        else:
            longest = max(one.keys.shape[-2] for one in layers)
            layer.keys = torch.cat([_filled(one.keys, longest, dim=-2) for one in layers])
            layer.values = torch.cat([_filled(one.values, longest, dim=-2) for one in layers])
    return first


def keep_rows(cache: Any, rows: Sequence[int], empty: int) -> None:
    """Drop all rows but ``rows``, and of these the first ``empty`` places, which are empty in each."""
    cache.batch_select_indices(torch.tensor(rows))
    if not empty:
        return
    for layer in cache.layers:
        if isinstance(layer, EngramCacheLayer):
            layer.length -= empty
            layer._change(lambda window: _ending(window, window.kept.shape[1], max(0, window.total - empty)))
        else:
            # Copies: a view would keep the whole in memory.
            layer.keys = layer.keys[..., empty:, :].clone()
            layer.values = layer.values[..., empty:, :].clone()


def _join_states(states: Sequence[EngramCacheLayer]) -> None:
    """Put the rows of all on the first."""
    first = states[0]
    keys = {key: window for state in states for key, window in state.values.items()}
    values = {key: _joined([_caught_up(state, key, window) for state in states]) for key, window in keys.items()}
    first._ids = _joined([state._ids for state in states if state._ids is not None])
    first.values = values
    first.length, first._room = max(state.length for state in states), max(state._room for state in states)
    first.plain = False


def _caught_up(state: EngramCacheLayer, key: tuple[str, int], like: Window) -> Window:
    """What ``state`` remembers under ``key``, up to its last place: zeros where the memory read nothing."""
    window = state.values.get(key)
    if window is None:
        rows = 0 if state._ids is None else len(state._ids.kept)
        window = Window.empty(like.kept.new_empty(rows, 0, *like.kept.shape[2:]))
    window.skip_to(state.length, state.length)
    return window


def _joined(windows: Sequence[Window]) -> Window:
    """The rows of all, as far back as each is known; one that is kept from its first place on is known for good."""
    total = max(window.total for window in windows)
    known = [window.kept.shape[1] for window in windows if window.first]
    places = min([max(window.kept.shape[1] for window in windows), *known])
    kept = torch.cat([_ending(window, places, total).kept for window in windows])
    return Window(kept, 0, places, total)


def _ending(window: Window, places: int, total: int) -> Window:
    """The last ``places`` of a window, or as many as ``total`` has, zeros where it has none."""
    places = min(places, total)
    kept = window.kept[:, max(0, window.kept.shape[1] - places) :]
    return Window(_filled(kept, places, dim=1), 0, places, total)


def _filled(tensor: torch.Tensor, places: int, dim: int) -> torch.Tensor:
    """With zeros before the first place along ``dim``, up to ``places``."""
    shape = list(tensor.shape)
    shape[dim] = places - tensor.shape[dim]
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim) if shape[dim] else tensor
