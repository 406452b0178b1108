"""Adapters that were never trained: on the straight line between two checkpoints of one run, or from the base to one.

Between two checkpoints every trained number is mixed in the same share, as in stochastic weight averaging's lines
between weights (Izmailov et al. 2018, arXiv 1803.05407). From the base to a checkpoint the *change* is scaled, which is
WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903); only methods whose change is linear in some of their tensors can be.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.files import copy_atomically, write_atomically
from tinyengram.training.adapters import load_adapter
from tinyengram.training.job import BaseSpec, load_fresh
from tinyengram.training.trajectory import keep_adapter_only

if TYPE_CHECKING:
    import torch

_CONFIG, _BASE = "adapter_config.json", "adapter_base.json"
# Starts of LoRA at which it is the base whatever A holds, since B is zero, or whose product alone is added.
_PLAIN_STARTS = (True, False, "gaussian", "eva")


class CannotBlend(TinyEngramError):
    """Two checkpoints cannot be mixed, or a change cannot be scaled; says why, in words that continue a sentence."""


class Blend:
    """Every adapter on a line.

    Args:
        base: What both were trained on.
        before: Folder of the checkpoint where the line begins; None: the base itself.
        after: Folder of the checkpoint where it ends.

    Attributes:
        model: The adapter on its base, in evaluation mode; :meth:`move` says where on the line.

    Raises:
        CannotBlend: The two differ in more than numbers, or the method's change cannot be scaled.
        TinyEngramError: A checkpoint cannot be loaded.
    """

    def __init__(self, base: BaseSpec, before: Path | None, after: Path) -> None:
        from tinyengram.scoring.checkpoints import gone, has_weights

        self._after = after
        for checkpoint in (before, after):
            if checkpoint is not None and not has_weights(checkpoint):
                raise gone(checkpoint, "a mixture with others is asked for")
        if before is None:
            linear = scaled_tensors(_options(after))
        elif _options(before) != _options(after):
            raise CannotBlend("its options change between the two checkpoints, so their tensors do not correspond")
        self.model: Any = load_adapter(load_fresh(base).model, after)
        ends = self.model.state_dict()
        if before is None:
            starts = {name: tensor.new_zeros(()) for name, tensor in ends.items() if any(one in name for one in linear)}
        else:
            starts = _changed(load_adapter(load_fresh(base).model, before).state_dict(), ends)
        # Copies: the model's own tensors are what is moved.
        self._line = {name: (start.clone(), ends[name].clone()) for name, start in starts.items()}
        self._own = {name: ends[name] for name in self._line}

    def move(self, share: float) -> None:
        """Go to a place on the line: 0 is its beginning, 1 its end."""
        import torch

        with torch.no_grad():
            for name, (start, end) in self._line.items():
                self._own[name].copy_((start.double() + share * (end.double() - start.double())).to(end.dtype))

    def save(self, folder: Path, notes: dict[str, str]) -> None:
        """Write the adapter where it is now, whole or not at all.

        Args:
            folder: Does not exist.
            notes: Further files, by name.
        """
        begun = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(begun, ignore_errors=True)
        self.model.save_pretrained(str(begun))
        keep_adapter_only(begun)
        if (self._after / _BASE).exists():
            copy_atomically(self._after / _BASE, begun / _BASE)
        for name, text in notes.items():
            write_atomically(begun / name, text)
        os.replace(begun, folder)


def scaled_tensors(options: Mapping[str, Any]) -> tuple[str, ...]:
    """What the names of those tensors hold in which an adapter's change of its base is linear.

    Args:
        options: Of the adapter, as its ``adapter_config.json`` holds them.

    Raises:
        CannotBlend: There are none, or the adapter changes the base in another way besides.
    """
    kind = options.get("peft_type")
    method = str(getattr(kind, "value", kind)).lower()
    if options.get("modules_to_save") or options.get("trainable_token_indices"):
        raise CannotBlend("whole modules were trained beside it, whose start is not kept")
    if method == "lora":
        if options.get("use_dora"):
            raise CannotBlend("DoRA's magnitudes are no linear change of the base")
        if options.get("bias", "none") != "none" or options.get("init_lora_weights", True) not in _PLAIN_STARTS:
            raise CannotBlend("it changes the base's own weights, so that the base is not at scale zero")
        return "lora_B", "lora_embedding_B"
    if method == "engram":
        if options.get("kernel_size"):
            raise CannotBlend(
                "its convolution reads normalised values, which no scale changes (kernel_size: 0 has none)"
            )
        return (".value_proj.",)
    raise CannotBlend(f"the change that {method} makes is not known to be linear in some of its tensors")


def _changed(starts: dict[str, torch.Tensor], ends: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that differ, as they are at the start of the line."""
    import torch

    if starts.keys() != ends.keys() or any(starts[name].shape != ends[name].shape for name in ends):
        raise CannotBlend("the two checkpoints hold other tensors")
    changed = {name: start for name, start in starts.items() if not torch.equal(start, ends[name])}
    if whole := [name for name, start in changed.items() if not start.is_floating_point()]:
        raise CannotBlend(f"{whole[0]} changes in whole numbers, which cannot be mixed")
    return changed


def _options(checkpoint: Path) -> dict[str, Any]:
    """An adapter's options, in whatever order PEFT wrote its lists of modules."""
    said = json.loads((checkpoint / _CONFIG).read_text(encoding="utf-8"))
    return {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in said.items()}
