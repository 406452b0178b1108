"""Run folders made by hand, and the page's parts as they are rendered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tinyengram.report.respondents import Respondent
from tinyengram.scoring.asked import (
    AskedCall,
    AskedCalls,
    AskedMessage,
    AskedQuestion,
    AskedQuestions,
    AskedRequest,
    keep_asked,
)

KEY = "0123456789abcdef"
HOSTILE = (
    "<script>alert('x')</script>",
    "</script></pre></details><b onclick=x>bold</b>",
    "a quote \" and a ' and &amp; and {{ 7 * 7 }}",
    "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET} \u202eturned round",
    "unbroken" * 60,
    "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{FAMILY} nul \0 bell \a",
)
"""What data and models may hold."""


def question(at: int, choices: Sequence[str], right: Sequence[bool], text: str = "") -> AskedQuestion:
    text = text or f"Question {at}?"
    return AskedQuestion(
        id=f"q:{at}", question=text, prompt=f"Q: {text}\nA:", lead=" ", choices=list(choices), right=list(right)
    )


def answered(
    folder: Path, kind: str, asked: Sequence[AskedQuestion], scores: dict[str, list[list[float]]]
) -> dict[str, str]:
    """Write questions, and of each model the log-likelihoods of their choices; the files of scores by model."""
    keep_asked(AskedQuestions(questions=list(asked)), folder / "asked" / f"{kind}-{KEY}.json")
    files = {}
    for at, (name, rows) in enumerate(scores.items()):
        kept: list[Any] = [
            dict(zip(one.choices, row, strict=True)) if kind.startswith("truthfulqa") else row
            for one, row in zip(asked, rows, strict=True)
        ]
        files[name] = f"scores/{kind}-{KEY}-{'base' if name == 'base' else at}.json"
        write(folder, files[name], {"rows": [{"id": "q", "log_likelihoods": row} for row in kept]})
    return files


def request(at: int, text: str, expected: Sequence[AskedCall] = (), **more: Any) -> AskedRequest:
    return AskedRequest(
        **{
            "id": f"chats.jsonl:{at}",
            "turn": 1,
            "messages": [AskedMessage(role="user", text=text)],
            "tools": [{"name": "weather", "description": "Of a city.", "parameters": {"type": "object"}}],
            "expected": list(expected),
            "prompt": text,
            **more,
        }
    )


def called(
    folder: Path,
    asked: AskedCalls,
    wrote: dict[str, list[tuple[str, str]]],
) -> dict[str, str]:
    """Write requests, and of each model its texts with their outcomes; the files of scores by model."""
    keep_asked(asked, folder / "asked" / f"calls-{KEY}.json")
    files = {}
    for at, (name, answers) in enumerate(wrote.items()):
        verdicts = [
            {
                "id": "c",
                "text": text,
                "outcome": outcome,
                "format": None,
                "functions": False,
                "content_right": outcome == "right call",
            }
            for text, outcome in answers
        ]
        files[name] = f"scores/calls-{KEY}-{'base' if name == 'base' else at}.json"
        cut = len(asked.wanted)
        write(folder, files[name], {"wanted": verdicts[:cut], "unwanted": verdicts[cut:]})
    return files


def write(folder: Path, file: str, content: Any) -> None:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(content))


def columns(
    folder: Path, choices: dict[tuple[str, str], dict[str, str]], calls: dict[str, str] | None = None
) -> list[Respondent]:
    """The models that answered, by the files of scores that each way of asking has of each."""
    names = list(next(iter(choices.values()))) if choices else list(calls or ())
    return [
        Respondent(
            name=name,
            which="" if name == "base" else "seed 0, step 8",
            folder=folder,
            choices={key: files[name] for key, files in choices.items()},
            calls=(calls or {}).get(name),
        )
        for name in names
    ]


def rendered(partial: str, shown: Any, **given: Any) -> str:
    """A partial as the page includes it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tinyengram.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = {column.name: SimpleNamespace(index=at % 8) for at, column in enumerate(shown.columns[1:])}
    return environment.get_template(f"{partial}.html").render(**{partial: shown, "styles": styles, **given})


class Page(HTMLParser):
    """What a reader of HTML makes of it: elements that are open at the end, those that were met, and all text."""

    VOID = ("input", "br", "meta", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.met: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.met.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes {self.open[-1]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.met}
