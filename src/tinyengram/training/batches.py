"""Examples become batches: padded ids, labels, the positions whose logits are needed, and the loss at each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from tinyengram.tasks.rendering import EncodedExample

IGNORED = -100
"""Label of a token that does not count in the loss, as everywhere in transformers."""


def collate(examples: Sequence[EncodedExample], *, loss_on: str, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Pad examples to the right into one batch.

    Args:
        examples: At least one.
        loss_on: ``"whole"``: every token but the first is a label; ``"answer"``: those of the answer.
        pad_token_id: Fills up ``input_ids``; never attended to.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, int64 ``(batch, longest)``; labels are not shifted.
    """
    import torch

    longest = max(len(example.input_ids) for example in examples)
    shape = (len(examples), longest)
    ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        tokens = torch.tensor(example.input_ids)
        counts = torch.tensor(example.answer_mask) if loss_on == "answer" else torch.ones(length, dtype=torch.bool)
        ids[row, :length] = tokens
        attention[row, :length] = 1
        labels[row, :length] = torch.where(counts, tokens, IGNORED)
    labels[:, 0] = IGNORED  # Nothing predicts the first token.
    return {"input_ids": ids, "attention_mask": attention, "labels": labels}


def left_padded(prompts: Sequence[Sequence[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts for generation, which end together: ``input_ids`` and ``attention_mask``, int64 ``(batch, longest)``."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_token_id)
    attention = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention[row, longest - len(prompt) :] = 1
    return ids, attention


def predicting_positions(labels: torch.Tensor) -> torch.Tensor:
    """Positions whose logits the loss needs in at least one row, int64 ``(n,)``: those before a label."""
    return (labels[:, 1:] != IGNORED).any(dim=0).nonzero().flatten()


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each label in nats, float32 ``(batch, n)``, zero where there is none.

    Args:
        logits: ``(batch, length, vocab)``, or ``(batch, n, vocab)`` at :func:`predicting_positions` only.
        labels: int64 ``(batch, length)``.
    """
    from torch.nn import functional as F

    positions = predicting_positions(labels)
    if logits.shape[1] != len(positions):
        logits = logits[:, positions]
    targets = labels[:, positions + 1]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return losses.view(targets.shape)
