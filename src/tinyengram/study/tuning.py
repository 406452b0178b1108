"""Fine-tune one model on one's own chats: a study of one arm, whose adapter and card are laid where they are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.files import copy_atomically, write_atomically
from tinyengram.progress import Event, PhaseEvent
from tinyengram.study.evaluation import probes_for
from tinyengram.study.matching import eval_loss, trained
from tinyengram.study.plan import ArmSection, Study, checked
from tinyengram.study.recipes import recipe
from tinyengram.study.results import Measurement, Results
from tinyengram.study.run import run_study
from tinyengram.training.job import BaseSpec, DataSpec

if TYPE_CHECKING:
    from tinyengram.training.trajectory import Trajectory

_EPOCHS = 3
# Fewer teach a format hardly at all, and of a large file more is the user's to ask for.
_LEAST_STEPS, _MOST_STEPS = 24, 300
_STOPS = 6
# An earlier stop whose loss is lower by more than this share is pointed out.
_OVERFITTED = 0.05
RUN = "run"


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned adapter.

    Attributes:
        folder: Holds the adapter, ``README.md`` (its card) and ``run/`` (all that was measured).
        results: Of the study of one arm; its first measurement is the base's, its last the adapter's.
        finding: What was learnt and what was broken, in words.
    """

    folder: Path
    results: Results
    finding: str

    @property
    def base(self) -> Measurement:
        """The base's row."""
        return self.results.measurements[0]

    @property
    def model(self) -> Measurement:
        """The adapter's row."""
        return self.results.measurements[-1]


def train(
    data: str | DataSpec,
    *,
    base: str | BaseSpec,
    out: str | Path,
    method: str = "engram",
    open_after: str | None = None,
    settings: dict[str, Any] | None = None,
    questions: int = 80,
    seed: int = 0,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Tuned:
    """Fine-tune a base on chats and measure what it learnt and what it forgot.

    Args:
        data: The chats: a file, folder, Hub id or ``bfcl``, or with all that can be said of how they are read.
        base: The model: an embedded name, folder or Hub id, or with all that can be said of how it is loaded.
        out: Receives adapter, card and ``run/``; the same call continues there.
        method: See :func:`tinyengram.study.recipes.recipe`.
        open_after: Of a memory: it is shut, and the model is its base to the bit, until a text holds this; ``"tools"``:
            what the chat template writes where tools are offered. See :class:`tinyengram.EngramConfig`.
        settings: Over those of the recipe, by the names of :class:`tinyengram.training.TrainingSettings`. Without
            ``max_steps`` and ``epochs``: three epochs, but 24 steps at least and 300 at most.
        questions: See :func:`tinyengram.study.evaluation.probes_for`.
        seed: Of first values and order.
        on_event: Told how it is going.

    Raises:
        TinyEngramError: Something cannot be had or used; nothing was trained then.

    In a run of several processes this is for the first; the others call :func:`tinyengram.study.run.help_training` with
    :func:`study_of_one`, as the command does.

    Example:
        >>> import tinyengram
        >>> tuned = tinyengram.train("chats.jsonl", base="Qwen/Qwen3-0.6B", out="adapter")  # doctest: +SKIP
        >>> tuned.finding  # doctest: +SKIP
    """
    from tinyengram.report.card import render_card
    from tinyengram.report.columns import study_columns
    from tinyengram.report.scorecard import scorecard
    from tinyengram.report.telling import in_words

    out = Path(out)
    _check_out(out)
    study = study_of_one(
        data,
        base=base,
        method=method,
        open_after=open_after,
        settings=settings,
        questions=questions,
        seed=seed,
    )
    how = study.settings(study.reference)
    length = f"{how.max_steps} steps" if how.max_steps else f"{how.epochs:g} epochs, steps"
    on_event(PhaseEvent(f"{length} of {how.batch_size} texts."))
    results = run_study(study, out / RUN, on_event)
    (trajectory,) = results.trajectories
    finding = " ".join([in_words(scorecard(study_columns(results, out / RUN))), *_remarks(trajectory)])
    _lay_out(trajectory, out)
    tuned = Tuned(out, results, finding)
    write_atomically(out / "README.md", render_card(tuned))
    return tuned


def study_of_one(
    data: str | DataSpec,
    *,
    base: str | BaseSpec,
    method: str,
    open_after: str | None,
    settings: dict[str, Any] | None,
    questions: int,
    seed: int,
) -> Study:
    """The study of one arm that :func:`train` runs in ``run/``; arguments and errors as there."""
    from tinyengram.sources import load_config, load_tokenizer
    from tinyengram.training.examples import load_examples

    data = DataSpec(name=data) if isinstance(data, str) else data
    base = BaseSpec(name=base) if isinstance(base, str) else base
    revision, trust = base.revision, base.trust_remote_code
    tokenizer = load_tokenizer(base.name, revision=revision, trust_remote_code=trust)
    config = load_config(base.name, revision=revision, trust_remote_code=trust)
    arm = recipe(method, getattr(config.get_text_config(), "num_hidden_layers", 0))
    if open_after is not None:
        arm = _latched(arm, method, open_after)
    examples = load_examples(data, tokenizer)
    given = {"loss_on": "answer", **arm.training, **(settings or {})}
    steps = _steps(given, len(examples.train))
    name = Path(method).stem
    content = {
        "name": "train",
        "description": f"{name} on {data.name}",
        "base": base.model_dump(),
        "data": data.model_dump(),
        **probes_for(examples, questions).model_dump(),
        "training": {"eval_every": max(1, math.ceil(steps / _STOPS)), **given, **_length(given, steps)},
        "arms": {name: {"method": arm.method, "options": arm.options}},
        "reference": name,
        "seeds": [seed],
    }
    return checked(Study, content)


def _latched(arm: ArmSection, method: str, open_after: str) -> ArmSection:
    if arm.method != "engram":
        raise TinyEngramError(
            f"open_after={open_after!r} is for a memory, and method {method!r} is {arm.method}, whose adapter would be "
            "on everywhere wherever it is loaded. Use engram or engram-exact, or leave open_after out."
        )
    return arm.model_copy(update={"options": {**arm.options, "open_after": open_after}})


def _check_out(out: Path) -> None:
    """Refuse a folder that holds something else before anything is fetched."""
    if out.exists() and not out.is_dir():
        raise TinyEngramError(f"--out {out} names a file. Name a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / RUN).is_dir():
        raise TinyEngramError(f"--out {out} is not empty and was not made by train. Name another folder.")


def _steps(given: dict[str, Any], examples: int) -> int:
    per_epoch = math.ceil(examples / (given.get("batch_size", 4) * given.get("gradient_accumulation", 1)))
    if given.get("max_steps") is not None:
        return int(given["max_steps"])
    if given.get("epochs") is not None:
        return math.ceil(per_epoch * given["epochs"])
    return min(_MOST_STEPS, max(_LEAST_STEPS, _EPOCHS * per_epoch))


def _length(given: dict[str, Any], steps: int) -> dict[str, Any]:
    return {} if given.keys() & {"max_steps", "epochs"} else {"max_steps": steps}


def _remarks(trajectory: Trajectory) -> list[str]:
    stops = trained(trajectory.points)
    last, best = stops[-1], min(stops, key=lambda point: eval_loss(point, trajectory.loss_on))
    now, then = eval_loss(last, trajectory.loss_on), eval_loss(best, trajectory.loss_on)
    if then * (1 + _OVERFITTED) >= now:
        return []
    return [
        f"Eval loss was lower at step {best.step} ({then:.4f}) than at the end ({now:.4f}): train for fewer steps, or "
        f"take {RUN}/jobs/{trajectory.job}/{best.checkpoint}."
    ]


def _lay_out(trajectory: Trajectory, out: Path) -> None:
    """Copy the last checkpoint's adapter to ``out``."""
    checkpoint = out / RUN / "jobs" / trajectory.job / str(trained(trajectory.points)[-1].checkpoint)
    for file in checkpoint.iterdir():
        copy_atomically(file, out / file.name)
