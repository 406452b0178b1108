"""Watching what a training run forgets, while it runs: a callback for any trainer of transformers, TRL's too.

Forgetting is otherwise measured when a run is over. Here a few general texts and TruthfulQA questions are read on the
way, and how far the model is from its base stands beside the loss in whatever the trainer reports to. A run with the
callback trains to the same bits as one without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from tinyengram import host
from tinyengram.errors import TinyEngramError
from tinyengram.files import write_atomically
from tinyengram.scoring.drift import Drift, TextDrift, measure_drift
from tinyengram.scoring.recorded import RecordedText, drift_from, record_predictions
from tinyengram.scoring.truthfulqa import TruthfulQAScores, centred_shift_by_question, score_truthfulqa
from tinyengram.tasks.general_text import load_texts
from tinyengram.tasks.questions import TruthfulQuestion, load_truthfulqa
from tinyengram.virtual_tokens import count_virtual_tokens
from tinyengram.watching.kept import KeptAdapter

BASE_FILE = "forgetting_base.safetensors"
_TEXTS, _QUESTIONS = 8, 12
_log = logging.getLogger(__name__)


@dataclass
class Said:
    """What a base says: its scores on the questions, and its predictions where it is not beneath the model."""

    scores: TruthfulQAScores
    texts: list[RecordedText] | None


class ForgettingCallback(TrainerCallback):
    """Measures on the way how far a model is from its base, logs it, and can stop the training or keep the best.

    Logged through the trainer, so that its log history, the console, TensorBoard, W&B, trackio and whatever else
    ``report_to`` names have them:

    - ``eval_forgetting_kl``: Kullback-Leibler divergence ``KL(base || model)`` on general text, nats per token;
    - ``eval_forgetting_mc2``: TruthfulQA's MC2 minus the base's;
    - ``eval_forgetting_shift``: how far the log-likelihoods of the questions' choices moved, in nats, less what all
      of a question moved by together; shows a change long before MC2 does;
    - ``eval_forgetting_runtime``: seconds that measuring took.

    At an evaluation they are also put among its metrics, so that ``metric_for_best_model`` can name one.

    The base of a PEFT model is had by switching its adapter off. Of a full fine-tune, and of an adapter that changed
    the base's own weights (PiSSA and its like, trained biases), the base is what the model is when ``train()`` begins;
    what it says is kept in ``output_dir/forgetting_base.safetensors`` (4 MB), so that a resumed run is compared with
    the base and not with itself, and the divergence is that of
    :func:`tinyengram.scoring.recorded.drift_from`, never above the whole one.

    In several processes (DDP) each reads its part of the texts and questions. Models with sharded parameters (FSDP,
    DeepSpeed ZeRO-3, tensor parallelism) are refused.

    Args:
        trainer: The trainer that the callback is added to.
        every: Optimizer steps between measurements, and once after the last; None: at each evaluation.
        stop_above: Stop once the divergence is above so many nats per token.
        keep_best_under: Keep, in ``output_dir/kept``, the adapter (of a full fine-tune the model) with the best eval
            loss among evaluations whose divergence is at most so many nats per token; ``kept/forgetting.json`` says
            which. It is written whole or not at all and needs no checkpoints; the model in memory goes on as it is.
            "Best" is by ``metric_for_best_model`` where the arguments name one.
        texts: General texts; None: 8 of the embedded plot summaries.
        questions: TruthfulQA's; None: 12 of the embedded subset; ``()``: none are asked.
        max_tokens: Texts are cut there.

    Raises:
        TinyEngramError: It would never measure, has no tokenizer, or a value makes no sense; when training begins: the
            model is sharded, cannot be asked questions, or the base of a resumed run is not known.
        SourceError: An embedded text or question cannot be had.

    Example:
        >>> trainer = SFTTrainer(...)  # doctest: +SKIP
        >>> trainer.add_callback(ForgettingCallback(trainer, every=20, stop_above=0.1))  # doctest: +SKIP
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        every: int | None = None,
        stop_above: float | None = None,
        keep_best_under: float | None = None,
        texts: Sequence[str] | None = None,
        questions: Sequence[TruthfulQuestion] | None = None,
        max_tokens: int = 64,
    ) -> None:
        evaluates = str(getattr(trainer.args.eval_strategy, "value", trainer.args.eval_strategy)) != "no"
        if every is not None and every < 1:
            raise TinyEngramError(f"every={every}: measure every so many steps, at least 1, or leave it out.")
        if every is None and not evaluates:
            raise TinyEngramError(
                "Nothing would be measured: eval_strategy='no', and that is when forgetting is measured. Give every=20 "
                "(steps), or set eval_strategy."
            )
        if keep_best_under is not None and not evaluates:
            raise TinyEngramError(
                f"keep_best_under={keep_best_under} compares eval losses, and eval_strategy='no': set eval_strategy."
            )
        for name, limit in (("stop_above", stop_above), ("keep_best_under", keep_best_under)):
            if limit is not None and not limit > 0:
                raise TinyEngramError(f"{name}={limit}: give a divergence above 0, in nats per token, such as 0.1.")
        tokenizer = trainer.processing_class
        self._tokenizer: Any = getattr(tokenizer, "tokenizer", tokenizer)
        if self._tokenizer is None:
            raise TinyEngramError(
                "The trainer has no tokenizer to read texts with: give it processing_class=tokenizer."
            )
        self._trainer: Any = trainer
        self._every, self._stop_above, self._max_tokens = every, stop_above, max_tokens
        self._texts = list(load_texts(limit=_TEXTS).texts if texts is None else texts)
        if not self._texts:
            raise TinyEngramError("texts=() leaves nothing to read: give at least one, or leave it out.")
        self._questions = list(load_truthfulqa(limit=_QUESTIONS).questions if questions is None else questions)
        self._kept = None if keep_best_under is None else KeptAdapter(trainer, self._tokenizer, keep_best_under)
        self._base: Said | None = None
        self._last: tuple[int, dict[str, float]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Learn what the base says."""
        _refuse_sharded(model, self._trainer)
        if self._questions and count_virtual_tokens(model):
            raise TinyEngramError(
                f"{model.active_peft_config.peft_type.value} puts virtual tokens before every text, so choices cannot "
                "be scored on a beginning that they share: give questions=(), and the divergence alone is measured."
            )
        fresh = state.global_step == 0
        self._last = None
        if self._kept is not None:
            self._kept.begin(fresh)
        file = Path(args.output_dir) / BASE_FILE
        below = host.base_is_below(model)
        if below or fresh:
            with _undisturbed(model), host.adapters_off(model) if below else nullcontext():
                self._base = self._ask_base(model, record=not below or count_virtual_tokens(model) > 0)
            if not below and state.is_world_process_zero:
                write_atomically(file, _written(self._base, self._asked()))
        else:
            self._base = _read(file, self._asked())

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure every so many steps and after the last."""
        if self._every and (state.global_step % self._every == 0 or state.global_step >= state.max_steps):
            self._measure(model, state, control)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **_: Any
    ) -> None:
        """Measure at an evaluation, unless it was just measured, and keep what is best."""
        if self._trainer.is_in_train and (not self._every or self._kept is not None):
            figures = self._measure(model, state, control)
            metrics.update(figures)
            if self._kept is not None:
                self._kept.consider(model, state, metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say what was kept."""
        if self._kept is not None and state.is_world_process_zero:
            self._kept.tell()

    def _ask_base(self, model: Any, record: bool) -> Said:
        scores = score_truthfulqa(model, self._tokenizer, self._questions)
        texts = record_predictions(model, self._tokenizer, self._texts, max_tokens=self._max_tokens) if record else None
        return Said(scores, texts)

    def _asked(self) -> str:
        """Digest of all that the base's answers depend on but the base."""
        ids = [self._tokenizer.encode(text, add_special_tokens=False)[: self._max_tokens] for text in self._texts]
        asked = [[one.question, *one.mc1_choices, *one.mc2_choices] for one in self._questions]
        return hashlib.sha256(json.dumps([ids, asked]).encode()).hexdigest()

    def _measure(self, model: Any, state: Any, control: Any) -> dict[str, float]:
        """Figures of this step, measured and logged once; the training is stopped where they say so."""
        if self._last is not None and self._last[0] == state.global_step:
            return self._last[1]
        begun = time.monotonic()
        with _undisturbed(model):
            texts, questions = self._read_part(model, state)
        drift = Drift(rows=texts)
        figures = {"eval_forgetting_kl": drift.kl}
        if questions:
            figures["eval_forgetting_mc2"] = fmean(mc2 for mc2, _ in questions)
            figures["eval_forgetting_shift"] = fmean(shift for _, shift in questions)
        figures["eval_forgetting_runtime"] = round(time.monotonic() - begun, 4)
        self._last = (state.global_step, figures)
        self._tell(figures, control)
        if self._stop_above is not None and not drift.kl <= self._stop_above:  # Also where it is not a number.
            control.should_training_stop = True
            if state.is_world_process_zero:
                _log.warning(
                    f"Stopped after step {state.global_step}: the divergence from the base is {drift.kl:.4g} nats per "
                    f"token, above stop_above={self._stop_above:g}."
                )
        return figures

    def _read_part(self, model: Any, state: Any) -> tuple[list[TextDrift], list[tuple[float, float]]]:
        """Of each text its divergence, of each question its change in MC2 and its shift; each process reads a part."""
        from accelerate.utils import gather_object

        assert self._base is not None
        args = self._trainer.args
        mine = slice(args.process_index, None, args.world_size)
        texts: list[TextDrift] = []
        if self._base.texts is not None:
            texts = drift_from(model, self._base.texts[mine])
        elif self._texts[mine]:
            texts = measure_drift(model, self._tokenizer, self._texts[mine], max_tokens=self._max_tokens).rows
        scores = score_truthfulqa(model, self._tokenizer, self._questions[mine])
        base = TruthfulQAScores(rows=self._base.scores.rows[mine])
        changes = [after.mc2 - before.mc2 for after, before in zip(scores.rows, base.rows, strict=True)]
        questions = list(zip(changes, centred_shift_by_question(scores, base), strict=True))
        if args.world_size > 1:
            texts, questions = gather_object(texts), gather_object(questions)
        return texts, questions

    def _tell(self, figures: dict[str, float], control: Any) -> None:
        """Log figures as the trainer would.

        ``Trainer.log`` itself: TRL's takes along, and clears, the training metrics that are gathered so far. It drops
        the wish to log the loss at this very step, which is put back.
        """
        wanted = control.should_log
        Trainer.log(self._trainer, dict(figures))
        control.should_log = wanted


@contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Evaluation mode within; each module's mode and torch's random state are afterwards what they were before."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters()}
    kinds = {device.type for device in devices} - {"cpu"}
    forked = torch.random.fork_rng(
        [device for device in devices if device.type != "cpu"], device_type=kinds.pop() if kinds else "cuda"
    )
    with forked:
        model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def _refuse_sharded(model: Any, trainer: Any) -> None:
    from torch.distributed.tensor import DTensor

    sharded = trainer.is_fsdp_enabled or any(
        isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters()
    )
    if sharded:
        raise TinyEngramError(
            "ForgettingCallback reads with the model outside the training step, and its parameters are sharded (FSDP, "
            "DeepSpeed ZeRO-3 or tensor parallelism). Train with DDP, or measure the checkpoints afterwards."
        )


def _written(said: Said, asked: str) -> bytes:
    """A base's answers as the bytes of a safetensors file."""
    from safetensors.torch import save

    assert said.texts is not None
    tensors = {}
    for index, text in enumerate(said.texts):
        tensors[f"{index}.ids"] = text.ids
        tensors[f"{index}.likeliest"] = text.likeliest.int()
        tensors[f"{index}.log_probabilities"] = text.log_probabilities
    return save(tensors, {"asked": asked, "texts": str(len(said.texts)), "scores": said.scores.model_dump_json()})


def _read(file: Path, asked: str) -> Said:
    """A base's answers from a file.

    Raises:
        TinyEngramError: There is none, it is damaged, or other texts or questions were put.
    """
    from safetensors import SafetensorError, safe_open

    if not file.exists():
        raise TinyEngramError(
            f"What the base said is not known: {file} is missing, and the resumed model is no longer the base. Resume "
            "in the output_dir of a run that began with a ForgettingCallback, or begin anew."
        )
    try:
        with safe_open(file, "pt") as opened:
            notes = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise TinyEngramError(f"{file} cannot be read ({error}): begin anew.") from error
    if notes.get("asked") != asked:
        raise TinyEngramError(
            f"{file} holds the base's answers to other texts or questions than are given now: give the same, or begin "
            "anew."
        )
    texts = [
        RecordedText(
            tensors[f"{index}.ids"], tensors[f"{index}.likeliest"].long(), tensors[f"{index}.log_probabilities"]
        )
        for index in range(int(notes["texts"]))
    ]
    return Said(TruthfulQAScores.model_validate_json(notes["scores"]), texts)
