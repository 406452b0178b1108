"""`train` and `evaluate` as a new user runs them: an adapter with its card, the same figures from both, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from peft import PeftModel

from tinyengram.cli import main
from tinyengram.files import only_process_in
from tinyengram.sources import load_base
from tinyengram.study.evaluation import Evaluation
from tinyengram.study.plan import presets
from tinyengram.study.results import Results

CALLS = presets()["smoke"].parent / "data" / "smoke_calls.jsonl"
DATA = ["--template", "chatml", "--max-length", "512"]


def run(*arguments: object) -> int:
    """The exit code of the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tinyengram", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return int(stopped.value.code or 0)


def train(file: Path, out: Path, *more: object) -> int:
    few = ["--questions", 3, "--max-steps", 4, "--method", "engram"]
    return run("train", file, "--base", "tiny-random-llama", "--out", out, *DATA, *few, *more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A file of chats, and the folder that `train` made of it."""
    folder = tmp_path_factory.mktemp("train")
    file = folder / "chats.jsonl"
    file.write_text(CALLS.read_text())
    assert train(file, folder / "adapter") == 0
    return file, folder / "adapter"


@pytest.mark.slow
def test_two_processes_train_one_adapter(trained: tuple[Path, Path], tmp_path: Path) -> None:
    file, alone = trained
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = ["train", file, "--base", "tiny-random-llama", "--out", tmp_path / "adapter", *DATA, "--questions", 3]
    asked = ["--max-steps", 4, "--method", "engram"]
    done = subprocess.run(
        [*launcher, "-m", "tinyengram", *map(str, [*command, *asked])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Adapter and card: ") == 1
    ours, theirs = (json.loads((out / "run" / "results.json").read_text()) for out in (tmp_path / "adapter", alone))
    (mine,), (its,) = ours["trajectories"], theirs["trajectories"]
    assert [point["tokens"] for point in mine["points"]] == [point["tokens"] for point in its["points"]]
    assert mine["points"][-1]["eval_loss_answer"] == pytest.approx(its["points"][-1]["eval_loss_answer"], abs=1e-4)
    held = {path.name for path in alone.iterdir() if path.is_file()}
    assert {path.name for path in (tmp_path / "adapter").iterdir() if path.is_file()} == held


def test_what_several_processes_cannot_share_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert run("evaluate", tmp_path) == 2
    assert "3 processes were started" in capsys.readouterr().err
    assert train(CALLS, tmp_path / "out") == 2
    assert "batch_size=4 texts cannot be shared out among 3 processes. Give a multiple of 3" in capsys.readouterr().err


@pytest.mark.xdist_group("trained")
class TestTrained:
    def test_the_folder_is_an_adapter_with_its_card(self, trained: tuple[Path, Path]) -> None:
        _, out = trained
        results = Results.model_validate_json((out / "run" / "results.json").read_text())
        base, model = results.measurements
        card = (out / "README.md").read_text()
        for figure in (f"{model.eval_loss_answer:.3f}", f"{base.eval_loss_answer:.3f}", "library_name: peft"):
            assert figure in card
        assert model.drift is not None
        assert f"| {model.drift.kl:.2g} |" in card
        loaded = PeftModel.from_pretrained(load_base("tiny-random-llama").model, str(out))
        assert type(loaded.active_peft_config).__name__ == "EngramConfig"

    def test_again_it_trains_nothing_and_says_the_same(self, trained: tuple[Path, Path], capsys) -> None:
        file, out = trained
        before = (out / "run" / "results.json").read_bytes()
        assert train(file, out, "--json") == 0
        said = capsys.readouterr()
        assert "Training" not in said.err
        again, kept = Results.model_validate_json(said.out), Results.model_validate_json(before)
        assert again.measurements == kept.measurements

    def test_evaluate_finds_what_train_found(self, trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:
        file, out = trained
        options = [*DATA, "--data", file, "--questions", 3, "--eval-limit", 200, "--out", tmp_path / "out"]
        assert run("evaluate", out, *options, "--json") == 0
        found = Evaluation.model_validate_json(capsys.readouterr().out)
        base, model = Results.model_validate_json((out / "run" / "results.json").read_text()).measurements
        for ours, theirs in ((found.base, base), (found.model, model)):
            assert ours.eval_loss_answer == pytest.approx(theirs.eval_loss_answer, rel=1e-5)
            assert [one.mc2 for one in ours.retention.values()] == [one.mc2 for one in theirs.retention.values()]
            assert ours.drift is not None
            assert theirs.drift is not None
            assert ours.drift.kl == theirs.drift.kl

    def test_data_that_were_edited_meanwhile_are_refused(self, trained: tuple[Path, Path], capsys) -> None:
        file, out = trained
        rows, kept = file.read_text(), (out / "run" / "results.json").read_bytes()
        try:
            file.write_text(rows.replace("the", "a"))
            assert train(file, out) == 2
        finally:
            file.write_text(rows)
        assert "was begun with other inputs: the checksum of data" in capsys.readouterr().err
        assert (out / "run" / "results.json").read_bytes() == kept

    def test_other_settings_are_refused(self, trained: tuple[Path, Path], capsys) -> None:
        file, out = trained
        assert train(file, out, "--seed", 7) == 2
        assert "seeds is [0] there, [7] now" in capsys.readouterr().err

    def test_a_second_process_is_refused(self, trained: tuple[Path, Path], capsys) -> None:
        file, out = trained
        with only_process_in(out / "run"):
            assert train(file, out) == 2
        assert "Another process works in" in capsys.readouterr().err

    def test_a_results_file_that_was_cut_off(self, trained: tuple[Path, Path], tmp_path: Path, capsys) -> None:
        whole = (trained[1] / "run" / "results.json").read_text()
        (tmp_path / "results.json").write_text(whole[: len(whole) // 2])
        assert run("report", tmp_path) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "results.json cannot be read" in said

    def test_a_trajectory_that_was_damaged(self, trained: tuple[Path, Path], capsys) -> None:
        file, out = trained
        (trajectory,) = (out / "run" / "jobs").glob("*/trajectory.json")
        whole = trajectory.read_text()
        try:
            trajectory.write_text("{}")
            assert train(file, out) == 2
        finally:
            trajectory.write_text(whole)
        assert "trajectory.json cannot be read (arm: Field required). Delete" in capsys.readouterr().err


def test_a_memory_that_is_shut_until_a_text_is_read_is_the_base_in_every_chat_without_it(
    tmp_path: Path, capsys
) -> None:
    assert train(CALLS, tmp_path / "adapter", "--open-after", "You may call this function") == 0
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["open_after"]
    base, model = Results.model_validate_json((tmp_path / "adapter" / "run" / "results.json").read_text()).measurements
    assert all(kept.delta_mc1.unchanged and kept.delta_mc2.unchanged for kept in model.retention.values())
    assert "Unchanged from the base, to the bit: MC1, plain; MC2, plain; MC1, chat" in capsys.readouterr().out
    assert {kept.shift for kept in model.retention.values()} == {0}
    assert model.drift is not None
    assert model.drift.kl == 0
    assert model.eval_loss_answer < base.eval_loss_answer - 0.01


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--method", "lorra"], "--method 'lorra' is unknown. Did you mean 'lora'"),
            (["--format", "opanai"], "'opanai'"),
            (["--method", "lora", "--open-after", "tools"], "open_after='tools' is for a memory, and method 'lora'"),
            (["--open-after", "tools"], "no training chat offers tools"),
            (["--open-after", "Sesame"], "'Sesame'"),
            (["--max-steps", 4, "--epochs", 2], "exactly one of max_steps and epochs"),
        ],
    )
    def test_a_value_that_cannot_be_used(self, tmp_path: Path, capsys, arguments: list, said: str) -> None:
        assert run("train", CALLS, "--base", "tiny-random-llama", "--out", tmp_path / "o", *DATA, *arguments) == 2
        err = capsys.readouterr().err
        assert said in err
        assert "Traceback" not in err

    def test_a_base_folder_without_a_config(self, tmp_path: Path, capsys) -> None:
        (tmp_path / "base").mkdir()
        assert run("train", CALLS, "--base", tmp_path / "base", "--out", tmp_path / "o") == 2
        said = capsys.readouterr().err
        assert str(tmp_path / "base") in said
        assert "config.json" in said
        assert said.count("\n") == 1

    def test_out_that_is_a_file_or_somebody_elses(self, tmp_path: Path, capsys) -> None:
        (tmp_path / "file").write_text("mine")
        assert train(CALLS, tmp_path / "file") == 2
        assert train(CALLS, tmp_path) == 2
        said = capsys.readouterr().err
        assert "names a file" in said
        assert "is not empty and was not made by train" in said
        assert json.dumps((tmp_path / "file").read_text()) == '"mine"'
