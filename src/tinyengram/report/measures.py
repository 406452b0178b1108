"""The lines of a scorecard: what is told of every model, how it is read from a row and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tinyengram.study.finding import points
from tinyengram.study.results import Comparison, Measurement
from tinyengram.study.statistics import Difference

Group = Literal["Learnt", "Broke", "Moved"]
Read = Callable[[Measurement], float | None]
ReadChange = Callable[[Measurement], Difference | None]
ReadDifference = Callable[[Comparison], Difference | None]

_NATS = "nats/token"


def _unknown(_: object) -> None:
    """What no interval is known of."""


@dataclass(frozen=True)
class Measure:
    """How one line is read.

    Attributes:
        group: Which question it answers.
        id: For an anchor.
        label: What was measured, and how it was asked.
        unit: Of the figures, or of how many; shares (``%``, ``of …``) are drawn on a bar from 0 to 1.
        read: The figure of one row; None where it was not measured.
        write: It as text.
        from_base: What a row says of its change from the base.
        against: What a comparison says of the difference from the reference.
        higher_is: Whether more of it is better or worse.
        change: A difference of two figures as text.
    """

    group: Group
    id: str
    label: str
    unit: str
    read: Read
    write: Callable[[float], str]
    from_base: ReadChange = _unknown
    against: ReadDifference = _unknown
    higher_is: Literal["better", "worse"] = "better"
    change: Callable[[float], str] = points

    @property
    def is_share(self) -> bool:
        return self.unit == "%" or self.unit.startswith("of ")


def measures(row: Measurement, *, centred: bool = True) -> Iterator[Measure]:
    """What can be told of models that were asked what ``row`` was.

    Args:
        row: Of any of them.
        centred: Tell of moved answers what is left without a question's common offset; else the raw shift, as it is in
            runs before the other was measured. The two never stand in one line.
    """
    yield from _learnt(row)
    yield from _broke(row)
    yield from _moved(row, "shift_centred" if centred else "shift")


def _learnt(row: Measurement) -> Iterator[Measure]:
    yield Measure(
        "Learnt",
        "loss-answer",
        "Eval loss, answers",
        _NATS,
        _loss_answer,
        _loss,
        higher_is="worse",
        change=_signed,
    )
    yield Measure(
        "Learnt",
        "loss-whole",
        "Eval loss, whole texts",
        _NATS,
        _loss_whole,
        _loss,
        higher_is="worse",
        change=_signed,
    )
    if row.calls is not None and row.calls.wanted_asked:
        asked = f"of {row.calls.wanted_asked}"
        yield Measure("Learnt", "right-calls", "Right calls", asked, _right, _percent, against=_right_compared)


def _broke(row: Measurement) -> Iterator[Measure]:
    if row.calls is not None and row.calls.refrains is not None:
        asked = f"of {row.calls.unwanted_asked}"
        label = "Declines where no tool fits"
        yield Measure("Broke", "declines", label, asked, _refrains, _percent, against=_declines_compared)
    for prompt in row.retention:
        for name in ("mc1", "mc2"):
            yield Measure(
                "Broke",
                f"{name}-{_slug(prompt)}",
                f"{name.upper()}, {prompt}",
                "%",
                _kept(prompt, name),
                _percentage,
                _kept(prompt, f"delta_{name}"),
                _compared(name, prompt),
            )
    for one_set, by_prompt in row.accuracy.items():
        for prompt in by_prompt:
            yield Measure(
                "Broke",
                f"{_slug(one_set)}-{_slug(prompt)}",
                f"{one_set}, {prompt}",
                "%",
                _known(one_set, prompt, "acc_norm"),
                _percentage,
                _known(one_set, prompt, "delta_acc_norm"),
                _known_compared(one_set, prompt),
            )


def _moved(row: Measurement, shift: Literal["shift", "shift_centred"]) -> Iterator[Measure]:
    for prompt in row.retention:
        yield Measure(
            "Moved",
            f"shift-{_slug(prompt)}",
            f"Answers moved, {prompt}",
            "nats, centred" if shift == "shift_centred" else "nats, raw",
            _kept(prompt, shift),
            _two_digits,
            against=_compared(shift, prompt),
            higher_is="worse",
            change=_signed,
        )
    if row.drift is not None:
        label = "General text, KL from the base"
        yield Measure(
            "Moved",
            "kl",
            label,
            _NATS,
            _kl,
            _two_digits,
            against=_kl_compared,
            higher_is="worse",
            change=_signed,
        )


def _loss_answer(row: Measurement) -> float:
    return row.eval_loss_answer


def _loss_whole(row: Measurement) -> float:
    return row.eval_loss_whole


def _right(row: Measurement) -> float | None:
    return row.calls.right if row.calls else None


def _refrains(row: Measurement) -> float | None:
    return row.calls.refrains if row.calls else None


def _kl(row: Measurement) -> float | None:
    return row.drift.kl if row.drift and row.role != "base" else None


def _kl_compared(found: Comparison) -> Difference | None:
    return found.drift


def _right_compared(found: Comparison) -> Difference | None:
    return found.right_calls


def _declines_compared(found: Comparison) -> Difference | None:
    return found.declines


def _kept(prompt: str, name: str) -> Callable[[Measurement], Any]:
    """One field of what was kept, asked in one way."""
    return lambda row: getattr(row.retention[prompt], name)  # type: ignore[index]


def _known(one_set: str, prompt: str, name: str) -> Callable[[Measurement], Any]:
    """One field of what is known of a choice set, which not every row was asked."""
    return lambda row: getattr(row.accuracy[one_set][prompt], name) if one_set in row.accuracy else None  # type: ignore[index]


def _compared(name: str, prompt: str) -> ReadDifference:
    return lambda found: getattr(found, name).get(prompt)


def _known_compared(one_set: str, prompt: str) -> ReadDifference:
    return lambda found: found.accuracy.get(one_set, {}).get(prompt)  # type: ignore[call-overload]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def _percentage(share: float) -> str:
    return f"{100 * share:.1f}"


def _loss(loss: float) -> str:
    return f"{loss:.3f}"


def _two_digits(value: float) -> str:
    """As many digits as tell small from smaller, never an exponent that hides which is larger."""
    if value == 0:
        return "0"
    return f"{value:.2f}" if value >= 1 else f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())
