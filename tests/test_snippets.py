"""Every snippet of the documents runs as it stands there, but for names of models and data that are small here.

Python is executed, a page's snippets one after the other as a reader would; a line for the shell is read by the parser
that would read it; YAML is read as what it is a part of. What cannot be run is named below with its reason.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from tests.serving.running import running
from tinyengram import DataSpec, EngramConfig, ForgettingCallback
from tinyengram.cli import app
from tinyengram.sources import Base, load_base
from tinyengram.study.plan import ArmSection, Study
from tinyengram.training.settings import TrainingSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = ROOT / "examples" / "chats.jsonl"


@dataclass(frozen=True)
class Snippet:
    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(*kinds: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^ *```(\w+)\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 1
            found.append(Snippet(page.relative_to(ROOT).as_posix(), line, match[1], match[2]))
    return [one for one in found if not kinds or one.kind in kinds]


# What stands in a page's snippets and is something small here. Each must stand there.
SMALL: dict[str, dict[str, str]] = {
    "README.md": {
        '"Qwen/Qwen3-0.6B"': "BASE",
        "layer_ids=[13, 18, 23]": "layer_ids=[0, 1]",
        "SFTTrainer(…)": "some_trainer()",
    },
    "docs/engram.md": {
        '"Qwen/Qwen3-0.6B"': "BASE",
        'task_type="CAUSAL_LM")': 'task_type="CAUSAL_LM", layer_ids=[0, 1])',
    },
    "docs/data.md": {'"smollm2-135m-instruct"': '"tiny-random-llama"'},
    "docs/chat.md": {'talk.give_result(\'{"sky": "rain"}\').text': "talk.give_result"},  # A random model calls nothing.
    "docs/serve.md": {'"http://127.0.0.1:8000/v1"': "served()"},
    "docs/own-model.md": {
        'base="Qwen/Qwen3-0.6B"': 'base="tiny-random-llama"',
        'method="lora")': 'method="lora", questions=4)',
        'evaluate("adapter")': 'evaluate("adapter", data=DATA, questions=4)',
    },
    "docs/training.md": {
        '"HuggingFaceTB/SmolLM2-135M-Instruct"': "BASE",
        '"tensorboard"': '"none", bf16=False, max_steps=2',
        "eval_steps=20": "eval_steps=2",
        "HeldTrainer(base, args, …,": "HeldTrainer(base, args, train_dataset=chats['train'],",
    },
}
# Pages whose snippets train and score: run by `make test-all`.
SLOW = {"docs/own-model.md", "docs/training.md", "docs/chat.md", "docs/serve.md"}
# Lines for the shell that no parser of ours reads.
NOT_OURS = {
    "PYTHONPATH=src python3 -m pytest": "pytest's own, on a machine with an accelerator",
    "pip install 'tinyengram[serve]'": "pip's",
    'python -c "import tinyengram, lm_eval': "lm-evaluation-harness, which is installed for `make bench` only",
}


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What a reader has: chats, a base, texts in ids, and an adapter where a page begins with one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chats.jsonl").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "tools.json").write_text('[{"name": "weather", "description": "Of a city.", "parameters": {}}]')
    base: Base = load_base("tiny-random-llama")
    name = base.tokenizer.name_or_path
    get_peft_model(
        AutoModelForCausalLM.from_pretrained(name), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    ).save_pretrained("weather-lora")
    with ExitStack() as stack:
        yield {**_names(base), "served": lambda: stack.enter_context(_weather_server())}


@contextmanager
def _weather_server() -> Iterator[str]:
    """The address of a server with the adapter that a page begins with."""
    from tinyengram.serving.speakers import load_speakers

    speakers = load_speakers(["weather=weather-lora"])
    with running(speakers, most_tokens=8) as (url, _):
        yield f"{url}/v1"


def _names(base: Base) -> dict[str, Any]:
    """What a page's code may name."""
    from trl import SFTConfig

    texts = [base.tokenizer(text)["input_ids"] for text in ("The rain in Spain", "The rain in Spain stays")]
    arguments: dict[str, Any] = {"output_dir": "held", "max_steps": 2, "report_to": "none", "bf16": False}
    return {
        "BASE": base.tokenizer.name_or_path,
        "base": base.model,
        "tokenizer": base.tokenizer,
        "texts_as_ids": texts,
        "answer_masks": [[True] * len(ids) for ids in texts],
        "loss_masks": [[True] * len(ids) for ids in texts],
        "args": SFTConfig(**arguments),
        "lora": LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
        "ForgettingCallback": ForgettingCallback,
        "set_peft_model_state_dict": set_peft_model_state_dict,
        "some_trainer": lambda: Trainer(
            base.model,
            TrainingArguments("some", eval_strategy="steps", eval_steps=1),
            processing_class=base.tokenizer,
            eval_dataset=[{"input_ids": [5]}],
        ),
        "DATA": DataSpec(name="chats.jsonl", max_length=4096),
        "edited": {},
    }


def pages_with_python() -> list[Any]:
    pages = dict.fromkeys(one.page for one in snippets("python"))
    return [pytest.param(page, marks=[pytest.mark.slow] if page in SLOW else [], id=page) for page in pages]


@pytest.mark.parametrize("page", pages_with_python())
def test_python_runs(page: str, given: dict[str, Any]) -> None:
    left = set(SMALL[page])
    for snippet in snippets("python"):
        if snippet.page != page:
            continue
        code = snippet.text
        for there, here in SMALL[page].items():
            if there in code:
                left.discard(there)
                code = code.replace(there, here)
        if "row_sparse_adamw" in code:  # In a loop of one's own, before anything was saved and loaded for inference.
            given["model"].set_adapter("default")
        if "edited" in code:  # Halved, as people do.
            state = get_peft_model_state_dict(given["model"]).items()
            given["edited"] = {key: value / 2 if value.is_floating_point() else value for key, value in state}
        torch.manual_seed(0)
        exec(compile(code, str(snippet), "exec"), given)
    assert not left, "stands in no snippet any more"


def command_lines() -> list[Any]:
    found = []
    for snippet in snippets("console", "bash"):
        for line in snippet.text.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if line and line[0] not in '{>"' and not any(line.startswith(one) for one in NOT_OURS):
                found.append(pytest.param(line, id=f"{snippet}: {line.split('  ')[0]}"))
    return found


@pytest.mark.parametrize("line", command_lines())
def test_a_line_for_the_shell_is_understood(line: str) -> None:
    ours = line.split(" | ")[-1].split(" 2> ")[0]
    words = shlex.split(ours, comments=True)
    if words[0] == "make":
        made = (ROOT / "Makefile").read_text()
        for word in words[1:]:
            name, assigned, _ = word.partition("=")
            wanted = rf"^{name}\b" if not assigned else rf"^{name} *\??=|\$\({name}\)"
            assert re.search(wanted, made, flags=re.MULTILINE), word
        return
    assert words[0] == "tinyengram", line
    command: Any = typer.main.get_command(app)
    subcommand = command.get_command(typer.Context(command), words[1])
    assert subcommand is not None, words[1]
    subcommand.make_context(words[1], words[2:])  # Raises for an option that is unknown or cannot have this value.


def test_what_is_not_read_still_stands_there() -> None:
    shell = "\n".join(one.text for one in snippets("console", "bash"))
    assert all(start in shell for start in NOT_OURS)
    assert {one.kind for one in snippets()} == {"python", "console", "bash", "yaml", "text"}


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_yaml_is_what_it_is_for(snippet: Snippet) -> None:
    content = yaml.safe_load(snippet.text.replace(", …", ""))
    if "name" in content:
        Study.model_validate(content)
        return
    arms = content.get("arms", {} if "method" not in content else {"mine": content})
    assert arms
    for arm in arms.values():
        ArmSection.model_validate(arm)
        if arm.get("method") == "engram":
            collected = {"ngrams": None, "fingerprint": {"ngram_orders": [2]}}  # From the training data.
            EngramConfig(**{**arm["options"], **collected})
    for settings in (content.get("training", {}), *(arm.get("training", {}) for arm in arms.values())):
        TrainingSettings.model_validate({"learning_rate": 1e-3, "max_steps": 1, **settings})
