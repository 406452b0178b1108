"""The best of a run's adapters that stayed near enough to the base, in a folder that is whole or not there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tinyengram.errors import TinyEngramError

_NOTE = "forgetting.json"
_log = logging.getLogger(__name__)


class KeptAdapter:
    """Holds ``output_dir/kept``.

    Args:
        trainer: Whose model is kept, and by whose metric.
        tokenizer: Saved beside the adapter.
        limit: Greatest divergence from the base, in nats per token.

    Raises:
        TinyEngramError: There are several sets to evaluate on, and nothing says by which to choose.
    """

    def __init__(self, trainer: Any, tokenizer: Any, limit: float) -> None:
        args = trainer.args
        self._several = isinstance(trainer.eval_dataset, dict)
        if self._several and not args.metric_for_best_model:
            raise TinyEngramError(
                f"keep_best_under={limit:g} compares eval losses, and there are {len(trainer.eval_dataset)}: name one, "
                f"as by metric_for_best_model='eval_{next(iter(trainer.eval_dataset))}_loss'."
            )
        self._tokenizer, self._limit = tokenizer, limit
        self._folder = Path(args.output_dir) / "kept"
        self._before = self._folder.with_name("kept.before")
        name = args.metric_for_best_model or "loss"
        self._metric = name if name.startswith("eval_") else f"eval_{name}"
        self._sign = -1.0 if args.metric_for_best_model and args.greater_is_better else 1.0
        self._note: dict[str, Any] | None = None

    def begin(self, fresh: bool) -> None:
        """Look at what is there when a run begins, or goes on.

        Raises:
            TinyEngramError: A run that begins finds what another one kept.
        """
        if self._before.exists() and not self._folder.exists():  # Cut off between two renames.
            self._before.rename(self._folder)
        if fresh and self._folder.exists():
            raise TinyEngramError(
                f"{self._folder} holds what an earlier run kept: move it away, or resume that run from its checkpoint."
            )
        self._note = json.loads((self._folder / _NOTE).read_text()) if self._folder.exists() else None

    def consider(self, model: Any, state: Any, metrics: dict[str, float]) -> None:
        """Keep the model as it is now if it is near enough to the base and better than what is kept.

        Raises:
            TinyEngramError: The metric is not among the evaluation's.
        """
        if self._metric not in metrics:
            if self._several:  # The evaluation on another set.
                return
            raise TinyEngramError(
                f"keep_best_under compares {self._metric!r}, which is not among the evaluation's metrics "
                f"({', '.join(sorted(metrics))}): set metric_for_best_model to one of them."
            )
        kl, value = metrics["eval_forgetting_kl"], metrics[self._metric]
        best = self._note[self._metric] if self._note is not None else self._sign * float("inf")
        if not (kl <= self._limit and self._sign * value < self._sign * best):
            return
        self._note = {"step": state.global_step, self._metric: value, "kl": kl, "keep_best_under": self._limit}
        if state.is_world_process_zero:
            self._write(model, self._note)

    def tell(self) -> None:
        """Log what is kept; that nothing is, as a warning."""
        if self._note is None:
            _log.warning(f"Nothing was kept: no evaluation was within keep_best_under={self._limit:g}.")
        else:
            _log.info(f"Kept in {self._folder}: {json.dumps(self._note)}")

    def _write(self, model: Any, note: dict[str, Any]) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=self._folder.parent, prefix=".kept."))
        try:
            model.save_pretrained(made)
            self._tokenizer.save_pretrained(made)
            (made / _NOTE).write_text(json.dumps(note, indent=2))
            os.chmod(made, 0o755)
            # A folder cannot take another's place in one step; `begin` mends what is cut off between the two.
            if self._folder.exists():
                self._folder.rename(self._before)
            made.rename(self._folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
            shutil.rmtree(self._before, ignore_errors=True)
