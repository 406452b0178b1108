"""What did it break? One fine-tuned model, whoever trained it, measured beside its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tinyengram.errors import TinyEngramError
from tinyengram.files import only_process_in, write_atomically
from tinyengram.progress import Clock, Event, PhaseEvent
from tinyengram.scoring.probes import CallsProbe, ChoiceSetProbe, DriftProbe, Probes, TruthfulQAProbe
from tinyengram.scoring.scorer import Scorer, is_adapter
from tinyengram.study.checks import check_folder
from tinyengram.study.material import Material, data_in_words, prepare
from tinyengram.study.measuring import measurement
from tinyengram.study.provenance import provenance_of
from tinyengram.study.results import DataAccount, Measurement, RunProvenance
from tinyengram.training.examples import Examples
from tinyengram.training.job import BaseSpec, DataSpec
from tinyengram.training.trajectory import TrajectoryPoint

_EVAL_BATCH = 8
_HELD_OUT = 40
_WHOLE_MODEL = "whole model"


def probes_for(examples: Examples, questions: int = 80) -> Probes:
    """What is asked where nothing else is said; minutes on a small base.

    Calls are only asked for where the held-out chats make some that can be read back.

    Args:
        examples: The chats.
        questions: Of TruthfulQA and of ARC-Easy each; a fifth as many calls are asked for, and as many refusals.
    """
    from tinyengram.scoring.calls import requests_for_calls

    fifth, renderer = max(4, questions // 5), examples.renderer
    asks = renderer.call_format != "other" and requests_for_calls(
        examples.held_out_conversations, renderer.readable_format()
    )
    return Probes(
        truthfulqa=TruthfulQAProbe(limit=questions, prompts=("plain", "chat")),
        accuracy=(ChoiceSetProbe(name="arc-easy", limit=questions),),
        drift=DriftProbe(texts=fifth),
        calls=CallsProbe(wanted=fifth, unwanted=fifth) if asks else None,
    )


class EvaluationPlan(BaseModel):
    """What is measured, on what; kept in the folder so that another evaluation is not mixed with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    base: BaseSpec
    data: DataSpec
    probes: Probes


class Evaluation(BaseModel):
    """A model beside its base.

    Attributes:
        plan: What was measured.
        method: PEFT method of the adapter, or ``whole model``.
        base, model: The two rows of figures; the model's say what changed.
        data: What became of every row.
        provenance: On what and with what it was measured.
        seconds: By phase.
        finding: In words.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    schema_version: Literal[1] = 1
    plan: EvaluationPlan
    method: str
    base: Measurement
    model: Measurement
    data: DataAccount
    provenance: RunProvenance
    seconds: dict[str, float]
    finding: str


@dataclass(frozen=True)
class Subject:
    """What is evaluated: ``path`` of an adapter's or a model's folder, its base, and how it came of it."""

    path: Path
    base: str
    method: str


def evaluate(
    model: str | Path,
    *,
    base: str | None = None,
    data: str | DataSpec | None = None,
    questions: int = 80,
    out: str | Path | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Evaluation:
    """Measure what a fine-tuned model learnt and what it broke, against its base.

    Args:
        model: Folder of a PEFT adapter, or of a whole fine-tuned model.
        base: What it was trained on; an adapter names its own.
        data: Chats whose held-out part shows what was learnt; none: the embedded BFCL calls.
        questions: See :func:`probes_for`.
        out: Folder for scores, what was asked, ``evaluation.json`` and ``report.html``; none:
            ``runs/evaluate-<model>``. The same call continues what was cut off.
        on_event: Told how it is going.

    Returns:
        What is also written to ``evaluation.json``.

    Raises:
        TinyEngramError: The model, base or data cannot be had or used, or the folder holds something else.

    Example:
        >>> import tinyengram
        >>> tinyengram.evaluate("my-adapter").model.drift.kl  # doctest: +SKIP
    """
    from tinyengram.sources import load_tokenizer
    from tinyengram.training.examples import load_examples

    subject = find_subject(str(model), base)
    _refuse_other_vocabulary(subject)
    if data is None or isinstance(data, str):
        data = DataSpec(name=data or "bfcl", max_length=1024, eval_limit=_HELD_OUT)
    plan = EvaluationPlan(
        model=str(subject.path),
        base=BaseSpec(name=subject.base, dtype=_dtype()),
        data=data,
        probes=probes_for(load_examples(data, load_tokenizer(subject.base)), questions),
    )
    out = Path(out or Path("runs") / f"evaluate-{subject.path.resolve().name}")
    check_folder(plan, out)
    with only_process_in(out):
        return _evaluate(plan, subject, out, on_event)


def _evaluate(plan: EvaluationPlan, subject: Subject, out: Path, on_event: Callable[[Event], None]) -> Evaluation:
    import yaml

    from tinyengram.report.columns import evaluation_columns
    from tinyengram.report.page import render_page
    from tinyengram.report.runs import Run
    from tinyengram.report.scorecard import scorecard
    from tinyengram.report.telling import in_words

    clock = Clock(out / "seconds.json")
    on_event(PhaseEvent("Preparing base, data and questions"))
    with clock.phase("prepare"):
        material = prepare(plan.base, plan.data, plan.probes)
        for sentence in data_in_words(material.account):
            on_event(PhaseEvent(sentence))
    write_atomically(out / "plan.yaml", yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False))
    scorer = Scorer(plan.base, plan.probes, material.questions, out, clock, on_event)
    rows = []
    for role, folder in (("base", None), ("model", subject.path)):
        panel = scorer.panel(role, folder)
        with clock.phase("losses"):
            point = _losses(scorer, folder, material)
        rows.append((point, panel))
    (base_point, base_panel), (point, panel) = rows
    base = measurement(base_point, base_panel, None, arm="base", role="base", seed=None)
    model = measurement(point, panel, base_panel, arm=subject.path.name, role="model", seed=None)
    found = Evaluation(
        plan=plan,
        method=subject.method,
        base=base,
        model=model,
        data=material.account,
        provenance=provenance_of(material.base),
        seconds=clock.seconds,
        finding="",
    )
    found.finding = in_words(scorecard(evaluation_columns(found, out)))
    write_atomically(out / "evaluation.json", found.model_dump_json(indent=2))
    write_atomically(out / "report.html", render_page([Run(out, found)]))
    return found


def find_subject(model: str, base: str | None) -> Subject:
    """Tell an adapter from a whole model, and name its base.

    Raises:
        TinyEngramError: It is neither, is a pickle, names no base, or is of a method that PEFT does not know.
    """
    from tinyengram.host import peft_methods

    folder = Path(model)
    if not folder.is_dir():
        raise TinyEngramError(
            f"There is no folder {model!r}. Name the folder that save_pretrained wrote; a model on the Hub is fetched "
            f"by: hf download {model} --local-dir DIR."
        )
    if is_adapter(folder):
        try:
            said = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            method = str(said["peft_type"]).lower()
        except (ValueError, TypeError, KeyError) as error:
            raise TinyEngramError(
                f"{folder / 'adapter_config.json'} cannot be read: {error!r}. Save it anew."
            ) from error
        import tinyengram.memory  # noqa: F401 - makes Engram known to PEFT

        if method not in peft_methods():
            raise TinyEngramError(
                f"{folder} is of the method {method!r}, which the installed PEFT does not know. Install the version "
                f"that wrote it ({said.get('peft_version', 'not said')}) or a newer one."
            )
        if not (folder / "adapter_model.safetensors").is_file():
            raise TinyEngramError(
                f"{folder} has no adapter_model.safetensors. A pickled adapter_model.bin is not opened, since it could "
                "run code: load it where you trust it and save it anew with safe_serialization."
            )
        named = base or said.get("base_model_name_or_path")
        if not named:
            raise TinyEngramError(f"{folder / 'adapter_config.json'} names no base. Name it by --base.")
        return Subject(folder, embedded_name(named), method)
    if not (folder / "config.json").is_file():
        raise TinyEngramError(
            f"{folder} holds neither adapter_config.json nor config.json. Name the folder that save_pretrained wrote."
        )
    if base is None:
        raise TinyEngramError(f"{folder} is a whole model. Name the base that it was trained from by --base.")
    return Subject(folder, embedded_name(base), _WHOLE_MODEL)


def _refuse_other_vocabulary(subject: Subject) -> None:
    """Refuse a whole model whose vocabulary is not its base's: what the two predict cannot be compared.

    Raises:
        TinyEngramError: Their sizes differ.
    """
    from tinyengram.sources import load_config

    if subject.method != _WHOLE_MODEL:
        return
    ours, theirs = (load_config(name).get_text_config().vocab_size for name in (str(subject.path), subject.base))
    if ours != theirs:
        raise TinyEngramError(
            f"{subject.path} predicts {ours} tokens and its base {subject.base!r} {theirs}: they do not compare "
            "token by token. Name the base that it was trained from; a model whose vocabulary grew is not measured."
        )


def embedded_name(name: str) -> str:
    """The name of an embedded base where a folder of the cache stands for it, so that it is fetched where it is not."""
    from tinyengram.sources.provenance import cache_dir

    folder = Path(name)
    return folder.name if folder.parent == cache_dir() / "models" else name


def _dtype() -> str:
    """float32 on a CPU, where bfloat16 is slow; elsewhere as the base was saved."""
    from tinyengram.hardware import device

    return "float32" if device().type == "cpu" else "auto"


def _losses(scorer: Scorer, folder: Path | None, material: Material) -> TrajectoryPoint:
    """Both eval losses on the held-out examples, as a stop of training would have them."""
    from tinyengram.training import eval_losses

    tokenizer = material.base.tokenizer
    whole, answer = eval_losses(
        scorer.model(folder),
        material.examples.held_out,
        batch_size=_EVAL_BATCH,
        pad_token_id=tokenizer.pad_token_id or 0,
    )
    return TrajectoryPoint(
        step=0, tokens=0, seconds=0, train_loss=None, eval_loss_whole=whole, eval_loss_answer=answer, checkpoint=None
    )
