"""A job is all that decides a run: another value, other data or another base make another job, and only those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyengram.errors import TinyEngramError
from tinyengram.files import only_process_in
from tinyengram.sources import load_base
from tinyengram.study.plan import presets
from tinyengram.training import TrainingSettings
from tinyengram.training.examples import load_examples
from tinyengram.training.job import BaseSpec, DataSpec, TrainingJob, checksum_of_base, first_difference
from tinyengram.training.run import job_folder, result_of, run_job

CALLS = presets()["smoke"].parent / "data" / "smoke_calls.jsonl"


def job(data: Path = CALLS, **changes: Any) -> TrainingJob:
    spec = DataSpec(name=str(data), template="chatml", max_length=512, train_limit=8, eval_limit=4)
    base = load_base("tiny-random-llama")
    given = {
        "base": BaseSpec(name="tiny-random-llama"),
        "base_checksum": checksum_of_base(base),
        "data": spec,
        "examples_checksum": load_examples(spec, base.tokenizer).checksum,
        "method": "lora",
        "options": {"r": 4, "target_modules": "all-linear"},
        "settings": TrainingSettings(learning_rate=1e-3, loss_on="answer", max_steps=2, eval_every=1),
        "seed": 0,
    }
    return TrainingJob(**{**given, **changes})


def test_the_digest_is_of_what_a_job_says_and_of_nothing_else() -> None:
    first = job()
    assert job() == first
    assert hash(job()) == hash(first)
    assert TrainingJob.model_validate_json(first.model_dump_json()).digest == first.digest
    settings = first.settings.model_copy(update={"learning_rate": 2e-3})
    others = [job(seed=1), job(options={"r": 8, "target_modules": "all-linear"}), job(settings=settings)]
    assert len({one.digest for one in (first, *others)}) == 4


def test_edited_data_make_another_job(tmp_path: Path) -> None:
    """Whether the row that changed is one that is trained or one that is held out."""
    rows = CALLS.read_text().splitlines()
    copy = tmp_path / "calls.jsonl"
    copy.write_text("\n".join(rows))
    before = load_examples(job(copy).data, load_base("tiny-random-llama").tokenizer)
    for part in (before.train, before.held_out):
        edited = [row.replace('"', '"', 1) for row in rows]
        line = int(part[0].id.rsplit(":", 1)[1].split("#")[0]) - 1
        edited[line] = json.dumps(json.loads(rows[line]), ensure_ascii=True).replace("a", "e")
        copy.write_text("\n".join(edited))
        assert job(copy).digest != job(copy, examples_checksum=before.checksum).digest
        with pytest.raises(TinyEngramError, match="come to other examples than those that job"):
            run_job(job(copy, examples_checksum=before.checksum), tmp_path / "run", label="lora")
    assert not (tmp_path / "run").exists()


def test_a_base_with_other_weights_makes_another_job() -> None:
    base = load_base("tiny-random-llama")
    before = checksum_of_base(base)
    assert before is not None
    with torch.no_grad():
        base.model.get_input_embeddings().weight.mul_(2)
    assert checksum_of_base(base) != before


def test_a_job_is_run_once_under_whatever_name_it_has(tmp_path: Path) -> None:
    steps: list[int] = []
    first = run_job(job(), tmp_path, label="lora", on_step=lambda event: steps.append(event.step))
    assert steps
    assert (job_folder(tmp_path, job()) / "job.json").is_file()
    steps.clear()
    again = run_job(job(), tmp_path, label="another name", on_step=lambda event: steps.append(event.step))
    assert not steps
    assert again == first.model_copy(update={"arm": "another name"})
    assert again.job == job().digest
    assert result_of(job(seed=1), tmp_path, "lora") is None


def test_a_second_process_is_refused_and_a_helper_is_not(tmp_path: Path) -> None:
    with only_process_in(tmp_path):
        with pytest.raises(TinyEngramError, match="Another process works in"), only_process_in(tmp_path):
            pass
        with only_process_in(tmp_path, writes=False):
            pass
    with only_process_in(tmp_path):
        pass


@pytest.mark.parametrize(
    ("held", "wanted", "said"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1}}, None),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "a.b is 1 there, 2 now"),
        ({"a": 1, "b": 1}, {"a": 1}, "b is only in its plan"),
        ({"a": 1}, {"a": 1, "b": 1}, "b is only in the new plan"),
    ],
)
def test_the_first_difference_is_told_in_words(held: dict, wanted: dict, said: str | None) -> None:
    assert first_difference(held, wanted) == said
