"""TruthfulQA by lm-evaluation-harness and by this package: the same scores, and how much faster.

The harness (0.4.13) runs its own task on a sample of the questions, since all of them take it over an hour on two
cores; its time is scaled by the number of questions. Here all questions are scored. Needs ``lm-eval==0.4.13``;
`make bench` installs it in an environment of its own and asks the embedded questions.
Run: python benchmarks/harness.py [TruthfulQA.csv] [--sample 20]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from tinyengram import hardware
from tinyengram.scoring.truthfulqa import score_truthfulqa
from tinyengram.sources import load_base
from tinyengram.tasks.questions import EMBEDDED_SUBSET, TruthfulQuestion, evenly_spaced, load_truthfulqa


def harness_tasks(questions: list[TruthfulQuestion], file: Path) -> list[dict[str, Any]]:
    """The harness's two tasks, reading the sample from a local file instead of the Hub."""
    import lm_eval
    import yaml
    from lm_eval.tasks.truthfulqa import utils

    with file.open("w") as lines:
        for one in questions:
            mc1 = {"choices": list(one.mc1_choices), "labels": [1] + [0] * (len(one.mc1_choices) - 1)}
            mc2 = {"choices": list(one.mc2_choices), "labels": [int(label) for label in one.mc2_labels]}
            lines.write(json.dumps({"question": one.question, "mc1_targets": mc1, "mc2_targets": mc2}) + "\n")
    folder = Path(lm_eval.__file__).parent / "tasks" / "truthfulqa"

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: getattr(utils, node.value.rpartition(".")[2]))
    mc1 = yaml.load((folder / "truthfulqa_mc1.yaml").read_text(), Loader)
    mc2 = {**mc1, **yaml.load((folder / "truthfulqa_mc2.yaml").read_text(), Loader)}
    for task in (mc1, mc2):
        task.pop("include", None)
        task.pop("dataset_name", None)
        task.pop("tag", None)
        task |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"validation": str(file)}}}
    return [mc1, mc2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", nargs="?", default=EMBEDDED_SUBSET)
    parser.add_argument("--sample", type=int, default=20)
    chosen = parser.parse_args()
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    hardware.keep_freed_memory()
    base, data = load_base("smollm2-135m-instruct"), load_truthfulqa(chosen.questions)
    sample = evenly_spaced(data.questions, chosen.sample)
    score_truthfulqa(base.model, base.tokenizer, sample[:2])
    begun = time.perf_counter()
    scores = score_truthfulqa(base.model, base.tokenizer, data.questions)
    ours = time.perf_counter() - begun
    rows = {row.id: row for row in scores.rows}

    model = HFLM(pretrained=base.model, tokenizer=base.tokenizer, batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        tasks = harness_tasks(sample, Path(folder) / "sample.jsonl")
        begun = time.perf_counter()
        found = simple_evaluate(model=model, tasks=tasks, log_samples=True, bootstrap_iters=0)
        theirs = (time.perf_counter() - begun) * len(data.questions) / len(sample)
    worst, mc1_same, worst_mc2 = 0.0, True, 0.0
    for task, which in (("truthfulqa_mc1", "mc1_choices"), ("truthfulqa_mc2", "mc2_choices")):
        for line in found["samples"][task]:
            question = sample[line["doc_id"]]
            row = rows[question.id]
            for choice, response in zip(getattr(question, which), line["filtered_resps"], strict=True):
                worst = max(worst, abs(float(response[0]) - row.log_likelihoods[choice]))
            if task == "truthfulqa_mc1":
                mc1_same = mc1_same and float(line["acc"]) == row.mc1
            else:
                worst_mc2 = max(worst_mc2, abs(float(line["acc"]) - row.mc2))
    print(
        f"{hardware.describe().processor}: {data.label}: {ours:.0f} s, MC1 {scores.mc1:.4f}, MC2 {scores.mc2:.4f}; "
        f"lm-evaluation-harness {theirs:.0f} s, scaled from {len(sample)} questions: {theirs / ours:.1f}x. On "
        f"these questions: largest difference of a log-likelihood {worst:.1e}, "
        f"MC1 {'identical' if mc1_same else 'DIFFERENT'}, "
        f"largest difference of a question's MC2 {worst_mc2:.1e}."
    )


if __name__ == "__main__":
    main()
