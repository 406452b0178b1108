"""The matched pair is conservative and looks at losses alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tinyengram.study.matching import MatchedPair, late_train_loss
from tinyengram.study.matching import match as match_levels
from tinyengram.training import Trajectory, TrajectoryPoint


def trajectory(arm: str, losses: list[float], loss_on: str = "answer") -> Trajectory:
    """A run whose answer loss is given at every stop and whose whole-text loss says the opposite."""
    points = [
        TrajectoryPoint(
            step=10 * stop,
            tokens=0,
            seconds=0,
            train_loss=None,
            eval_loss_whole=loss if loss_on == "whole" else 100 - loss,
            eval_loss_answer=loss if loss_on == "answer" else 100 - loss,
            checkpoint=f"checkpoint-{10 * stop}" if stop else None,
        )
        for stop, loss in enumerate(losses)
    ]
    return Trajectory(
        arm=arm,
        seed=0,
        method="x",
        learning_rate=1e-3,
        trainable_parameters=1,
        loss_on=loss_on,
        points=points,
        finished=True,
    )


def match(reference: Trajectory, other: Trajectory) -> MatchedPair | None:
    """The pair at the deepest level."""
    return next(iter(match_levels(reference, other)), None)


def test_the_deepest_shared_level_with_the_first_checkpoint_at_or_below_it() -> None:
    pair = match(trajectory("lora", [5, 3, 2, 1, 0.5]), trajectory("engram", [5, 2.5, 1.5, 0.9, 0.8]))
    assert pair is not None
    assert (pair.reference.step, pair.level, pair.other.step) == (30, 1, 30)


def test_equal_losses_match() -> None:
    pair = match(trajectory("lora", [5, 3]), trajectory("engram", [5, 3]))
    assert pair is not None
    assert pair.reference.step == pair.other.step == 10


def test_an_arm_that_never_gets_there_is_not_matched() -> None:
    assert match(trajectory("lora", [5, 3, 2]), trajectory("engram", [5, 4.9, 4.8])) is None


def test_the_base_itself_is_no_checkpoint() -> None:
    assert match(trajectory("lora", [5, 6]), trajectory("engram", [1, 7])) is None


def test_the_loss_that_was_trained_is_matched() -> None:
    pair = match(trajectory("a", [5, 3, 2], "whole"), trajectory("b", [5, 3, 1], "whole"))
    assert pair is not None
    assert pair.level == 2


losses = st.lists(st.floats(0.01, 10), min_size=2, max_size=8)


@given(losses, losses)
def test_the_pair_is_conservative_deepest_and_first(reference: list[float], other: list[float]) -> None:
    pair = match(trajectory("r", reference), trajectory("o", other))
    reachable = [loss for loss in reference[1:] if loss >= min(other[1:])]
    if pair is None:
        assert not reachable
        return
    assert pair.level == min(reachable) == pair.reference.eval_loss_answer
    assert pair.other.eval_loss_answer <= pair.level
    stop = pair.other.step // 10
    assert all(loss > pair.level for loss in other[1:stop])


def test_several_levels_come_deepest_first_and_each_is_conservative() -> None:
    reference, other = trajectory("lora", [5, 4, 3, 2, 1, 0.5]), trajectory("engram", [5, 3.5, 1.8, 0.9, 0.8])
    pairs = match_levels(reference, other, levels=9)
    assert [(pair.level, pair.reference.step, pair.other.step) for pair in pairs] == [
        (1, 40, 30),
        (2, 30, 20),
        (3, 20, 20),
        (4, 10, 10),
    ]


def test_fewer_levels_are_spread_and_keep_the_deepest() -> None:
    reference, other = trajectory("lora", [9, 6, 5, 4, 3, 2, 1]), trajectory("engram", [9, 0.5])
    assert [pair.level for pair in match_levels(reference, other, levels=3)] == [1, 3, 5]
    assert [pair.level for pair in match_levels(reference, other, levels=2)] == [1, 4]


def test_a_level_lies_below_the_ones_before_it() -> None:
    pairs = match_levels(trajectory("lora", [9, 3, 4, 2, 2.5]), trajectory("engram", [9, 0.5]), levels=9)
    assert [pair.level for pair in pairs] == [2, 3]


def test_learning_rates_are_judged_by_the_second_half_of_training() -> None:
    run = trajectory("lora", [9, 1, 2, 3, 4])
    for point, loss in zip(run.points[1:], [9.0, 9.0, 0.5, 0.7], strict=True):
        point.train_loss = loss
    assert late_train_loss(run) == 0.6
    run.points[1].train_loss = float("nan")
    assert late_train_loss(run) == float("inf")
    assert late_train_loss(trajectory("lora", [9])) == float("inf")


def test_a_run_that_broke_down_is_read_back_and_matched_where_it_was_whole() -> None:
    run = trajectory("engram", [5, float("nan"), 2, float("inf")])
    again = Trajectory.model_validate_json(run.model_dump_json())
    assert str(again) == str(run)
    assert [pair.other.step for pair in match_levels(trajectory("lora", [5, 3, 1]), again, levels=2)] == [20]
    assert not match_levels(trajectory("lora", [5, float("inf"), float("nan")]), trajectory("engram", [5, 1]))
