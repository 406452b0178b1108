"""Of a memory that nothing opens, what the base scored is taken over; and that is what it would have scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.memory.tiny import stir
from tinyengram import EngramConfig
from tinyengram.progress import Clock, Event, ScoreEvent
from tinyengram.scoring.probes import CallsProbe, Chats, ChoiceSetProbe, DriftProbe, Probes, TruthfulQAProbe
from tinyengram.scoring.probes import load_questions as load
from tinyengram.scoring.scorer import Panel, Scorer
from tinyengram.sources import load_base
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.rendering import Renderer
from tinyengram.training.job import BaseSpec

SPEC = BaseSpec(name="tiny-random-llama")
TOOLS = ({"name": "weather", "description": "Of a city.", "parameters": {"type": "object", "properties": {}}},)
CHAT = Conversation(
    "chats.jsonl:7",
    (Turn("user", "Weather in Rome?"), Turn("assistant", calls=(Call("weather", {"city": "Rome"}),))),
    TOOLS,
    learnt=(1,),
)
PROBES = Probes(
    accuracy=(ChoiceSetProbe(name="own.jsonl"),),
    drift=DriftProbe(name="texts.jsonl", texts=2, max_tokens=9),
    calls=CallsProbe(wanted=1, unwanted=0, max_new_tokens=4),
    truthfulqa=TruthfulQAProbe(name="truths.jsonl", prompts=("plain", "chat", "chat with tools")),
)
MEMORY: dict[str, Any] = {"layer_ids": [0, 1], "n_embed_per_ngram": 16, "n_head_per_ngram": 2, "task_type": "CAUSAL_LM"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Scores an adapter, and says what was asked of which model."""
    monkeypatch.chdir(tmp_path)
    truths = {"choices": ["It rises.", "It sets.", "It sleeps."], "labels": [1, 0, 0]}
    rows = {
        "truths.jsonl": [{"question": "What does the sun do?", "mc1_targets": truths, "mc2_targets": truths}],
        "own.jsonl": [{"question": "Two and two?", "choices": ["three", "four"], "gold": 1}],
        "texts.jsonl": [{"text": "Once there was a mill."}, {"text": "It stood by a stream."}],
    }
    for name, values in rows.items():
        (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in values))
    questions = load(PROBES, Chats(Renderer(load_base(SPEC.name).tokenizer, template="chatml"), [CHAT], 512))

    def ask(out: str, adapter: Path | None) -> tuple[Panel, set[str]]:
        asked: set[str] = set()

        def note(event: Event) -> None:
            if isinstance(event, ScoreEvent):
                asked.add(event.label)

        scorer = Scorer(SPEC, PROBES, questions, tmp_path / out, Clock(tmp_path / out / "seconds.json"), note)
        return scorer.panel("base" if adapter is None else "model", adapter), asked

    return ask


def saved(folder: Path, config: Any) -> Path:
    model = get_peft_model(load_base(SPEC.name).model, config)
    stir(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    model.save_pretrained(folder)
    return folder


def figures(panel: Panel) -> dict[str, str]:
    parts = {**panel.truthfulqa, **{f"own {name}": one for name, one in panel.accuracy["own"].items()}}
    return {name: one.model_dump_json() for name, one in parts.items()} | {"drift": panel.drift.model_dump_json()}


def test_what_is_not_asked_would_have_come_out_the_same(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_base(SPEC.name).tokenizer
    opening = tokenizer.encode('"description": "Of a city."', add_special_tokens=False)[1:-1]
    adapter = saved(tmp_path / "latched", EngramConfig(open_after=opening, **MEMORY))
    base, _ = run("run", None)
    found, asked = run("run", adapter)
    assert asked == {"model, truthfulqa, chat with tools", "model, own, chat with tools", "model, calls"}
    same = [name for name, figure in figures(found).items() if figure == figures(base)[name]]
    assert sorted(same) == ["chat", "drift", "own chat", "own plain", "plain"]
    assert found.drift.kl == 0
    monkeypatch.setattr("tinyengram.memory.EngramModel.stays_shut", lambda self, texts: False)
    again, asked = run("elsewhere", adapter)
    assert len(asked) == 8
    assert figures(again) == figures(found)


@pytest.mark.parametrize(
    "config",
    [
        EngramConfig(**MEMORY),
        EngramConfig(open_after=[5], modules_to_save=["lm_head"], **MEMORY),
        LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"),
    ],
    ids=["no latch", "modules that are saved whole", "LoRA"],
)
def test_whatever_else_is_asked(config: Any, run, tmp_path: Path) -> None:
    run("run", None)
    _, asked = run("run", saved(tmp_path / "adapter", config))
    assert len(asked) == 8
