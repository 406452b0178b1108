"""What a model makes of held-out chats, beside any study: loss and right calls, before and after an edit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tinyengram.study.plan import checked
from tinyengram.training.job import DataSpec


@dataclass(frozen=True)
class HeldOut:
    """Of ``texts`` held-out texts the answers' mean loss, in nats per token; of ``asked`` requests the right calls."""

    loss: float
    texts: int
    right: int
    asked: int

    def __str__(self) -> str:
        calls = f", {self.right} of {self.asked} calls right" if self.asked else ""
        return f"loss {self.loss:.4f} on {self.texts} held-out answers{calls}"


def data_of(adapter: Path) -> DataSpec | None:
    """The data that ``tinyengram train`` taught an adapter, as its run says; None where it does not lie beside it."""
    plan = adapter / "run" / "plan.yaml"
    return checked(DataSpec, yaml.safe_load(plan.read_text())["data"]) if plan.is_file() else None


def measure(model: Any, tokenizer: Any, data: DataSpec, *, calls: int) -> HeldOut:
    """Read what is held out of some data, and have requests answered.

    Args:
        model: In evaluation mode.
        tokenizer: Its own.
        data: Read and split as in training.
        calls: Requests that want a call, at most.

    Raises:
        TinyEngramError: The data cannot be read.
    """
    from tinyengram.scoring.calls import requests_for_calls, score_calls
    from tinyengram.training.examples import load_examples
    from tinyengram.training.losses import eval_losses

    examples = load_examples(data, tokenizer)
    _, loss = eval_losses(model, examples.held_out, batch_size=4, pad_token_id=tokenizer.pad_token_id or 0)
    wanted = requests_for_calls(examples.held_out_conversations, examples.renderer.readable_format())[:calls]
    scores = score_calls(model, examples.renderer, wanted, [])
    right = sum(verdict.outcome == "right call" for verdict in scores.wanted)
    return HeldOut(loss, len(examples.held_out), right, len(wanted))
