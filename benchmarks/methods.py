"""Every method that the installed PEFT knows, tried on the embedded SmolLM2-135M: the table in docs/methods.md.

Each is tried as ``compare`` tries it, and then trained for eight steps on BFCL's shortest calls at one rate. The point
is that it can be trained, scored and generated from, not that the rate suits it.
Run: make methods, or make methods METHODS="lora vera"
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from tinyengram import hardware, host
from tinyengram.errors import TinyEngramError
from tinyengram.scoring.truthfulqa import score_truthfulqa
from tinyengram.study.checks import check_arms
from tinyengram.study.material import Material, prepare
from tinyengram.study.plan import ArmSection, Study, load_study
from tinyengram.study.rehearsal import rehearse
from tinyengram.training import load_adapter, peft_config, train_arm
from tinyengram.training.job import load_fresh

RATE, STEPS, BATCH, EVAL, QUESTIONS = 1e-3, 8, 1, 2, 10
# What a method cannot be made without.
OPTIONS: dict[str, dict[str, Any]] = {
    "cpt": {"cpt_token_ids": [1, 9690, 198, 2], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "trainable_tokens": {"token_indices": [1, 2]},
}


def main() -> None:
    hardware.keep_freed_memory()
    study = load_study("quick")
    data = study.data.model_copy(update={"train_limit": None, "eval_limit": None})
    training = {"loss_on": "answer", "batch_size": BATCH, "max_steps": STEPS, "eval_every": STEPS, "warmup_ratio": 0.0}
    training |= {"learning_rate": RATE, "lr_scheduler": "constant"}
    study = study.model_copy(update={"data": data, "training": training, "reference": "it"})
    material = prepare(study.base, study.data, study.probes)
    material.examples.train.sort(key=lambda one: len(one.input_ids))
    material.examples.held_out.sort(key=lambda one: len(one.input_ids))
    machine = hardware.describe()
    base = score_truthfulqa(
        material.base.model, material.base.tokenizer, material.questions.truthfulqa.questions[:QUESTIONS]
    )
    print(f"{host.versions()}; {machine.processor}, {machine.cores} cores. The base's MC2: {100 * base.mc2:.1f}.\n")
    print(f"| method | trained | loss, {STEPS} steps at {RATE:g} | MC2 of {QUESTIONS} | cached = uncached |")
    print("|---|--:|--:|--:|---|", flush=True)
    for method in sys.argv[1:] or sorted({*host.peft_methods(), "engram"}):
        try:
            row = tried(method, study, material)
        except TinyEngramError as refusal:
            said = str(refusal).removeprefix("Arm 'it': ")
            row = f"refused: {said} | | | |"
        print(f"| {method} | {row}", flush=True)


def tried(method: str, study: Study, material: Material) -> str:
    """The cells of a method's row: trained parameters, loss before and after, MC2, whether it generates the same."""
    arm = ArmSection(method=method, options=OPTIONS.get(method, {}))
    study = study.model_copy(update={"arms": {"it": arm}})
    with tempfile.TemporaryDirectory() as folder:
        check_arms(study, material, Path(folder))
        rehearse(study, material, ["it"], looks=True)
        settings, base, train = study.settings("it"), load_fresh(study.base), material.examples.train[: STEPS * BATCH]
        trajectory = train_arm(
            arm="it",
            base=base,
            config=peft_config(method, arm.options, base=base, train=train, settings=settings),
            train=train,
            eval=material.examples.held_out[:EVAL],
            settings=settings,
            seed=0,
            folder=Path(folder),
        )
        model = load_adapter(load_fresh(study.base).model, Path(folder) / str(trajectory.points[-1].checkpoint))
    scores = score_truthfulqa(model, base.tokenizer, material.questions.truthfulqa.questions[:QUESTIONS])
    start, end = trajectory.points[0], trajectory.points[-1]
    losses = f"{start.eval_loss_answer:.2f} → {end.eval_loss_answer:.2f}"
    return f"{trajectory.trainable_parameters:,} | {losses} | {100 * scores.mc2:.1f} | yes |"


if __name__ == "__main__":
    main()
