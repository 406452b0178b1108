"""The model card of an adapter: what it is, what it learnt, what it broke, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml

from tinyengram.report.columns import study_columns
from tinyengram.report.plain import scorecard_markdown
from tinyengram.report.scorecard import scorecard

if TYPE_CHECKING:
    from tinyengram.study.tuning import Tuned


def edited_card(name: str, sentence: str, measured: Sequence[str]) -> str:
    """README.md of an adapter whose memory was edited.

    Args:
        name: Of the adapter that it was made of.
        sentence: What was done.
        measured: What held-out chats said before and after, a sentence each.
    """
    front = yaml.safe_dump({"library_name": "peft", "tags": ["tinyengram", "engram"]}, sort_keys=False).strip()
    told = "".join(f"\n- {line}" for line in (sentence, *measured))
    return f"---\n{front}\n---\n\n# {name}, edited\n\nMade of {name} by `tinyengram edit`.\n{told}\n"


def render_card(tuned: Tuned) -> str:
    """README.md of the adapter's folder, in the form that the Hub reads."""
    from jinja2 import Environment, StrictUndefined

    results = tuned.results
    (arm,), (trajectory,) = results.study.arms.values(), results.trajectories
    front = {
        "base_model": results.study.base.name,
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["tinyengram", arm.method.lower(), "function-calling"],
    }
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("tinyengram.report").joinpath("card.md").read_text())
    return template.render(
        front=yaml.safe_dump(front, sort_keys=False).strip(),
        finding=tuned.finding,
        scorecard=scorecard_markdown(scorecard(study_columns(results, tuned.folder / "run"))),
        study=results.study,
        arm=arm,
        data=results.data,
        trajectory=trajectory,
        last=trajectory.points[-1],
        provenance=results.provenance,
    )
