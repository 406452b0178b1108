"""What was kept over a whole range of eval losses: the curve of an arm, the area under it, and what no other arm beats.

One matched pair says which method forgot less at one loss. A curve says whether that holds on the way there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def record_lows(losses: Sequence[float]) -> list[int]:
    """Indices of the losses that are below every loss before them."""
    records: list[int] = []
    for index, loss in enumerate(losses):
        if not records or loss < losses[records[-1]]:
            records.append(index)
    return records


def curve_weights(losses: Sequence[float], deepest: float) -> list[float]:
    """Weight of each point of a curve in its mean over the logarithm of the loss, from the first point to ``deepest``.

    The mean is the area under the curve, by trapezoids, over its width; between two points, and so at ``deepest``, the
    curve is a straight line. As the weights depend on losses alone, the mean of any score is the weighted sum of the
    points' scores, question by question, and can be compared in pairs as a score at one point can.

    Args:
        losses: Falling, in nats, the base's first; at least two.
        deepest: Where the curve is cut off: below the first loss, not below the last.

    Returns:
        One weight a loss; together 1.

    Raises:
        ValueError: The losses do not fall, or ``deepest`` lies outside of them.
    """
    if len(losses) < 2 or any(later >= earlier for earlier, later in pairwise(losses)):
        raise ValueError(f"losses {list(losses)} must fall from each to the next.")
    if not losses[-1] <= deepest < losses[0]:
        raise ValueError(f"deepest={deepest} must lie below {losses[0]} and not below {losses[-1]}.")
    at = [math.log(loss) for loss in losses]
    end = math.log(deepest)
    weights = [0.0] * len(at)
    for index, (left, right) in enumerate(pairwise(at)):
        if left <= end:
            break
        if left == right:  # Two losses so near that their logarithms are one.
            continue
        cut = max(right, end)
        # Score at the cut: a mixture of both ends, `share` of it the right one's.
        share = (left - cut) / (left - right)
        width = (left - cut) / (at[0] - end)
        weights[index] += width * (1 - share / 2)
        weights[index + 1] += width * share / 2
    return weights


def unbeaten(points: Sequence[tuple[float, float]]) -> list[int]:
    """The frontier: indices of the points for which no other has a loss as low and a score as high, one of them better.

    Args:
        points: ``(loss, score)``; a lower loss and a higher score are better.

    Returns:
        In order of falling loss.
    """
    kept = [
        index
        for index, (loss, score) in enumerate(points)
        if not any(
            other_loss <= loss and other >= score and (other_loss < loss or other > score)
            for other_loss, other in points
        )
    ]
    return sorted(kept, key=lambda index: -points[index][0])
