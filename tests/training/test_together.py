"""An arm trained by several processes: what one process trains, and continued by another number of them or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tinyengram.training import Trajectory, read_trajectory

_SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.arms import ENGRAM, EXACT, LORA, examples, settings, tiny_base
from tests.memory.cpu_shards import shard_on_cpus
from tinyengram.errors import TinyEngramError
from tinyengram.training import peft_config, train_arm

METHODS = {
    "lora": ("lora", {**LORA, "lora_dropout": 0.0}),
    "hashed": ("engram", {**ENGRAM, "kernel_size": 0}),
    "exact": ("engram", {**EXACT, "kernel_size": 0}),
}

def cut(event):
    if event.step == cut_at:
        raise KeyboardInterrupt

folder, kind, cut_at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
shard_on_cpus()
if os.environ.get("AS_ZERO"):  # One process with the optimizer that shards otherwise than by rows get.
    from tinyengram.training import trainer
    trainer.steps_by_rows = lambda arguments: False
method, options = METHODS[kind]
# An epoch of ten whole steps: the last step of one that is not is filled up by several processes.
train, how = examples(40), settings(gradient_accumulation=int(os.environ.get("ACCUMULATE", "1")))
base = tiny_base()
try:
    train_arm(
        arm=kind, base=base, config=peft_config(method, options, base=base, train=train, settings=how), train=train,
        eval=examples(10, seed=1), settings=how, seed=3, folder=folder, on_step=cut,
    )
except KeyboardInterrupt:
    pass
except TinyEngramError as error:
    if not int(os.environ.get("RANK", "0")):
        print("refused:", error, flush=True)
sys.stdout.flush()
os._exit(0)  # Threads of the process group may end it otherwise, as others free what they hold.
"""
_TOLERANCE = {"lora": 1e-5, "exact": 1e-5, "hashed": 1e-4}
SHARDING = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def train(folder: Path, kind: str, ranks: int, *, cut_at: int = -1, **environment: str) -> str:
    """Train, or continue, with so many processes; what was said."""
    script = folder.parent / "script.py"
    script.write_text(_SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(folder), kind, str(cut_at)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join(
                [str(root), str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
            "OMP_NUM_THREADS": "1",
        },
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def trained(folder: Path) -> Trajectory:
    found = read_trajectory(folder)
    assert found is not None
    assert found.finished
    return found


def assert_alike(ours: Trajectory, theirs: Trajectory, tolerance: float) -> None:
    """The same texts in the same order, and what is learnt of them but for rounding, which AdamW makes larger."""
    assert [(point.step, point.tokens) for point in ours.points] == [
        (point.step, point.tokens) for point in theirs.points
    ]
    for name in ("eval_loss_answer", "eval_loss_whole", "train_loss"):
        found, wanted = ([getattr(point, name) or 0.0 for point in one.points] for one in (ours, theirs))
        assert found == pytest.approx(wanted, abs=tolerance), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Trajectory] = {}

    def by_one(kind: str, **environment: str) -> Trajectory:
        name = kind + "".join(environment)
        if name not in made:
            folder = tmp_path_factory.mktemp("one") / name
            train(folder, kind, 1, **environment)
            made[name] = trained(folder)
        return made[name]

    return by_one


@pytest.mark.slow
@pytest.mark.xdist_group("together")
def test_an_arm_begun_by_two_processes_is_ended_by_one(alone: Any, tmp_path: Path) -> None:
    train(tmp_path / "cut", "lora", 2, cut_at=8)
    begun = read_trajectory(tmp_path / "cut")
    assert begun is not None
    assert not begun.finished
    train(tmp_path / "cut", "lora", 1)
    assert_alike(trained(tmp_path / "cut"), alone("lora"), _TOLERANCE["lora"])


@pytest.mark.slow
@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("kind", ["lora", "hashed", "exact"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_train_what_one_process_does(alone: Any, kind: str, ranks: int, tmp_path: Path) -> None:
    train(tmp_path / "run", kind, ranks)
    assert_alike(trained(tmp_path / "run"), alone(kind), _TOLERANCE[kind])
    assert trained(tmp_path / "run").engine == "whole"


@pytest.mark.slow
@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("environment", [{}, SHARDING], ids=["whole", "shards"])
def test_gradients_are_accumulated_alike(alone: Any, environment: dict[str, str], tmp_path: Path) -> None:
    train(tmp_path / "run", "hashed", 2, ACCUMULATE="2", **environment)
    assert_alike(trained(tmp_path / "run"), alone("hashed", ACCUMULATE="2"), 5e-4)


@pytest.mark.slow
@pytest.mark.xdist_group("together")
@pytest.mark.parametrize("kind", ["lora", "hashed", "exact"])
def test_shards_train_what_one_process_does(alone: Any, kind: str, tmp_path: Path) -> None:
    train(tmp_path / "run", kind, 2, **SHARDING)
    assert trained(tmp_path / "run").engine == "FSDP"
    assert_alike(trained(tmp_path / "run"), alone(kind), _TOLERANCE[kind])


@pytest.mark.slow
@pytest.mark.xdist_group("together")
def test_shards_are_continued_by_more_processes_and_by_no_single_one(alone: Any, tmp_path: Path) -> None:
    train(tmp_path / "run", "hashed", 2, cut_at=8, **SHARDING)
    kept = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    said = train(tmp_path / "run", "hashed", 1)
    assert "kept as 'FSDP', which cannot be continued as 'whole'" in said
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == kept
    train(tmp_path / "run", "hashed", 4, **SHARDING)
    assert_alike(trained(tmp_path / "run"), alone("hashed"), _TOLERANCE["hashed"])


@pytest.mark.slow
@pytest.mark.xdist_group("together")
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed: make test-zero")
@pytest.mark.parametrize("kind", ["lora", "hashed", "exact"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_trains_what_one_process_does(alone: Any, kind: str, stage: int, tmp_path: Path) -> None:
    """As one process with ``torch.optim.AdamW``, which steps every row."""
    zero = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage), "DS_ACCELERATOR": "cpu"}
    train(tmp_path / "run", kind, 2, cut_at=8, **zero)
    assert "kept as 'DEEPSPEED of 2 processes', which cannot" in train(tmp_path / "run", kind, 1)
    train(tmp_path / "run", kind, 2, **zero)
    assert_alike(trained(tmp_path / "run"), alone(kind, AS_ZERO="1"), 1e-5)


@pytest.mark.slow
def test_the_first_fsdp_is_refused(tmp_path: Path) -> None:
    said = train(tmp_path / "run", "lora", 2, **{**SHARDING, "FSDP_VERSION": "1"})
    assert "refused: FSDP of version 1 flattens parameters" in said


def test_json_of_earlier_runs_is_read() -> None:
    """Trajectories written before there was an engine were whole."""
    fields = {"arm": "a", "seed": 0, "method": "lora", "learning_rate": 0.1, "trainable_parameters": 1}
    old = json.dumps({**fields, "loss_on": "answer", "points": [], "finished": True})
    assert Trajectory.model_validate_json(old).engine == "whole"
