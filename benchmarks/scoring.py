"""Scores with shared prefixes against reading every prompt whole, in one process (SmolLM2-135M).

The peer reads each question's whole prompt once for every choice, as lm-evaluation-harness does, in batches of equal
size.
Run: make bench
"""

from __future__ import annotations

import time

import torch

from tinyengram import hardware
from tinyengram.scoring.truthfulqa import plain_prompt, score_truthfulqa
from tinyengram.sources import load_base
from tinyengram.tasks.questions import load_truthfulqa

QUESTIONS, SAMPLE, BATCH = 100, 4, 8


def main() -> None:
    hardware.keep_freed_memory()
    base, data = load_base("smollm2-135m-instruct"), load_truthfulqa(limit=QUESTIONS)
    score_truthfulqa(base.model, base.tokenizer, data.questions[:2])
    begun = time.perf_counter()
    scores = score_truthfulqa(base.model, base.tokenizer, data.questions)
    ours = (time.perf_counter() - begun) / QUESTIONS

    begun, worst = time.perf_counter(), 0.0
    for question, row in list(zip(data.questions, scores.rows, strict=True))[:SAMPLE]:
        context = plain_prompt(question.question)
        skip = len(base.tokenizer.encode(context))
        choices = [*question.mc1_choices, *question.mc2_choices]
        texts = sorted((base.tokenizer.encode(f"{context} {choice}"), choice) for choice in choices)
        for start in range(0, len(texts), BATCH):
            part = texts[start : start + BATCH]
            ids = torch.zeros(len(part), max(len(text) for text, _ in part), dtype=torch.long)
            for at, (text, _) in enumerate(part):
                ids[at, : len(text)] = torch.tensor(text)
            with torch.inference_mode():
                logits = base.model(ids, use_cache=False).logits.log_softmax(-1)
            for at, (text, choice) in enumerate(part):
                found = sum(logits[at, i - 1, text[i]].item() for i in range(skip, len(text)))
                worst = max(worst, abs(found - row.log_likelihoods[choice]))
    whole = (time.perf_counter() - begun) / SAMPLE
    print(
        f"TruthfulQA MC1 and MC2: {ours:.2f} s a question over {QUESTIONS}, reading prompts whole {whole:.2f} s over "
        f"{SAMPLE}: {whole / ours:.1f}x; largest difference of a log-likelihood {worst:.1e}"
    )


if __name__ == "__main__":
    main()
