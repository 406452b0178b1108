"""A run folder whose page has answers that changed and calls side by side, some of them hostile."""

from __future__ import annotations

from pathlib import Path

from tests.report.folders import HOSTILE, answered, called, question, request
from tests.report.samples import calls
from tinyengram.report.runs import Run
from tinyengram.scoring.asked import AskedCall, AskedCalls
from tinyengram.study.results import Results

ROME = AskedCall(name="weather", arguments={"city": "Rome"})
RIGHT = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
WRONG = RIGHT.replace("Rome", "Paris")
NO = "None of the functions can do that."
QUESTIONS = ("Why is the sky blue?", "Who wrote the Iliad?", *HOSTILE)


def filled(folder: Path, results: Results) -> Run:
    """Base, LoRA and Engram asked eight questions in two prompts, and three requests of which one fits no tool.

    LoRA loses every question but the first, Engram only the second, and both move more the later a question is asked.
    """
    asked = [question(at, [f"true {at}", text], [True, False], text) for at, text in enumerate(QUESTIONS)]
    scores = {
        "base": [[0.0, -2.0]] * len(asked),
        "lora": [[-1.0, -1.2]] + [[-2.0, -1.0 + 0.1 * at] for at in range(1, len(asked))],
        "engram": [[0.0, -2.0 - 0.01 * at] if at != 1 else [-2.0, 0.0] for at in range(len(asked))],
    }
    requests = AskedCalls(
        wanted=[request(1, "Weather in Rome?", [ROME]), request(2, HOSTILE[0], [ROME])],
        unwanted=[request(3, HOSTILE[1] + HOSTILE[4], turn=None)],
    )
    wrote = called(
        folder,
        requests,
        {
            "base": [(NO, "declines in prose")] * 3,
            "lora": [(RIGHT, "right call"), (HOSTILE[4], "declines in prose"), (WRONG, "wrong call")],
            "engram": [(RIGHT, "right call"), (WRONG, "wrong call"), (HOSTILE[5], "declines in prose")],
        },
    )
    kept = {prompt: answered(folder, f"truthfulqa-{prompt}", asked, scores) for prompt in ("plain", "chat")}
    for row in results.measurements:
        for prompt, retention in row.retention.items():
            retention.scores_file = kept[prompt][row.arm]
        row.calls = calls(0.5, 1.0)
        row.calls.file = wrote[row.arm]
    return Run(folder, results)
