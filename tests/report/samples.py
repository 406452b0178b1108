"""Rows and differences as a study would have them."""

from __future__ import annotations

from tinyengram.study.results import CallAccuracy, Measurement, Retention
from tinyengram.study.statistics import Difference

LABEL = "TruthfulQA's embedded subset of 481"


def difference(mean: float, low: float, high: float) -> Difference:
    return Difference(mean=mean, low=low, high=high, p_value=None, detectable=0.04, questions=100, seeds=1)


def measurement(arm: str, role: str, step: int, loss: float, delta: Difference | None, **more) -> Measurement:
    return Measurement(
        arm=arm,
        role=role,  # type: ignore[arg-type]
        seed=None if arm == "base" else 0,
        step=step,
        eval_loss_whole=9.0,
        eval_loss_answer=loss,
        retention={
            prompt: Retention(
                mc1=0.25,
                mc2=0.4 + (delta.mean if delta else 0),
                margin=1.0,
                shift=None if delta is None else shift,
                delta_mc1=delta,
                delta_mc2=delta,
                scores_file="scores/x.json",
            )
            for prompt, shift in (("plain", 1.25), ("chat", 4.5))
        },
        **more,
    )


def calls(right: float, refrains: float | None) -> CallAccuracy:
    return CallAccuracy(
        parses=1.0,
        functions=right,
        right=right,
        refrains=refrains,
        wanted_asked=16,
        unwanted_asked=8,
        file="scores/c.json",
    )
