"""Scores of checkpoints, each measured once for one set of questions and one way of asking, whatever run asks again.

A file of scores is named by a checksum over what was asked and one over the adapter's weights and options, so the same
command, or another study in the same folder, reads it instead of the model. What was asked lies beside it, see
:mod:`tinyengram.scoring.asked`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from pydantic import BaseModel

from tinyengram.files import read_model, write_atomically
from tinyengram.hardware import device
from tinyengram.progress import Clock, Event, ScoreEvent
from tinyengram.scoring.asked import (
    AskedTexts,
    asked_file,
    call_requests,
    choice_questions,
    keep_asked,
    truthful_questions,
)
from tinyengram.scoring.checkpoints import gone, has_weights, is_adapter, known_as
from tinyengram.scoring.probes import CallsProbe, Probes, PromptName, Questions
from tinyengram.sources import load_model
from tinyengram.training.job import BaseSpec, load_fresh

if TYPE_CHECKING:
    from tinyengram.scoring.accuracy import AccuracyScores
    from tinyengram.scoring.calls import CallScores
    from tinyengram.scoring.choices import Prompt
    from tinyengram.scoring.drift import Drift
    from tinyengram.scoring.truthfulqa import TruthfulQAScores

T = TypeVar("T", bound=BaseModel)


@dataclass
class Panel:
    """Everything that was measured at one checkpoint; files are relative to the run folder.

    Attributes:
        truthfulqa: For each way of asking.
        accuracy: For each choice set and way of asking.
        drift: None when the study does not ask.
        calls: None when the study does not ask.
        files: Of scores, by (kind, way of asking).
    """

    truthfulqa: dict[PromptName, TruthfulQAScores]
    accuracy: dict[str, dict[PromptName, AccuracyScores]]
    drift: Drift | None
    calls: CallScores | None
    files: dict[tuple[str, str], str]

    def take(self, scores: BaseModel, kind: str, way: str) -> None:
        """Put in what was said where ``kind`` was asked in one ``way``."""
        from tinyengram.scoring.accuracy import AccuracyScores
        from tinyengram.scoring.drift import Drift
        from tinyengram.scoring.truthfulqa import TruthfulQAScores

        prompt = cast(PromptName, way)
        if isinstance(scores, TruthfulQAScores):
            self.truthfulqa[prompt] = scores
        elif isinstance(scores, AccuracyScores):
            self.accuracy.setdefault(kind, {})[prompt] = scores
        elif isinstance(scores, Drift):
            self.drift = scores
        else:
            self.calls = cast("CallScores", scores)


@dataclass(frozen=True)
class _Asking(Generic[T]):
    """One thing that is asked of a checkpoint.

    Attributes:
        kind, way: What is asked, and in which way; equal where there is only one.
        schema: Of the scores.
        content: What the scores depend on besides the model, as plain data: its checksum names their file.
        total: How many questions, texts or requests.
        asked: The same for who reads the run folder.
        score: From a model, and what is told of questions that were just finished.
        reads: Token ids of every text that is read; None where texts are generated.
    """

    kind: str
    way: str
    schema: type[T]
    content: object
    total: int
    asked: Callable[[], BaseModel]
    score: Callable[[Any, Callable[[int], None]], T]
    reads: Callable[[], Iterable[Sequence[int]]] | None = None


class Scorer:
    """Measures models of one run: its base, adapters on it, and whole models that came of it.

    Args:
        base: The base.
        probes: What is asked.
        questions: The same, loaded.
        out: Run folder; scores are kept in ``scores`` there, and what was asked in ``asked``.
        clock: Notes how long it took.
        on_event: Told how it is going.
    """

    def __init__(
        self,
        base: BaseSpec,
        probes: Probes,
        questions: Questions,
        out: Path,
        clock: Clock,
        on_event: Callable[[Event], None],
    ) -> None:
        self._base, self._probes, self._questions = base, probes, questions
        self._out, self._clock, self._on_event = out, clock, on_event
        self._tokenizer = questions.chats.renderer.tokenizer
        self._loaded: tuple[Path | None, Any] | None = None

    def panel(self, label: str, checkpoint: Path | None, *, whole: bool = True) -> Panel:
        """Measure a checkpoint (None: the base), or read what was measured before.

        Args:
            label: Names the checkpoint in news of the run.
            checkpoint: Folder of an adapter, or of a whole model.
            whole: Also ask what is not needed for a curve: further choice sets and calls.
        """
        panel = Panel(truthfulqa={}, accuracy={}, drift=None, calls=None, files={})
        for probe in self._askings(checkpoint, whole):
            found, panel.files[probe.kind, probe.way] = self._kept(probe, label, checkpoint)
            panel.take(found, probe.kind, probe.way)
        return panel

    def knows(self, checkpoint: Path | None, *, whole: bool = True) -> bool:
        """Whether everything that :meth:`panel` would say of a checkpoint was measured before."""
        return all(self._file(probe, checkpoint).exists() for probe in self._askings(checkpoint, whole))

    def _askings(self, checkpoint: Path | None, whole: bool) -> Iterator[_Asking[Any]]:
        """All that a checkpoint is asked; ``whole``: also what is not needed for a curve."""
        prompts, asked_of = self._probes.truthfulqa.prompts, self._questions
        yield from (self._truthfulqa(name) for name in prompts)
        if whole:
            yield from (self._choices(one_set, name) for one_set in asked_of.choice_sets for name in prompts)
        if self._probes.drift is not None and asked_of.texts is not None:
            yield self._drift(self._probes.drift.max_tokens, asked_of.texts.texts, checkpoint)
        if whole and self._probes.calls is not None:
            yield self._calls(self._probes.calls)

    def _truthfulqa(self, name: PromptName) -> _Asking[TruthfulQAScores]:
        from tinyengram.scoring import truthfulqa
        from tinyengram.scoring.choices import tokens_read

        questions, prompt = self._questions.truthfulqa.questions, self._prompt(name, truthfulqa.PLAIN)
        return _Asking(
            kind="truthfulqa",
            way=name,
            schema=truthfulqa.TruthfulQAScores,
            content=[
                [prompt.write(one.question), prompt.lead, one.mc1_choices, one.mc2_choices, one.mc2_labels]
                for one in questions
            ],
            total=len(questions),
            asked=lambda: truthful_questions(questions, prompt),
            score=lambda model, tell: truthfulqa.score_truthfulqa(
                model, self._tokenizer, questions, prompt=prompt, on_done=tell
            ),
            reads=lambda: tokens_read(
                self._tokenizer,
                [prompt.request(one.id, one.question, [*one.mc1_choices, *one.mc2_choices]) for one in questions],
            ),
        )

    def _choices(self, set_name: str, name: PromptName) -> _Asking[AccuracyScores]:
        from tinyengram.scoring import accuracy
        from tinyengram.scoring.choices import tokens_read

        questions, prompt = self._questions.choice_sets[set_name].questions, self._prompt(name, accuracy.PLAIN)
        return _Asking(
            kind=set_name,
            way=name,
            schema=accuracy.AccuracyScores,
            content=[[prompt.write(one.question), prompt.lead, one.choices, one.gold] for one in questions],
            total=len(questions),
            asked=lambda: choice_questions(questions, prompt),
            score=lambda model, tell: accuracy.score_accuracy(
                model, self._tokenizer, questions, prompt=prompt, on_done=tell
            ),
            reads=lambda: tokens_read(
                self._tokenizer, [prompt.request(one.id, one.question, one.choices) for one in questions]
            ),
        )

    def _drift(self, max_tokens: int, texts: list[str], checkpoint: Path | None) -> _Asking[Drift]:
        from tinyengram.scoring import drift

        return _Asking(
            kind="drift",
            way="general text",
            schema=drift.Drift,
            content=[max_tokens, texts],
            total=len(texts),
            asked=lambda: AskedTexts(max_tokens=max_tokens, texts=texts),
            score=lambda model, tell: drift.measure_drift(
                model,
                self._tokenizer,
                texts,
                max_tokens=max_tokens,
                base=self._base_beside(checkpoint),
                on_done=tell,
            ),
            reads=lambda: [self._tokenizer.encode(text, add_special_tokens=False) for text in texts],
        )

    def _calls(self, probe: CallsProbe) -> _Asking[CallScores]:
        """Whether the calls that a checkpoint generates are right."""
        from tinyengram.scoring.calls import CallRequest, CallScores, requests_for_calls, score_calls

        chats, renderer = self._questions.chats, self._questions.chats.renderer
        wanted = requests_for_calls(chats.held_out, renderer.readable_format())[: probe.wanted]
        unwanted = [CallRequest(conversation, None, ()) for conversation in self._questions.unfitting]
        prompts = [renderer.prompt(one.conversation, one.turn) for one in (*wanted, *unwanted)]
        return _Asking(
            kind="calls",
            way="calls",
            schema=CallScores,
            content=[probe.model_dump(), prompts],
            total=len(prompts),
            asked=lambda: call_requests(wanted, unwanted, prompts),
            score=lambda model, tell: score_calls(
                model,
                renderer,
                wanted,
                unwanted,
                max_new_tokens=probe.max_new_tokens,
                batch_size=probe.batch_size,
                on_done=tell,
            ),
        )

    def _kept(self, probe: _Asking[T], label: str, checkpoint: Path | None) -> tuple[T, str]:
        """The scores and their file relative to the run folder; they are only measured when there is none."""
        file = self._file(probe, checkpoint)
        relative = file.relative_to(self._out).as_posix()
        asked = self._out / asked_file(relative)
        if not asked.exists():  # Also beside the scores of a version that did not keep it.
            keep_asked(probe.asked(), asked)
        if not file.exists() and checkpoint is not None and self._is_the_base(probe, checkpoint):
            # Not asked again: it would answer with the base's bits.
            scores, _ = self._kept(probe, "base", None)
            write_atomically(file, scores.model_dump_json(indent=1))
        if not file.exists():
            done, what = 0, probe.kind if probe.kind == probe.way else f"{probe.kind}, {probe.way}"

            def tell(count: int) -> None:
                nonlocal done
                done += count
                self._on_event(ScoreEvent(f"{label}, {what}", done, probe.total))

            with self._clock.phase("calls" if probe.kind == "calls" else "score"):
                self._on_event(ScoreEvent(f"{label}, {what}", 0, probe.total))
                scores = probe.score(self.model(checkpoint), tell)
            write_atomically(file, scores.model_dump_json(indent=1))
        return read_model(probe.schema, file, "Delete it: it is measured anew then."), relative

    def _file(self, probe: _Asking[Any], checkpoint: Path | None) -> Path:
        """Where the scores are kept."""
        key = hashlib.sha256(json.dumps(probe.content).encode()).hexdigest()[:16]
        adapter = "base" if checkpoint is None else known_as(checkpoint, self._out)
        return self._out / "scores" / f"{probe.kind}-{key}-{adapter}.json"

    def _is_the_base(self, probe: _Asking[Any], checkpoint: Path) -> bool:
        """Whether a checkpoint is the base to the bit on all that is read: a memory whose latch nothing opens."""
        from tinyengram.memory import EngramModel

        tuner = getattr(self.model(checkpoint), "base_model", None)
        return probe.reads is not None and isinstance(tuner, EngramModel) and tuner.stays_shut(probe.reads())

    def forget(self) -> None:
        """Let go of the model that stays loaded."""
        self._loaded = None

    def model(self, checkpoint: Path | None) -> Any:
        """A checkpoint in evaluation mode; the one that was asked for last stays loaded.

        Raises:
            TinyEngramError: An adapter does not fit the base.
        """
        if self._loaded is None or self._loaded[0] != checkpoint:
            self._loaded = None
            self._loaded = checkpoint, self._load(checkpoint).eval()
        return self._loaded[1]

    def _load(self, checkpoint: Path | None) -> Any:
        from tinyengram.training import load_adapter

        if checkpoint is None:
            return load_fresh(self._base).model
        if checkpoint.is_relative_to(self._out) and not has_weights(checkpoint):
            raise gone(checkpoint, "not everything that is asked was measured of it")
        if is_adapter(checkpoint):
            return load_adapter(load_fresh(self._base).model, checkpoint)
        whole = load_model(str(checkpoint), dtype=self._base.dtype, trust_remote_code=self._base.trust_remote_code)
        return whole.to(device())

    def _base_beside(self, checkpoint: Path | None) -> Any:
        """The base to measure drift from where a model cannot switch itself back to it; None where it can, or is it."""
        return None if checkpoint is None or is_adapter(checkpoint) else load_fresh(self._base).model.eval()

    def _prompt(self, name: PromptName, plain: Prompt) -> Prompt:
        """A way of asking; the tools that are offered are those of the shortest held-out example."""
        from tinyengram.scoring.choices import Prompt
        from tinyengram.tasks.conversations import request

        if name == "plain":
            return plain
        renderer = self._questions.chats.renderer
        tools, system = self._tools_offered() if name == "chat with tools" else ((), "")
        return Prompt(lambda question: renderer.prompt(request(question, tools=tools, system=system)), "")

    def _tools_offered(self) -> tuple[tuple[dict[str, Any], ...], str]:
        """Tools and system text of the held-out conversation that offers the least to read."""
        from tinyengram.tasks.conversations import system_text

        settings = [(one.tools, system_text(one)) for one in self._questions.chats.held_out]
        offering = [one for one in settings if one[0]] or settings

        def characters(setting: tuple[tuple[dict[str, Any], ...], str]) -> int:
            tools, system = setting
            return len("\n".join([system, *(json.dumps(tool, ensure_ascii=False) for tool in tools)]))

        return min(offering, key=characters)
