"""Tools come from a file in either form; a file that offers none is refused in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.serving.models import WEATHER
from tinyengram.serving import ServingError, load_tools


@pytest.mark.parametrize("written", [[WEATHER], [{"type": "function", "function": WEATHER}], WEATHER])
def test_bare_wrapped_or_a_single_one(written: object, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps(written), encoding="utf-8-sig")
    assert load_tools(file) == (WEATHER,)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"[]", "offers no tool: it holds []"),
        (b"null", "offers no tool"),
        (b"[1]", "[0] must be an object"),
        (b'{"tools": []}', "needs a 'name'"),
        (b"[{", "not valid JSON"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b'[{"name": "f", "parameters": {"type": "array"}}]', "must describe an object"),
    ],
)
def test_what_offers_no_tool_is_refused_with_the_file_and_the_remedy(content: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "tools.json"
    file.write_bytes(content)
    with pytest.raises(ServingError) as refused:
        load_tools(file)
    for part in (str(file), said, "or leave the tools out."):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(ServingError, match="cannot be read"):
            load_tools(path)
