"""What did it break? One model's scorecard as a page that works alone."""

from __future__ import annotations

from importlib.resources import files

from tinyengram.report.scorecard import HEADINGS, score_lines
from tinyengram.study.evaluation import Evaluation


def render_evaluation(found: Evaluation) -> str:
    """The page as HTML without a script or a request; everything shown is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("tinyengram.report").joinpath("evaluation.html").read_text())
    lines = score_lines(found.base, found.model)
    groups = {group: [line for line in lines if line.group == group] for group in ("Learnt", "Broke", "Moved")}
    return template.render(found=found, groups=groups, headings=HEADINGS[1:])
