"""What some PEFT methods ask of a training loop besides a loss: a term of their own, a schedule, a look at the data.

PEFT leaves these to the loop, or adds them to a loss that the model computes itself, which is not the one trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from tinyengram.training.batches import collate

if TYPE_CHECKING:
    from tinyengram.tasks.rendering import EncodedExample

_ALLOCATION, _ENCODER = "allocation.safetensors", "prompt_encoder.safetensors"
_IMPORTANCES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
_EVA_BATCH = 4


def own_penalty(model: Any) -> torch.Tensor | float:
    """What a method adds to the loss: AdaLoRA's, KaSA's or MonteCLoRA's regularisation; 0 for every other method.

    Args:
        model: A PEFT model that is trained.
    """
    tuner = getattr(model, "base_model", None)
    penalty: torch.Tensor | float = _orthogonality(tuner) if _allocates(tuner) else 0.0
    for name in ("_get_kasa_loss", "_get_monteclora_loss"):  # PEFT 0.21, of LoRA; 0 where neither is used.
        if hasattr(type(tuner), name):
            penalty = penalty + getattr(tuner, name)()
    return penalty


def _allocates(tuner: Any) -> bool:
    """Whether this is AdaLoRA with an adapter that is trained."""
    from peft import AdaLoraModel

    return isinstance(tuner, AdaLoraModel) and "trainable_adapter_name" in vars(tuner)


def _orthogonality(tuner: Any) -> torch.Tensor | float:
    """How far AdaLoRA's factors are from orthogonal ones (arXiv 2303.10512, equation 4), times its weight.

    The mean over matrices of the Frobenius norm, as in PEFT, which adds it to the loss that the model computes.
    """
    name = tuner.trainable_adapter_name
    norms = []
    for key, factor in tuner.named_parameters():
        if f"lora_A.{name}" in key or f"lora_B.{name}" in key:
            gram = factor @ factor.T if "lora_A" in key else factor.T @ factor
            norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
    return tuner.peft_config[name].orth_reg_weight * torch.stack(norms).mean()


class Allocation(TrainerCallback):
    """AdaLoRA's schedule: which singular values it keeps, decided anew after every step; nothing for other methods.

    PEFT's saved adapter leaves out the values that are masked at the moment, which may come back as long as the budget
    shrinks, so that a checkpoint would be another model than the one measured. Here the mask is kept aside and
    checkpoints are whole.

    Args:
        model: A PEFT model.
        folder: Of the run, with its checkpoints.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        tuner = getattr(model, "base_model", None)
        self._tuner, self._folder = tuner if _allocates(tuner) else None, folder
        self._pattern: dict[str, list[bool]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up the importances of a run that goes on."""
        if self._tuner is not None and state.global_step:
            device = next(self._tuner.parameters()).device
            kept: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in ("pattern", *_IMPORTANCES)}
            for name, value in load_file(self._file(state.global_step)).items():
                kind, key = name.split(":", 1)
                kept[kind][key] = value.to(device)
            self._pattern = {key: value.tolist() for key, value in kept["pattern"].items()} or None
            for kind in _IMPORTANCES:
                setattr(self._tuner.rankallocator, kind, kept[kind])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After a step, while its gradients are there."""
        if self._tuner is not None:
            config = self._tuner.peft_config[self._tuner.trainable_adapter_name]
            config.rank_pattern = self._pattern
            self._tuner.update_and_allocate(state.global_step + 1)
            self._pattern, config.rank_pattern = config.rank_pattern, {}

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._tuner is not None and not args.process_index:
            allocator = self._tuner.rankallocator
            kept = {f"pattern:{key}": torch.tensor(value) for key, value in (self._pattern or {}).items()}
            for kind in _IMPORTANCES:
                kept |= {f"{kind}:{key}": value.contiguous() for key, value in getattr(allocator, kind).items()}
            save_file(kept, self._file(state.global_step))

    def _file(self, step: int) -> Path:
        return self._folder / f"checkpoint-{step}" / _ALLOCATION


class PromptEncoder(TrainerCallback):
    """Keeps what makes virtual tokens, for a run that goes on: PEFT's adapter holds what was made alone.

    P-tuning, and prefix tuning with a projection, train a small network whose output at the end is all that is needed.

    Args:
        model: A PEFT model.
        folder: Of the run, with its checkpoints.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        config = model.peft_config[model.active_adapter]
        self._encoder = model.prompt_encoder if getattr(config, "is_prompt_learning", False) else None
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up what a run had that goes on."""
        if self._encoder is not None and state.global_step:
            self._encoder.load_state_dict(load_file(self._file(state.global_step)))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._encoder is not None and not args.process_index:
            save_file(self._encoder.state_dict(), self._file(state.global_step))

    def _file(self, step: int) -> Path:
        return self._folder / f"checkpoint-{step}" / _ENCODER


def look_at_data(model: Any, examples: Sequence[EncodedExample], *, loss_on: str, pad_token_id: int) -> None:
    """Run the pass over training data with which EVA begins (``init_lora_weights: eva``); nothing for other methods.

    Args:
        model: From ``get_peft_model``, before any step.
        examples: Training examples, in the order in which they are looked at until directions settle.
        loss_on: As in the settings; EVA looks at the places of labels.
        pad_token_id: Fills up batches.
    """
    config = model.peft_config[model.active_adapter]
    if getattr(config, "init_lora_weights", None) != "eva":
        return
    from peft import initialize_lora_eva_weights

    device = next(model.parameters()).device
    batches = []
    for start in range(0, len(examples), _EVA_BATCH):
        batch = collate(examples[start : start + _EVA_BATCH], loss_on=loss_on, pad_token_id=pad_token_id)
        batches.append({name: tensor.to(device) for name, tensor in batch.items()})
    initialize_lora_eva_weights(model, batches, show_progress_bar=False)
