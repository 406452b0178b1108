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


ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def heading_anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MkDocs make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    return {re.sub(r"\s+", "-", heading.strip()) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http", "mailto")):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), target
            assert not anchor or file.suffix != ".md" or anchor in heading_anchors(file), target


def test_the_site_shows_every_page() -> None:
    shown = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert shown == {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
