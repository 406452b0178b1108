"""Run a study: check everything, train what is missing, match, score, and write down what was found.

The run folder holds ``plan.yaml``, ``provenance.json``, ``arms/<arm>/seed-<n>/``, ``scores/``, ``results.json`` and
``report.html``. Each file is written whole or not at all, so the same command continues after any interruption.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tinyengram.files import sha256_of, write_atomically
from tinyengram.study.finding import describe_finding
from tinyengram.study.matching import match, trained
from tinyengram.study.plan import PromptName, Study, StudyError
from tinyengram.study.results import (
    CallAccuracy,
    Comparison,
    DataAccount,
    Measurement,
    Results,
    Retention,
    Role,
    RunProvenance,
)
from tinyengram.study.statistics import Difference, paired_difference
from tinyengram.training import StepEvent, TrainingSettings, Trajectory, TrajectoryPoint

if TYPE_CHECKING:
    from tinyengram.scoring.truthfulqa import Prompt, TruthfulQAScores
    from tinyengram.sources import Base
    from tinyengram.tasks.chat import EncodedExample
    from tinyengram.tasks.questions import TruthfulQA
    from tinyengram.tasks.tool_calls import ToolCall

_PACKAGES = ("tinyengram", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "scipy")
_Scores = dict[PromptName, "tuple[TruthfulQAScores, str]"]
"""For each way of asking the scores and the file that holds them."""
# Adapter weights of every checkpoint in float32, and twice that once for the optimizer.
_BYTES_PER_PARAMETER = 4
_OPTIMIZER_COPIES = 2


@dataclass(frozen=True)
class PhaseEvent:
    """A part of the run begins."""

    text: str


@dataclass(frozen=True)
class ScoreEvent:
    """Questions answered so far by one checkpoint."""

    label: str
    done: int
    total: int


Event = PhaseEvent | ScoreEvent | StepEvent


@dataclass
class _Material:
    """What every arm shares."""

    base: Base
    calls: list[ToolCall]
    held_out_calls: list[ToolCall]
    unfitting_calls: list[ToolCall]
    train: list[EncodedExample]
    held_out: list[EncodedExample]
    questions: TruthfulQA
    account: DataAccount


def run_study(study: Study, out: Path, on_event: Callable[[Event], None] = lambda event: None) -> Results:
    """Run a study in a folder, or finish what an earlier call began there.

    Args:
        study: What to run.
        out: Run folder; created if need be.
        on_event: Told how the run is doing.

    Returns:
        What is also written to ``results.json``; ``report.html`` lies beside it.

    Raises:
        TinyEngramError: Something in the study, its data or the folder cannot be used; nothing was trained then.

    In a run of several processes (``torchrun``) this is for the first; the others call :func:`help_training`.
    """
    from tinyengram.report.page import render_page

    clock = _Clock(out / "seconds.json")
    _check_folder(study, out)
    on_event(PhaseEvent("Preparing base, data and questions"))
    with clock.phase("prepare"):
        material = _prepare(study)
        _check_arms(study, material, out)
    write_atomically(out / "plan.yaml", _plan_text(study))
    provenance = _provenance(material.base)
    write_atomically(out / "provenance.json", provenance.model_dump_json(indent=2))
    trajectories = _train(study, material, out, clock, on_event)
    scorer = _Scorer(study, material, out, clock, on_event)
    measurements, comparisons = _compare(study, trajectories, scorer, out)
    results = Results(
        study=study,
        provenance=provenance,
        data=material.account,
        trajectories=trajectories,
        measurements=measurements,
        comparisons=comparisons,
        seconds=clock.seconds,
        finding="",
    )
    results.finding = describe_finding(results)
    write_atomically(out / "results.json", results.model_dump_json(indent=2))
    write_atomically(out / "report.html", render_page(results))
    return results


def help_training(study: Study, out: Path) -> None:
    """Take part in training every arm, as each process after the first of a distributed run does; writes nothing."""
    _train(study, _prepare(study), out, None, lambda event: None)


# --- checks ----------------------------------------------------------------------------------------------------------


def _plan_text(study: Study) -> str:
    return yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _check_folder(study: Study, out: Path) -> None:
    """Refuse a folder that holds something else, or that cannot be written."""
    plan = out / "plan.yaml"
    if plan.exists():
        held = yaml.safe_load(plan.read_text())
        changed = _first_difference(held, study.model_dump(mode="json"))
        if changed:
            raise StudyError(
                f"{out} holds the results of another study: {changed}. Choose another --out, or delete the folder; "
                "nothing in it was changed."
            )
    elif out.exists() and (not out.is_dir() or any(path.name != "seconds.json" for path in out.iterdir())):
        raise StudyError(f"{out} is not empty and holds no study. Choose another --out; nothing in it was changed.")
    try:
        write_atomically(out / ".writable", "")
        (out / ".writable").unlink()
    except OSError as error:
        raise StudyError(f"The run folder {out} cannot be written ({error.strerror}). Choose another --out.") from error


def _first_difference(held: Any, wanted: Any, where: str = "") -> str | None:
    """Where two plans first differ, in words."""
    if isinstance(held, dict) and isinstance(wanted, dict):
        for key in [*held, *(key for key in wanted if key not in held)]:
            inner = f"{where}.{key}" if where else str(key)
            if key not in held or key not in wanted:
                return f"{inner} is only in {'its' if key in held else 'the new'} plan"
            difference = _first_difference(held[key], wanted[key], inner)
            if difference:
                return difference
        return None
    return None if held == wanted else f"{where} is {held!r} there, {wanted!r} now"


def _check_arms(study: Study, material: _Material, out: Path) -> None:
    """Put every arm's adapter on a hollow copy of the base, and see whether the disk holds the checkpoints."""
    from tinyengram.training import check_config, peft_config

    needed = 0
    for name, arm in study.arms.items():
        try:
            config = peft_config(arm.method, arm.options, base=material.base, train=material.train)
            parameters = check_config(config, material.base)
        except Exception as error:
            if type(error).__module__.startswith("tinyengram"):
                raise StudyError(f"Arm {name!r}: {error}") from error
            raise
        settings = study.settings(name)
        stops = math.ceil(_total_steps(study, name, len(material.train)) / settings.eval_every)
        needed += parameters * _BYTES_PER_PARAMETER * (stops + _OPTIMIZER_COPIES) * len(study.seeds)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StudyError(
            f"The checkpoints need about {needed / 1e9:.1f} GB and {out} has {free / 1e9:.1f} GB free. Free some "
            "space, raise eval_every, or choose another --out."
        )


def _total_steps(study: Study, arm: str, examples: int) -> int:
    settings = study.settings(arm)
    if settings.max_steps is not None:
        return settings.max_steps
    per_epoch = math.ceil(examples / (settings.batch_size * settings.gradient_accumulation))
    return math.ceil(per_epoch * (settings.epochs or 1))


def _prepare(study: Study) -> _Material:
    """Load what every arm shares and account for every row."""
    from tinyengram.tasks.chat import encode_all
    from tinyengram.tasks.questions import load_truthfulqa
    from tinyengram.tasks.tool_calls import load_tool_calls

    base = _load_base(study)
    data = load_tool_calls(
        study.data.name,
        format=study.data.format,
        max_bad_rows=study.data.max_bad_rows,
        split_seed=study.data.split_seed,
        eval_fraction=study.data.eval_fraction,
        # Limits count examples that are used, so they are applied behind the limit on length.
        eval_limit=None,
        train_limit=None,
        revision=study.data.revision,
    )
    encoded = {
        part: encode_all(
            calls,
            base.tokenizer,
            template=study.data.template,
            max_length=study.data.max_length,
            on_too_long=study.data.on_too_long,
        )
        for part, calls in (("train", data.train), ("eval", data.eval))
    }
    questions = load_truthfulqa(study.truthfulqa.name, limit=study.truthfulqa.limit)
    train = encoded["train"].examples[: study.data.train_limit]
    held_out = encoded["eval"].examples[: study.data.eval_limit]
    account = DataAccount(
        train_examples=len(train),
        eval_examples=len(held_out),
        too_long=sum(part.too_long for part in encoded.values()),
        skipped=[row.model_dump() for row in data.skipped],
        dropped=data.dropped,
        train_tokens=sum(len(example.input_ids) for example in train),
        data=data.provenance,
        questions=questions.provenance,
        question_label=questions.label,
        questions_asked=len(questions.questions),
        questions_dropped=questions.dropped,
    )
    calls, held_out_calls = _used(data.train, train), _used(data.eval, held_out)
    unfitting = _unfitting_calls(study, base) if study.calls is not None else []
    return _Material(base, calls, held_out_calls, unfitting, train, held_out, questions, account)


def _unfitting_calls(study: Study, base: Base) -> list[ToolCall]:
    """BFCL's requests that none of the offered tools fits, evenly spaced among those of at most ``max_length``."""
    from tinyengram.tasks.chat import chat_text
    from tinyengram.tasks.questions import evenly_spaced
    from tinyengram.tasks.tool_calls import load_irrelevant

    assert study.calls is not None
    if not study.calls.unwanted:
        return []
    fitting = [
        call
        for call in load_irrelevant()
        if len(base.tokenizer(chat_text(call.instruction, call.input, base.tokenizer))["input_ids"])
        <= study.data.max_length
    ]
    return evenly_spaced(fitting, study.calls.unwanted)


def _used(calls: Sequence[ToolCall], examples: Sequence[EncodedExample]) -> list[ToolCall]:
    """The calls that stand behind encoded examples."""
    ids = {example.id for example in examples}
    return [call for call in calls if call.id in ids]


def _load_base(study: Study) -> Base:
    """The base anew, on this process's accelerator if there is one."""
    from tinyengram.hardware import device
    from tinyengram.sources import load_base

    base = load_base(
        study.base.name,
        dtype=study.base.dtype,
        revision=study.base.revision,
        trust_remote_code=study.base.trust_remote_code,
    )
    base.model.to(device())
    return base


def _provenance(base: Base) -> RunProvenance:
    import torch

    from tinyengram.hardware import describe

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return RunProvenance(
        versions=versions,
        hardware=describe(),
        threads=torch.get_num_threads(),
        commit=_commit(),
        base=base.provenance,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _commit() -> str | None:
    """Commit of this code when it runs from a checkout, marked when files differ from it."""
    import subprocess

    if not shutil.which("git"):
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None


# --- training --------------------------------------------------------------------------------------------------------


class _Clock:
    """Wall time by phase, added up over all calls that worked on a run."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.seconds: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - begun
            write_atomically(self._file, json.dumps(self.seconds, indent=2))


def _train(
    study: Study, material: _Material, out: Path, clock: _Clock | None, on_event: Callable[[Event], None]
) -> list[Trajectory]:
    """Train every arm with every seed, or take what is there already; a clock notes how long each took."""
    from tinyengram.training import peft_config, read_trajectory, train_arm

    trajectories = []
    for seed in study.seeds:
        for name, arm in study.arms.items():
            folder = out / "arms" / name / f"seed-{seed}"
            done = read_trajectory(folder)
            if done is not None and done.finished:
                trajectories.append(done)
                continue
            on_event(PhaseEvent(f"Training {name}, seed {seed}"))
            with nullcontext() if clock is None else clock.phase(f"train {name}"):
                base = _load_base(study)
                settings = study.settings(name)
                trajectories.append(
                    train_arm(
                        arm=name,
                        base=base,
                        config=peft_config(arm.method, arm.options, base=base, train=material.train),
                        train=material.train,
                        eval=material.held_out,
                        settings=settings,
                        seed=seed,
                        folder=folder,
                        unanswerable=_unanswerable(study, settings, material),
                        on_step=on_event,
                    )
                )
    return trajectories


def _unanswerable(study: Study, settings: TrainingSettings, material: _Material) -> list[list[int]]:
    """Prompts on which an arm is held to the base, made from the training examples alone."""
    from tinyengram.holding import unanswerable_prompts

    if not settings.hold_weight:
        return []
    return unanswerable_prompts(
        material.calls,
        material.base.tokenizer,
        template=study.data.template,
        max_length=study.data.max_length,
        limit=settings.hold_prompts,
        seed=study.data.split_seed,
    )


# --- scoring and comparing -------------------------------------------------------------------------------------------


class _Scorer:
    """Scores checkpoints, each once for one set of questions and one way of asking, whatever run asks."""

    def __init__(
        self, study: Study, material: _Material, out: Path, clock: _Clock, on_event: Callable[[Event], None]
    ) -> None:
        self._study, self._material, self._out, self._clock, self._on_event = study, material, out, clock, on_event
        self._prompts = {name: _prompt(name, study, material) for name in study.truthfulqa.prompts}

    def retention(self, label: str, checkpoint: Path | None) -> tuple[dict[PromptName, Retention], _Scores]:
        """What a checkpoint (None: the base) still knows against the base, and the scores themselves."""
        from tinyengram.scoring.truthfulqa import mean_absolute_shift

        scores = self.scores(label, checkpoint)
        base = None if checkpoint is None else self.scores("base", None)
        retained = {
            name: Retention(
                mc1=asked.mc1,
                mc2=asked.mc2,
                margin=asked.margin,
                shift=None if base is None else mean_absolute_shift(asked, base[name][0]),
                delta_mc1=None if base is None else _difference([base[name][0]], [asked], "mc1"),
                delta_mc2=None if base is None else _difference([base[name][0]], [asked], "mc2"),
                scores_file=file,
            )
            for name, (asked, file) in scores.items()
        }
        return retained, scores

    def scores(self, label: str, checkpoint: Path | None) -> _Scores:
        """For each way of asking the scores, and the file that holds them, relative to the run folder."""
        from tinyengram.scoring.truthfulqa import TruthfulQAScores

        adapter_key = "base" if checkpoint is None else _adapter_key(checkpoint)
        found: _Scores = {}
        model: Any = None
        for name, prompt in self._prompts.items():
            asked = [
                [prompt.write(q.question), prompt.lead, q.mc1_choices, q.mc2_choices, q.mc2_labels]
                for q in self._material.questions.questions
            ]
            key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
            file = self._out / "scores" / f"truthfulqa-{key}-{adapter_key}.json"
            if not file.exists():
                with self._clock.phase("score"):
                    model = model or self._load(checkpoint)
                    scores = self._score(model, prompt, f"{label}, {name} prompt")
                write_atomically(file, scores.model_dump_json(indent=1))
            relative = str(file.relative_to(self._out))
            found[name] = TruthfulQAScores.model_validate_json(file.read_text()), relative
        return found

    def calls(self, label: str, checkpoint: Path | None) -> CallAccuracy | None:
        """Whether the calls that a checkpoint (None: the base) generates are right, if the study asks."""
        from tinyengram.scoring.calls import CallScores, score_calls
        from tinyengram.tasks.chat import chat_text

        section, material = self._study.calls, self._material
        if section is None:
            return None
        wanted = material.held_out_calls[: section.wanted]
        unwanted = material.unfitting_calls
        adapter_key = "base" if checkpoint is None else _adapter_key(checkpoint)
        asked = json.dumps([section.model_dump(), [call.id for call in (*wanted, *unwanted)]])
        key = hashlib.sha256(asked.encode()).hexdigest()[:16]
        file = self._out / "scores" / f"calls-{key}-{adapter_key}.json"
        if not file.exists():
            total, done = len(wanted) + len(unwanted), 0

            def tell(count: int) -> None:
                nonlocal done
                done += count
                self._on_event(ScoreEvent(f"{label}, calls", done, total))

            with self._clock.phase("calls"):
                scores = score_calls(
                    self._load(checkpoint),
                    material.base.tokenizer,
                    wanted,
                    unwanted,
                    prompt=lambda call: chat_text(
                        call.instruction, call.input, material.base.tokenizer, template=self._study.data.template
                    ),
                    max_new_tokens=section.max_new_tokens,
                    batch_size=section.batch_size,
                    on_done=tell,
                )
            write_atomically(file, scores.model_dump_json(indent=1))
        scores = CallScores.model_validate_json(file.read_text())
        return CallAccuracy(
            parses=scores.parses,
            functions=scores.functions,
            right=scores.right,
            refrains=scores.refrains if unwanted else None,
            wanted_asked=len(wanted),
            unwanted_asked=len(unwanted),
            file=str(file.relative_to(self._out)),
        )

    def _load(self, checkpoint: Path | None) -> Any:
        from peft import PeftModel

        model = _load_base(self._study).model
        return (model if checkpoint is None else PeftModel.from_pretrained(model, str(checkpoint))).eval()

    def _score(self, model: Any, prompt: Prompt, label: str) -> TruthfulQAScores:
        from tinyengram.scoring.truthfulqa import score_truthfulqa

        total, done = len(self._material.questions.questions), 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            self._on_event(ScoreEvent(label, done, total))

        self._on_event(ScoreEvent(label, 0, total))
        return score_truthfulqa(
            model, self._material.base.tokenizer, self._material.questions.questions, prompt=prompt, on_done=tell
        )


def _prompt(name: PromptName, study: Study, material: _Material) -> Prompt:
    """A way of asking; the tools that are offered are those of the shortest held-out example."""
    from tinyengram.scoring.truthfulqa import PLAIN, Prompt
    from tinyengram.tasks.chat import chat_text

    if name == "plain":
        return PLAIN
    instruction = "" if name == "chat" else min((call.instruction for call in material.held_out_calls), key=len)
    tokenizer, template = material.base.tokenizer, study.data.template
    return Prompt(lambda question: chat_text(instruction, question, tokenizer, template=template), "")


def _adapter_key(checkpoint: Path) -> str:
    """Identifies an adapter by what its files hold, in whatever order PEFT wrote its lists of modules."""
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    options = {name: sorted(value, key=str) if isinstance(value, list) else value for name, value in config.items()}
    weights = sha256_of(checkpoint / "adapter_model.safetensors")
    return hashlib.sha256(json.dumps([weights, options], sort_keys=True).encode()).hexdigest()[:16]


def _compare(
    study: Study, trajectories: Sequence[Trajectory], scorer: _Scorer, out: Path
) -> tuple[list[Measurement], list[Comparison]]:
    """Score the base, every matched pair and the reference's last checkpoint; compare the pairs."""
    of = {(trajectory.arm, trajectory.seed): trajectory for trajectory in trajectories}
    start = trajectories[0].points[0]
    measurements = [
        Measurement(
            arm="base",
            role="base",
            seed=None,
            step=0,
            eval_loss_whole=start.eval_loss_whole,
            eval_loss_answer=start.eval_loss_answer,
            retention=scorer.retention("base", None)[0],
            calls=scorer.calls("base", None),
        )
    ]

    def measure(arm: str, seed: int, point: TrajectoryPoint, role: Role, matched_with: str | None = None) -> _Scores:
        assert point.checkpoint is not None
        label = f"{arm}, seed {seed}, step {point.step}"
        checkpoint = out / "arms" / arm / f"seed-{seed}" / point.checkpoint
        retention, scores = scorer.retention(label, checkpoint)
        measurements.append(
            Measurement(
                arm=arm,
                role=role,
                matched_with=matched_with,
                seed=seed,
                step=point.step,
                eval_loss_whole=point.eval_loss_whole,
                eval_loss_answer=point.eval_loss_answer,
                retention=retention,
                calls=scorer.calls(label, checkpoint),
            )
        )
        return scores

    comparisons = []
    for name in study.arms:
        if name == study.reference:
            continue
        before, after, reached, missed = [], [], [], []
        for seed in study.seeds:
            pair = match(of[study.reference, seed], of[name, seed])
            if pair is None:
                missed.append(seed)
                continue
            reached.append(seed)
            before.append(measure(study.reference, seed, pair.reference, "matched reference", name))
            after.append(measure(name, seed, pair.other, "matched"))
        comparisons.append(
            Comparison(
                arm=name,
                reference=study.reference,
                reached=reached,
                missed=missed,
                mc1=_differences(before, after, "mc1", len(study.arms) - 1),
                mc2=_differences(before, after, "mc2", len(study.arms) - 1),
            )
        )
    for seed in study.seeds:
        measure(study.reference, seed, trained(of[study.reference, seed].points)[-1], "last")
    return measurements, comparisons


def _differences(
    before: Sequence[_Scores], after: Sequence[_Scores], which: str, comparisons: int
) -> dict[PromptName, Difference]:
    """Differences over seeds for each way of asking, as one of so many arms that are compared with the reference."""
    names = list(before[0]) if before else []
    return {
        name: _difference([one[name][0] for one in before], [one[name][0] for one in after], which, comparisons)
        for name in names
    }


def _difference(
    before: Sequence[TruthfulQAScores], after: Sequence[TruthfulQAScores], which: str, comparisons: int = 1
) -> Difference:
    return paired_difference(
        [[getattr(row, which) for row in scores.rows] for scores in before],
        [[getattr(row, which) for row in scores.rows] for scores in after],
        comparisons=comparisons,
    )
