"""What a document tells a reader to write runs as it stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tinyengram.sources import load_base

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.slow
def test_the_trainers_example_watches_and_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "training.md").read_text()
    (code,) = re.findall(r"```python\n(from datasets.*?)```", text, re.DOTALL)
    small = {
        '"HuggingFaceTB/SmolLM2-135M-Instruct"': repr(load_base("tiny-random-llama").tokenizer.name_or_path),
        '"tensorboard"': '"none", bf16=False, max_steps=4',
        "eval_steps=20": "eval_steps=2",
    }
    for there, here in small.items():
        assert there in code
        code = code.replace(there, here)
    monkeypatch.chdir(tmp_path)
    chats = [
        [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": "A number."}] for i in range(20)
    ]
    Path("chats.jsonl").write_text("\n".join(json.dumps({"messages": chat}) for chat in chats))
    names: dict[str, Any] = {}
    exec(code, names)
    history = names["trainer"].state.log_history
    assert [entry["step"] for entry in history if "eval_forgetting_kl" in entry] == [2, 4]
    assert json.loads(Path("out/kept/forgetting.json").read_text())["step"] == 4
