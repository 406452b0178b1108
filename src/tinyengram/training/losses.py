"""What a model loses on held-out examples, over the whole text and over the answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinyengram.training.batches import IGNORED, collate, predicting_positions, token_losses

if TYPE_CHECKING:
    from torch import nn

    from tinyengram.tasks.rendering import EncodedExample


def eval_losses(
    model: nn.Module, examples: Sequence[EncodedExample], *, batch_size: int, pad_token_id: int
) -> tuple[float, float]:
    """Mean loss per token on held-out examples, over the whole text and over the answer alone, from one reading.

    Args:
        model: In any mode; it is read in evaluation mode and put back.
        examples: Held-out examples; read in order of length, so that little is padding.
        batch_size: Examples at a time.
        pad_token_id: See :func:`collate`.

    Returns:
        ``(whole, answer)`` in nats per token.
    """
    import torch

    device = next(model.parameters()).device
    training = model.training
    model.eval()
    sums, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    ordered = sorted(examples, key=lambda example: (len(example.input_ids), example.id))
    with torch.no_grad():
        for start in range(0, len(ordered), batch_size):
            part = ordered[start : start + batch_size]
            whole = collate(part, loss_on="whole", pad_token_id=pad_token_id)
            answer = collate(part, loss_on="answer", pad_token_id=pad_token_id)["labels"]
            labels = whole.pop("labels").to(device)
            inputs = {name: tensor.to(device) for name, tensor in whole.items()}
            losses = token_losses(model(**inputs, use_cache=False).logits, labels).cpu().double()
            in_answer = answer[:, predicting_positions(labels.cpu()) + 1] != IGNORED
            sums += torch.stack([losses.sum(), losses[in_answer].sum()])
            counts += torch.tensor([(labels != IGNORED).sum().item(), in_answer.sum().item()])
    model.train(training)
    whole_loss, answer_loss = (sums / counts.clamp(min=1)).tolist()
    return whole_loss, answer_loss
