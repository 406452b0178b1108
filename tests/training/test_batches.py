"""Labels say what is learned, and logits at the needed positions alone give the same losses."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.arms import examples, tiny_base
from tinyengram.tasks.rendering import EncodedExample
from tinyengram.training.batches import IGNORED, collate, predicting_positions, token_losses


@pytest.mark.parametrize("loss_on", ["whole", "answer"])
def test_losses_at_needed_positions_equal_those_of_a_full_forward(loss_on: str) -> None:
    base = tiny_base()
    batch = collate(examples(5), loss_on=loss_on, pad_token_id=0)
    labels = batch.pop("labels")
    with torch.no_grad():
        full = base.model(**batch).logits
        kept = base.model(**batch, logits_to_keep=predicting_positions(labels)).logits
    assert kept.shape[1] < full.shape[1]
    wanted = F.cross_entropy(full[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    for logits in (full, kept):
        found = token_losses(logits, labels).sum() / (labels != IGNORED).sum()
        torch.testing.assert_close(found, wanted)


def test_labels_cover_the_whole_text_or_the_answer_alone() -> None:
    example = EncodedExample([5, 6, 7, 8, 9], [False, False, False, True, True], "one")
    longer = EncodedExample([1] * 7, [False] * 6 + [True], "two")
    whole = collate([example, longer], loss_on="whole", pad_token_id=0)
    answer = collate([example, longer], loss_on="answer", pad_token_id=0)
    assert whole["labels"][0].tolist() == [IGNORED, 6, 7, 8, 9, IGNORED, IGNORED]
    assert answer["labels"][0].tolist() == [IGNORED, IGNORED, IGNORED, 8, 9, IGNORED, IGNORED]
    assert whole["attention_mask"][0].tolist() == [1, 1, 1, 1, 1, 0, 0]
