"""The whole study through the command that users run: it finishes, continues after a kill, and refuses in time."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import escape

from tinyengram.cli import main
from tinyengram.study.finding import stopped_losses
from tinyengram.study.plan import presets
from tinyengram.study.results import Results

SMOKE = presets()["smoke"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def tinyengram(*arguments: object, cache: Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(cache), timeout=300, **options
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "tinyengram", *map(str, arguments)]


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "TINYENGRAM_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run folder of the smoke study, run whole."""
    out = tmp_path_factory.mktemp("runs") / "smoke"
    run = tinyengram("compare", "smoke", "--out", out, cache=cache)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith(f"Report: {out / 'report.html'}")
    return out


def study_with(tmp_path: Path, **changes) -> Path:
    content = yaml.safe_load(SMOKE.read_text())
    for section in ("data", "truthfulqa"):
        content[section]["name"] = str(SMOKE.parent / content[section]["name"])
    for part in (*content["accuracy"], content["drift"]):
        part["name"] = str(SMOKE.parent / part["name"])
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        part = content
        for key in path:
            part = part[key]
        part[last] = value
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_help_answers_at_once(cache: Path) -> None:
    tinyengram("--help", cache=cache)
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        assert "compare" in tinyengram("--help", cache=cache).stdout
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.5


@pytest.mark.xdist_group("finished")
class TestFinished:
    def test_what_shares_a_run_is_tested_in_one_process(self, request: pytest.FixtureRequest) -> None:
        if "PYTEST_XDIST_WORKER" not in os.environ:
            pytest.skip("one process runs all tests")
        assert request.node.nodeid.endswith("@finished"), "else each process would run the study anew"

    def test_results_follow_the_schema_and_every_row_has_its_file(self, finished: Path) -> None:
        results = Results.model_validate_json((finished / "results.json").read_text())
        assert {trajectory.arm for trajectory in results.trajectories} == {"lora", "engram"}
        assert [row.role for row in results.measurements] == ["base", "matched reference", "matched", "last"]
        for row in results.measurements:
            assert list(row.retention) == ["plain", "chat", "chat with tools"]
            for kept in row.retention.values():
                scores = json.loads((finished / kept.scores_file).read_text())["rows"]
                for name in ("mc1", "mc2", "margin"):
                    assert sum(one[name] for one in scores) / len(scores) == pytest.approx(getattr(kept, name))
            assert row.accuracy.keys() == {"smoke_choices"}
            for accuracy in row.accuracy["smoke_choices"].values():
                scores = json.loads((finished / accuracy.file).read_text())["rows"]
                assert sum(one["correct_norm"] for one in scores) / len(scores) == accuracy.acc_norm
            assert row.drift is not None
            assert len(json.loads((finished / row.drift.file).read_text())["rows"]) == 3
            assert (row.drift.kl == 0) == (row.role == "base")
            assert row.calls is not None
            assert (finished / row.calls.file).is_file()
        assert len({kept.scores_file for kept in results.measurements[0].retention.values()}) == 3
        for trajectory in results.trajectories:
            folder = finished / "jobs" / trajectory.job
            assert json.loads((folder / "trajectory.json").read_text())["finished"]
            assert json.loads((folder / "job.json").read_text())["seed"] == trajectory.seed
        assert results.provenance.versions.keys() >= {"torch", "peft", "transformers", "tinyengram"}

    def test_the_matched_arm_is_never_above_the_reference(self, finished: Path) -> None:
        rows = Results.model_validate_json((finished / "results.json").read_text()).measurements
        loss = {row.role: row.eval_loss_answer for row in rows}
        assert loss["matched"] <= loss["matched reference"]

    def test_the_page_works_alone_and_names_the_set(self, finished: Path) -> None:
        page = (finished / "report.html").read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|url\(|@import""", page)
        results = Results.model_validate_json((finished / "results.json").read_text())
        assert escape(results.data.question_label) in page
        for row in results.measurements:
            for kept in row.retention.values():
                assert f"{kept.mc2:.4f}" in page

    def test_running_again_trains_and_scores_nothing(self, finished: Path, cache: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in finished.rglob("*adapter*")}
        before |= {path: path.stat().st_mtime_ns for path in (finished / "scores").iterdir()}
        run = tinyengram("compare", "smoke", "--out", finished, "--json", cache=cache)
        assert run.returncode == 0
        assert Results.model_validate_json(run.stdout).measurements
        assert "Training" not in run.stderr
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_the_report_is_made_anew_from_the_run_folder(self, finished: Path, cache: Path, tmp_path: Path) -> None:
        run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("report.html", "jobs"))
        assert tinyengram("report", run, cache=cache).returncode == 0
        assert (run / "report.html").read_text() == (finished / "report.html").read_text()

    def test_runs_are_joined_on_a_page_of_a_name_of_its_own(
        self, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = shutil.copytree(finished, tmp_path / "other", ignore=shutil.ignore_patterns("jobs"))

        def report(*arguments: object) -> str:
            monkeypatch.setattr(sys, "argv", ["tinyengram", "report", *map(str, arguments)])
            with pytest.raises(SystemExit) as stopped:
                main()
            printed = capsys.readouterr()
            assert stopped.value.code == (2 if printed.err else 0)
            return printed.out + printed.err

        assert "name it by --out" in report(finished, other)
        assert "named twice" in report(finished, finished, "--out", tmp_path / "page.html")
        (tmp_path / "trained").mkdir()
        (tmp_path / "trained" / "run").symlink_to(other)
        assert "named twice" in report(tmp_path / "trained", other, "--out", tmp_path / "page.html")
        assert "names a folder" in report(finished, other, "--out", tmp_path)
        assert "Report: " in report(finished, other, "--out", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert all(f"{arm} (smoke, {at})" in page for arm in ("lora", "engram") for at in (1, 2))


def numbers(out: Path) -> list:
    results = Results.model_validate_json((out / "results.json").read_text())
    points = [
        (run.arm, point.step, point.tokens, point.train_loss, point.eval_loss_whole, point.eval_loss_answer)
        for run in results.trajectories
        for point in run.points
    ]
    return [points, [(row.arm, row.role, row.step, row.retention) for row in results.measurements], results.finding]


@pytest.mark.parametrize(
    "awaited", [pytest.param("lora, seed 0, step 4", marks=pytest.mark.slow), "engram, seed 0, step 4"]
)
def test_killed_and_started_again_it_ends_with_the_same_numbers(
    finished: Path, cache: Path, tmp_path: Path, awaited: str
) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen(
        command("compare", "smoke", "--out", out),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment(cache),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if awaited in line:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    assert not (out / "results.json").exists()
    assert tinyengram("compare", "smoke", "--out", out, cache=cache).returncode == 0
    assert numbers(out) == numbers(finished)


@pytest.mark.slow
def test_what_was_measured_outlives_the_weights(finished: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "light"
    shutil.copytree(finished, out)
    for checkpoint in [*out.glob("jobs/*/checkpoint-*"), *out.glob("jobs/*/between-*")]:
        for weights in checkpoint.glob("*.safetensors") if checkpoint.is_dir() else ():
            weights.unlink()
    (out / "results.json").unlink()
    assert tinyengram("compare", "smoke", "--out", out, cache=cache).returncode == 0
    assert numbers(out) == numbers(finished)
    row = next(
        row for row in Results.model_validate_json((out / "results.json").read_text()).measurements if row.seed == 0
    )
    (out / row.retention["plain"].scores_file).unlink()
    run = tinyengram("compare", "smoke", "--out", out, cache=cache)
    assert (run.returncode, "are not there" in run.stderr, "Traceback" in run.stderr) == (2, True, False), run.stderr


def test_two_processes_run_one_study(finished: Path, cache: Path, tmp_path: Path) -> None:
    """As `torchrun` starts them: both train, on the texts of a step together, and the first alone writes and scores."""
    out = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, "-m", "tinyengram", "compare", "smoke", "--out", str(out)],
        env=environment(cache),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = Results.model_validate_json((out / "results.json").read_text())
    alone = Results.model_validate_json((finished / "results.json").read_text())
    for ours, theirs in zip(results.trajectories, alone.trajectories, strict=True):
        assert [point.tokens for point in ours.points] == [point.tokens for point in theirs.points]
        # Each process draws LoRA's dropout for itself.
        assert ours.points[-1].eval_loss_answer == pytest.approx(theirs.points[-1].eval_loss_answer, abs=0.01)
        assert ours.points[-1].eval_loss_answer != theirs.points[-1].eval_loss_answer, "summed in another order"
    assert done.stdout.count("Report: ") == 1
    assert all((out / row.retention["plain"].scores_file).is_file() for row in results.measurements)


def test_several_seeds_levels_and_rates(cache: Path, tmp_path: Path) -> None:
    study = study_with(
        tmp_path,
        seeds=[0, 1],
        levels=2,
        truthfulqa__prompts=["plain"],
        arms__lora={"method": "lora", "options": {"r": 4, "target_modules": "all-linear"}, "rates": [1e-5, 2e-3]},
    )
    run = tinyengram("compare", study, "--out", tmp_path / "out", cache=cache)
    assert run.returncode == 0, run.stderr
    results = Results.model_validate_json((tmp_path / "out" / "results.json").read_text())
    # The rate under which the training loss falls is taken for both seeds, whichever comes first.
    assert [(one.arm, one.seed, one.learning_rate) for one in results.trials] == [("lora", 0, 1e-5)]
    assert {(one.seed, one.learning_rate) for one in results.trajectories if one.arm == "lora"} == {
        (0, 2e-3),
        (1, 2e-3),
    }
    comparison = results.comparisons[0]
    assert comparison.reached == [0, 1]
    requests = [row.calls for row in results.measurements if row.role == "matched" and row.calls is not None]
    assert comparison.right_calls is not None
    assert comparison.right_calls.questions == requests[0].wanted_asked
    assert comparison.declines is None, "none was asked that no tool fits"
    assert len(stopped_losses(results, comparison)) == 2
    differences = [*comparison.mc2.values(), *comparison.area.values(), *comparison.shift.values()]
    assert {one.seeds for one in differences} == {2}
    assert comparison.shift.keys() == comparison.area.keys() == comparison.mc2.keys()
    levels = [row for row in results.measurements if row.role == "level"]
    assert {(row.arm, row.seed) for row in levels} == {("lora", 0), ("lora", 1), ("engram", 0), ("engram", 1)}
    assert all(row.calls is None and not row.accuracy and row.drift is not None for row in levels)
    assert "Learning rates" in run.stdout


def test_interrupted_it_says_how_to_continue(cache: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("compare", "smoke", "--out", tmp_path / "out"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment(cache),
        # Tests that run in a shell's background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "step 0" in line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "Run the same command to continue" in rest
    assert "Traceback" not in rest


class TestRefusedBeforeTraining:
    @pytest.fixture
    def refused(self, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
        """Run a study, in this process, and see that it ends with what must be said and nothing trained."""
        monkeypatch.setenv("TINYENGRAM_CACHE", str(cache))

        def check(out: Path, study: object, *parts: str) -> None:
            monkeypatch.setattr(sys, "argv", ["tinyengram", "compare", str(study), "--out", str(out)])
            with pytest.raises(SystemExit) as stopped:
                main()
            said = capsys.readouterr().err
            assert stopped.value.code == 2, said
            assert "Traceback" not in said
            for part in parts:
                assert part in said, said
            assert "Training" not in said
            assert not (out / "jobs").exists()

        return check

    @pytest.mark.parametrize(
        ("changes", "parts"),
        [
            ({"data__max_lenght": 3}, ["data.max_lenght", "max_length"]),
            ({"arms__lora__method": "lorra"}, ["Arm 'lora'", "'lorra'", "Did you mean"]),
            ({"arms__lora__options": {"rank": 8}}, ["Arm 'lora'", "'rank'"]),
            ({"arms__engram__options__layer_ids": [1, 9]}, ["Arm 'engram'", "[9]", "4 blocks"]),
            ({"arms__engram__options__layer_ids": []}, ["Arm 'engram'", "at least one"]),
            ({"arms__engram__options__layer_ids": [1, 1]}, ["Arm 'engram'", "more than once"]),
            ({"data__max_length": 10}, ["max_length=10 is shorter than every one"]),
            ({"data__name": "no/such/file.jsonl"}, ["no/such/file.jsonl", "does not exist"]),
            ({"base__name": "no-such-base"}, ["no-such-base", "(1)", "(2)", "(3)"]),
        ],
    )
    def test_a_study_that_cannot_run(self, refused: Any, tmp_path: Path, changes: dict, parts: list[str]) -> None:
        refused(tmp_path / "out", study_with(tmp_path, **changes), *parts)

    def test_an_arm_that_cannot_be_used_here_is_named_with_versions(self, refused: Any, tmp_path: Path) -> None:
        study = study_with(tmp_path, arms__other={"method": "shadow", "training": {"learning_rate": 0.01}})
        parts = (
            "Arm 'other' (shadow) cannot be used",
            f"transformers {version('transformers')}",
            "generates differently with and without a cache",
        )
        refused(tmp_path / "out", study, *parts)

    def test_an_empty_eval_split(self, refused: Any, tmp_path: Path) -> None:
        one = tmp_path / "one.jsonl"
        one.write_text('{"instruction": "a", "input": "b", "output": "c"}\n')
        refused(
            tmp_path / "out",
            study_with(tmp_path, data__name=str(one)),
            "A split of 1 conversations",
            "Give more",
        )

    @pytest.mark.xdist_group("finished")
    def test_a_folder_with_another_study(self, finished: Path, cache: Path, tmp_path: Path) -> None:
        before = (finished / "results.json").read_bytes()
        run = tinyengram("compare", study_with(tmp_path, training__max_steps=9), "--out", finished, cache=cache)
        assert run.returncode == 2
        for part in ("another study", "training.max_steps is 12 there, 9 now"):
            assert part in run.stderr
        assert (finished / "results.json").read_bytes() == before

    def test_a_folder_with_other_files(self, cache: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        run = tinyengram("compare", "smoke", "--out", tmp_path, cache=cache)
        assert run.returncode == 2
        assert "not empty" in run.stderr
        assert (tmp_path / "mine.txt").read_text() == "mine"

    def test_a_folder_that_cannot_be_written(self, cache: Path) -> None:
        run = tinyengram("compare", "smoke", "--out", "/proc/tinyengram", cache=cache)
        assert run.returncode == 2
        assert "cannot be written" in run.stderr

    def test_a_full_disk(self, refused: Any, tmp_path: Path) -> None:
        study = study_with(
            tmp_path, arms__lora__options={"r": 60000, "target_modules": "all-linear"}, training__max_steps=200_000
        )
        refused(tmp_path / "out", study, "GB free", "eval_every")
