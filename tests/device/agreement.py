"""What two ways to the same logits may differ by: the base's own difference between them, with room for rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# In float32, where the base shows next to none; logits here reach a hundred.
FLOOR = 5e-4
# In 16 bits, of the largest logit.
ROUGH = 0.05
Way = Callable[[Any], torch.Tensor]


def agree(model: Any, one: Way, other: Way) -> None:
    """Assert that two ways give the same with the memory as far as they do without it."""
    with model.disable_adapter():
        noise = (one(model).float() - other(model).float()).abs().max().item()
    found, wanted = one(model), other(model)
    assert torch.isfinite(found).all()
    rough = not found.dtype == wanted.dtype == torch.float32
    floor = ROUGH * wanted.float().abs().max().item() if rough else FLOOR
    difference = (found.float() - wanted.float()).abs().max().item()
    assert difference <= 8 * noise + floor, f"{difference:.2g} apart; the base {noise:.2g}"
