"""The run folder keeps what was asked: enough to read the scores by, whatever becomes of data and tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydantic import BaseModel

from tinyengram.progress import Clock
from tinyengram.scoring.asked import (
    AskedCalls,
    AskedQuestions,
    AskedTexts,
    asked_file,
    call_requests,
    keep_asked,
)
from tinyengram.scoring.calls import CallRequest, CallScores
from tinyengram.scoring.probes import CallsProbe, Chats, ChoiceSetProbe, DriftProbe, Probes, TruthfulQAProbe
from tinyengram.scoring.probes import load_questions as load
from tinyengram.scoring.scorer import Panel, Scorer
from tinyengram.scoring.truthfulqa import TruthfulQAScores, plain_prompt
from tinyengram.sources import load_base
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.rendering import Renderer
from tinyengram.training.job import BaseSpec

TOOLS = ({"name": "weather", "description": "Of a city.", "parameters": {"type": "object", "properties": {}}},)
CHAT = Conversation(
    "chats.jsonl:7",
    (
        Turn("system", "Be short."),
        Turn("user", "Weather in Rome?"),
        Turn("assistant", calls=(Call("weather", {"city": "Rome"}),)),
        Turn("tool", "sunny", name="weather", answers=0),
        Turn("user", "And in Paris?"),
        Turn("assistant", calls=(Call("weather", {"city": "Paris"}),)),
    ),
    TOOLS,
    learnt=(2, 5),
    ground_truth=({"weather": {"city": ["Paris", "paris"]}},),
)
PROBES = Probes(
    accuracy=(ChoiceSetProbe(name="own.jsonl"),),
    drift=DriftProbe(name="texts.jsonl", texts=2, max_tokens=9),
    calls=CallsProbe(wanted=2, unwanted=0, max_new_tokens=4),
    truthfulqa=TruthfulQAProbe(name="truths.jsonl", prompts=("plain", "chat")),
)


@pytest.fixture
def panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Asks everything of a tiny base in ``tmp_path / "run"``; called again, it continues."""
    monkeypatch.chdir(tmp_path)
    truths = {"choices": ["It rises.", "It sets.", "It sleeps."], "labels": [1, 0, 0]}
    rows = {
        "truths.jsonl": [{"question": "What does the sun do?", "mc1_targets": truths, "mc2_targets": truths}],
        "own.jsonl": [{"question": "Two and two?", "choices": ["three", "four"], "gold": 1}],
        "texts.jsonl": [{"text": "Once there was a mill."}, {"text": "It stood by a stream."}],
    }
    for name, values in rows.items():
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in values))
    base = load_base("tiny-random-llama")
    questions = load(PROBES, Chats(Renderer(base.tokenizer, template="chatml"), [CHAT], 512))

    def ask() -> Panel:
        out = tmp_path / "run"
        spec = BaseSpec(name="tiny-random-llama")
        return Scorer(spec, PROBES, questions, out, Clock(out / "seconds.json"), lambda event: None).panel("base", None)

    return ask


def read(schema: type[BaseModel], run: Path, scores: str):
    return schema.model_validate_json((run / asked_file(scores)).read_text())


def test_every_file_of_scores_has_its_questions_beside_it_in_the_same_order(panel, tmp_path: Path) -> None:
    found = panel()
    run = tmp_path / "run"
    assert {asked_file(file) for file in found.files.values()} == {
        f"asked/{one.name}" for one in (run / "asked").iterdir()
    }

    (plain,) = read(AskedQuestions, run, found.files["truthfulqa", "plain"]).questions
    assert (plain.id, plain.question) == ("truths.jsonl:1", "What does the sun do?")
    assert (plain.prompt, plain.lead) == (plain_prompt("What does the sun do?"), " ")
    assert (plain.choices, plain.right) == (["It rises.", "It sets.", "It sleeps."], [True, False, False])
    assert plain.mc1_choices == plain.choices
    (scores,) = TruthfulQAScores.model_validate_json((run / found.files["truthfulqa", "plain"]).read_text()).rows
    assert (scores.id, list(scores.log_likelihoods)) == (plain.id, plain.choices)
    (chat,) = read(AskedQuestions, run, found.files["truthfulqa", "chat"]).questions
    assert (chat.prompt, chat.lead) == (
        "<|im_start|>user\nWhat does the sun do?<|im_end|>\n<|im_start|>assistant\n",
        "",
    )

    (own,) = read(AskedQuestions, run, found.files["own", "chat"]).questions
    assert (own.id, own.choices, own.right) == ("own.jsonl:1", ["three", "four"], [False, True])
    assert own.mc1_choices is None
    texts = read(AskedTexts, run, found.files["drift", "general text"])
    assert (texts.max_tokens, texts.texts) == (9, ["Once there was a mill.", "It stood by a stream."])


def test_calls_keep_what_was_said_offered_expected_and_allowed(panel, tmp_path: Path) -> None:
    found = panel()
    run = tmp_path / "run"
    first, second = read(AskedCalls, run, found.files["calls", "calls"]).wanted
    assert [(one.role, one.text) for one in first.messages] == [("system", "Be short."), ("user", "Weather in Rome?")]
    assert [call.model_dump() for call in first.expected] == [{"name": "weather", "arguments": {"city": "Rome"}}]
    assert (second.id, second.turn, second.tools) == ("chats.jsonl:7", 5, list(TOOLS))
    called, result = second.messages[2:4]
    assert [call.name for call in called.calls] == ["weather"]
    assert (result.role, result.text, result.name) == ("tool", "sunny", "weather")
    assert second.allowed == [{"weather": {"city": ["Paris", "paris"]}}]
    assert second.prompt.endswith("And in Paris?<|im_end|>\n<|im_start|>assistant\n")
    scores = CallScores.model_validate_json((run / found.files["calls", "calls"]).read_text())
    assert [one.id for one in scores.wanted] == [first.id, second.id]


def test_a_run_of_an_earlier_version_gains_them_and_nothing_is_measured_anew(panel, tmp_path: Path) -> None:
    panel()
    run = tmp_path / "run"
    before = {file.name: file.read_text() for file in (run / "asked").iterdir()}
    scores = {file: file.stat().st_mtime_ns for file in (run / "scores").iterdir()}
    shutil.rmtree(run / "asked")
    panel()
    assert {file.name: file.read_text() for file in (run / "asked").iterdir()} == before
    assert {file: file.stat().st_mtime_ns for file in (run / "scores").iterdir()} == scores


def test_what_is_there_is_not_written_again(panel, tmp_path: Path) -> None:
    panel()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "asked").iterdir()}
    panel()
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "run" / "asked").iterdir()} == files


def test_the_checksum_of_what_was_asked_is_that_of_earlier_versions(panel) -> None:
    """A finished run that is continued reads its scores; a changed key would measure everything anew."""
    assert sorted(panel().files.values()) == [
        "scores/calls-d7264e89bdd53dc7-base.json",
        "scores/drift-955afe8530af581e-base.json",
        "scores/own-33d2e342bcf054f6-base.json",
        "scores/own-8ee7fe906153fe11-base.json",
        "scores/truthfulqa-647170ad17c575d8-base.json",
        "scores/truthfulqa-ab0c37ab5fb37977-base.json",
    ]


def test_half_a_surrogate_pair_ends_no_run(tmp_path: Path) -> None:
    """JSON may hold one in a tool's description, and no file in UTF-8 can."""
    odd = Conversation("a:1", (Turn("user", "\N{GRINNING FACE}"),), ({"name": "f", "description": "\ud83d"},))
    keep_asked(call_requests([], [CallRequest(odd, None, ())], ["prompt"]), tmp_path / "asked.json")
    (kept,) = AskedCalls.model_validate_json((tmp_path / "asked.json").read_text()).unwanted
    assert (kept.messages[0].text, kept.tools[0]["description"]) == ("\N{GRINNING FACE}", "?")


@pytest.mark.parametrize(
    "scores", ["scores/my-set-0123456789abcdef-base.json", "scores\\my-set-0123456789abcdef-9.json"]
)
def test_scores_name_the_file_of_what_was_asked(scores: str) -> None:
    assert asked_file(scores) == "asked/my-set-0123456789abcdef.json"
