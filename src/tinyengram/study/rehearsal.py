"""Before hours are spent on an arm: one step, one checkpoint and a few words, with the real base on a real example.

What can go wrong with a method, a base and the installed libraries goes wrong here, within seconds, and is refused by
name: a step that fails, an adapter that is another one once it is loaded, logits that are read at the wrong places, a
cache that loses what the method must remember.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.files import keep_trace
from tinyengram.host import versions
from tinyengram.study.material import Material
from tinyengram.study.plan import Study, StudyError
from tinyengram.training.examples import prompts_to_hold
from tinyengram.training.job import load_fresh

if TYPE_CHECKING:
    import torch

    from tinyengram.tasks.rendering import EncodedExample
    from tinyengram.training import Trajectory

# A rate at which one step moves the output by much more than arithmetic does.
_LEAST_RATE = 1e-2
_NEW_TOKENS = 6
# Of losses in nats, and of logits in standard deviations of all of them.
_TOLERANCE = 2e-3
_TIMES_THE_BASES_OWN = 8


class _Unfit(Exception):
    """What was found; the message completes "Arm … cannot be used: "."""


def rehearse(study: Study, material: Material, arms: Sequence[str], *, looks: bool) -> None:
    """Try each arm: a step, its checkpoint, and text generated with and without a cache.

    Args:
        study: What will be run.
        material: Its examples and prompts.
        arms: Which arms to try.
        looks: Whether this process looks at the checkpoints; of several processes the first does.

    Raises:
        StudyError: An arm cannot be used; says why, with the versions that are installed. Nothing was trained.
    """
    example = min(material.examples.train, key=lambda one: len(one.input_ids))
    noise = _cache_gap(material.base.model, example) if looks else 0.0
    for arm in arms:
        try:
            with tempfile.TemporaryDirectory(prefix="tinyengram-") as folder:
                trajectory = _take_a_step(study, material, arm, example, Path(folder))
                if looks:
                    checkpoint = Path(folder) / str(trajectory.points[-1].checkpoint)
                    _look_at(study, checkpoint, trajectory, example, noise)
        except (TinyEngramError, MemoryError, OSError):
            raise
        except Exception as error:
            trace = "" if isinstance(error, _Unfit) else f" The full trace is in {keep_trace(error)}."
            reason = str(error).strip() or type(error).__name__
            raise StudyError(
                f"Arm {arm!r} ({study.arms[arm].method}) cannot be used with {study.base.name} and {versions()}: "
                f"{reason.splitlines()[0]}{trace} Nothing was trained. Leave the arm out, change its options, or "
                "install versions that this package was run with (README: works with)."
            ) from error


def _take_a_step(study: Study, material: Material, arm: str, example: EncodedExample, folder: Path) -> Trajectory:
    """Train an arm on one example as it will be trained, but for one step at a rate that shows."""
    from tinyengram.training import peft_config, train_arm

    settings = study.settings(arm)
    changes = {"max_steps": 1, "epochs": None, "batch_size": 1, "gradient_accumulation": 1, "eval_every": 1}
    rates = {"learning_rate": max(settings.learning_rate, _LEAST_RATE), "warmup_ratio": 0.0, "lr_scheduler": "constant"}
    settings = settings.model_copy(update={**changes, **rates, "hold_prompts": 2, "hold_batch_size": 1})
    base = load_fresh(study.base)
    return train_arm(
        arm=arm,
        base=base,
        config=peft_config(study.arms[arm].method, study.arms[arm].options, base=base, train=material.examples.train),
        train=[example],
        eval=[example],
        settings=settings,
        seed=study.seeds[0],
        folder=folder,
        unanswerable=prompts_to_hold(settings, study.data, material.examples),
    )


def _look_at(study: Study, checkpoint: Path, trajectory: Trajectory, example: EncodedExample, noise: float) -> None:
    """Load a checkpoint on a base of its own and compare what it says with what was trained, and with itself."""
    import torch
    from peft import PeftModel

    from tinyengram.training import eval_losses
    from tinyengram.training.batches import collate

    trained = trajectory.points[-1].eval_loss_whole
    if not math.isfinite(trained):
        raise _Unfit(f"after one step its loss is {trained}.")
    base = load_fresh(study.base)
    pad_token_id = base.tokenizer.pad_token_id or 0
    model: Any = PeftModel.from_pretrained(base.model, str(checkpoint)).eval()
    loaded, _ = eval_losses(model, [example], batch_size=1, pad_token_id=pad_token_id)
    if abs(loaded - trained) > _TOLERANCE * max(1.0, trained):
        raise _Unfit(f"its loss was {trained:.4f} when it was saved and is {loaded:.4f} when it is loaded again.")
    batch = collate([example], loss_on="whole", pad_token_id=pad_token_id)
    with torch.no_grad():
        its_own = model(**{name: one.to(model.device) for name, one in batch.items()}, use_cache=False).loss.item()
    if abs(loaded - its_own) > _TOLERANCE * max(1.0, its_own):
        raise _Unfit(
            f"its logits do not stand where its tokens do: the loss at the labels' places is {loaded:.4f}, the "
            f"model's own {its_own:.4f}, as with virtual tokens before a text."
        )
    gap = _cache_gap(model, example)
    if not gap <= max(_TOLERANCE, _TIMES_THE_BASES_OWN * noise):
        raise _Unfit(
            f"it generates differently with and without a cache: logits are {gap:.2g} standard deviations apart, "
            f"the base's own {noise:.2g}."
        )


def _cache_gap(model: Any, example: EncodedExample) -> float:
    """How far logits lie apart when the same is generated with and without a cache, in their standard deviations."""
    import torch

    prompt = example.input_ids[: max(1, example.answer_mask.index(True))]
    ids = torch.tensor([prompt], device=model.device)

    def generated(use_cache: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=_NEW_TOKENS,
                min_new_tokens=_NEW_TOKENS,
                do_sample=False,
                use_cache=use_cache,
                output_logits=True,
                return_dict_in_generate=True,
            )
        return output.sequences[0, len(prompt) :], [logits[0].float() for logits in output.logits]

    (cached, with_cache), (uncached, without) = generated(True), generated(False)
    gap = 0.0
    for step in range(_NEW_TOKENS):
        apart = (with_cache[step] - without[step]).abs().max() / without[step].std()
        gap = max(gap, apart.item()) if math.isfinite(apart.item()) else math.inf
        if cached[step] != uncached[step]:  # From here on they read different texts.
            break
    return gap
