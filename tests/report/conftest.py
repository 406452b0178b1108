"""Finished studies, made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.report.browsing import started_browser
from tests.report.samples import LABEL, difference, measurement
from tests.study.test_matching import trajectory
from tinyengram.hardware import Hardware
from tinyengram.sources.provenance import Provenance
from tinyengram.study.evaluation import Evaluation, EvaluationPlan
from tinyengram.study.plan import load_study
from tinyengram.study.results import Comparison, DataAccount, Results, RunProvenance


@pytest.fixture
def results() -> Results:
    """A study in which Engram kept more than LoRA at matched loss."""
    study = load_study("quick").model_copy(update={"description": "<script>alert('x')</script>"})
    study.truthfulqa = study.truthfulqa.model_copy(update={"prompts": ("plain", "chat")})
    study.arms = {name: study.arms[name] for name in ("lora", "engram")}
    asset = Provenance(name="asset & co", kind="embedded", revision="asset==1", sha256="f" * 64)
    lost = difference(-0.05, -0.08, -0.02)
    return Results(
        study=study,
        provenance=RunProvenance(
            versions={"torch": "2"},
            hardware=Hardware(processor="A CPU", cores=2, memory_gib=24, accelerators=[], platform="Linux"),
            threads=2,
            commit=None,
            base=asset,
            created="2026-01-01T00:00:00+00:00",
        ),
        data=DataAccount(
            train_examples=195,
            eval_examples=16,
            too_long=7,
            skipped=[],
            dropped={"<b>reason</b>": 3},
            train_tokens=1000,
            data=asset,
            questions=asset,
            question_label=LABEL,
            questions_asked=100,
            questions_dropped={},
        ),
        trajectories=[trajectory("lora", [2, 1, 0.5]), trajectory("engram", [2, 0.9, 0.6])],
        measurements=[
            measurement("base", "base", 0, 2.0, None),
            measurement("lora", "matched reference", 10, 1.0, lost, matched_with="engram"),
            measurement("engram", "matched", 10, 0.9, difference(0.01, -0.01, 0.03)),
            measurement("lora", "last", 20, 0.5, lost),
        ],
        comparisons=[
            Comparison(
                arm="engram",
                reference="lora",
                reached=[0],
                missed=[],
                mc1={"plain": difference(0, -0.1, 0.1), "chat": difference(0, -0.1, 0.1)},
                mc2={"plain": difference(0.06, 0.02, 0.1), "chat": difference(-0.06, -0.1, -0.02)},
                shift={"plain": difference(0, -1, 1), "chat": difference(0, -1, 1)},
            )
        ],
        seconds={"prepare": 10.0, "train lora": 65.0},
        finding="",
    )


@pytest.fixture
def many(results: Results) -> Results:
    """Four arms against LoRA, each of which kept another number of points more; the last never reached its loss."""
    kept = {"up": 0.06, "flat": 0.005, "down": -0.06, "steep": -0.2}
    results.study.arms = {
        "lora": results.study.arms["lora"],
        **dict.fromkeys([*kept, "never"], results.study.arms["engram"]),
    }
    results.trajectories = [trajectory(arm, [2, 1, 0.5]) for arm in results.study.arms]
    lost = difference(-0.05, -0.08, -0.02)
    results.measurements = [results.measurements[0]]
    results.comparisons = []
    for index, (arm, mean) in enumerate(kept.items()):
        results.measurements += [
            measurement("lora", "matched reference", 10, 1.0, lost, matched_with=arm),
            measurement(arm, "matched", 10, 0.9, difference(mean, mean - 0.04, mean + 0.04)),
            measurement(arm, "level", 5, 1.5, difference(mean, mean - 0.04, mean + 0.04)),
        ]
        results.measurements[-2].retention["plain"].shift = 2.5 / 10**index
        both = dict.fromkeys(("plain", "chat"), difference(mean, mean - 0.04, mean + 0.04))
        results.comparisons.append(
            Comparison(arm=arm, reference="lora", reached=[0], missed=[], mc1=both, mc2=both, shift=both, area=both)
        )
    results.comparisons.append(
        Comparison(arm="never", reference="lora", reached=[], missed=[0], mc1={}, mc2={}, shift={}),
    )
    results.measurements.append(measurement("lora", "last", 20, 0.5, lost))
    return results


@pytest.fixture
def evaluation(results: Results) -> Evaluation:
    """Somebody's adapter beside the same base."""
    return Evaluation(
        plan=EvaluationPlan(
            model="somewhere/theirs", base=results.study.base, data=results.study.data, probes=results.study.probes
        ),
        method="lora",
        base=results.measurements[0],
        model=measurement("theirs", "model", 0, 0.7, difference(-0.05, -0.08, -0.02)),
        data=results.data,
        provenance=results.provenance,
        seconds={"score": 60.0},
        finding="They lost much.",
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One a module: while it runs, so does an event loop, which other tests may want for themselves."""
    with started_browser() as launched:
        yield launched
