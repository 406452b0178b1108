"""Every method that the installed PEFT knows is trained, saved, scored and generated from rightly, or refused by name.

The tests are made from PEFT's own table, so a method that a later PEFT brings is tried too: it passes every check here,
or ``compare`` refuses it before it trains. What is refused today is written down with its reason.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.arms import settings
from tinyengram.host import peft_methods
from tinyengram.scoring.choices import ChoiceRequest, choice_log_likelihoods
from tinyengram.scoring.drift import measure_drift
from tinyengram.sources import Base, load_base
from tinyengram.study.checks import check_arms
from tinyengram.study.material import Material, prepare
from tinyengram.study.plan import Study, StudyError, load_study, presets
from tinyengram.study.rehearsal import rehearse
from tinyengram.tasks.rendering import EncodedExample
from tinyengram.training import eval_losses, load_adapter, peft_config, train_arm
from tinyengram.virtual_tokens import for_generation

METHODS = sorted({*peft_methods(), "engram"})
# Of PEFT 0.21. Any other method is new: it may pass or be refused, but not be wrong.
SEEN = set(
    """
    adalora adamss adaption_prompt beft boft c3a cartridge cpt deft delora engram fourierft frod glora gralora hira hra
    ia3 lily ln_tuning loha lokr lora miss multitask_prompt_tuning oft osf p_tuning peanut poly prefix_tuning
    prompt_tuning psoft pvera randlora road shadow shira supertuning tinylora trainable_tokens unilora vblora vera
    waveft xlora
    """.split()  # noqa: SIM905 - a list of that many lines is not read.
)
REFUSED = {
    "lily": "later tokens included",
    "multitask_prompt_tuning": "several tasks at once",
    "poly": "several tasks at once",
    "shadow": "generates differently with and without a cache",
    "xlora": "later tokens included",
}
# What a method cannot be made without, or what its defaults are too large for on so small a base.
OPTIONS: dict[str, dict[str, Any]] = {
    "cpt": {"cpt_token_ids": [65, 66, 67, 68], "cpt_tokens_type_mask": [1, 2, 3, 4]},
    "engram": {"layer_ids": [1, 2], "engram_vocab_size": [500, 100], "max_ngram_size": 3, "n_embed_per_ngram": 64},
    "fourierft": {"n_frequency": 500},
    "shira": {"r": 8},
    "trainable_tokens": {"token_indices": [65, 66, 97, 98, 101, 116]},
    "waveft": {"n_frequency": 500},
}
# Their own loss also counts something that is not a token of the text: regularisation, the context's labels.
OWN_LOSS_IS_MORE = {"adalora", "cpt"}
REQUESTS = [
    ChoiceRequest("a", "Shared start. One?", (" yes", " no", " x")),
    ChoiceRequest("b", "Shared start. Another one?", (" a much longer choice", " b")),
]
TEXTS = ["It was the best of times.", "Call me Ishmael, or whatever you like."]


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Every Trainer collects garbage among all that was imported, a third of this file's time; that is set aside."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def base() -> Base:
    """A tiny random base whose predictions are spread, so that what is read wrongly shows."""
    made = load_base("tiny-random-llama")
    with torch.no_grad():
        for name, parameter in made.model.named_parameters():
            if "norm" not in name:
                parameter.mul_(6)
    return made


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    content = yaml.safe_load(presets()["smoke"].read_text())
    content |= {
        "arms": {"it": {"method": "lora", "training": {"learning_rate": 0.01}}},
        "accuracy": [],
        "reference": "it",
    }
    for section in ("data", "truthfulqa", "drift"):
        content[section]["name"] = str(presets()["smoke"].parent / content[section]["name"])
    file = tmp_path_factory.mktemp("study") / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_study(str(file))


@pytest.fixture(scope="module")
def material(study: Study) -> Material:
    return prepare(study.base, study.data, study.probes)


def with_method(study: Study, method: str) -> Study:
    arm = study.arms["it"].model_copy(update={"method": method, "options": OPTIONS.get(method, {})})
    return study.model_copy(update={"arms": {"it": arm}})


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_scores_and_generates_or_is_refused(
    method: str, study: Study, material: Material, base: Base, tmp_path: Path
) -> None:
    one = with_method(study, method)
    try:
        check_arms(one, material, tmp_path)
        rehearse(one, material, ["it"], looks=True)
    except StudyError as refusal:
        said = str(refusal)
        assert "\n" not in said
        assert method in said or method in SEEN
        if method == "adamss" and "scikit-learn" in said:
            pytest.skip("needs scikit-learn, and says so")
        assert method not in SEEN or REFUSED[method] in said, said
        return
    assert method not in REFUSED
    examples = [
        EncodedExample(one.input_ids[-60:], one.answer_mask[-60:], one.id)  # Their end, which is what is learnt.
        for one in material.examples.train[:4]
    ]
    trained = copy.deepcopy(base.model)
    given = settings(learning_rate=0.01, max_steps=3, eval_every=3, batch_size=2, loss_on="whole")
    trajectory = train_arm(
        arm="it",
        base=Base(trained, base.tokenizer, base.provenance),
        config=peft_config(method, OPTIONS.get(method, {}), base=base, train=examples, settings=given),
        train=examples[:2],
        eval=examples[2:],
        settings=given,
        seed=0,
        folder=tmp_path / "run",
    )
    start, end = trajectory.points
    assert trajectory.broke_down_at is None
    assert end.eval_loss_whole != start.eval_loss_whole
    loaded: Any = load_adapter(copy.deepcopy(base.model), tmp_path / "run" / str(end.checkpoint))
    whole, answer = eval_losses(loaded, examples[2:], batch_size=2, pad_token_id=0)
    assert (whole, answer) == pytest.approx((end.eval_loss_whole, end.eval_loss_answer), rel=1e-5)
    if method not in OWN_LOSS_IS_MORE:
        ids = torch.tensor([examples[2].input_ids])
        labels = ids.clone()
        labels[:, 0] = -100  # Behind virtual tokens it would be predicted too.
        own = loaded(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, use_cache=False).loss.item()
        assert eval_losses(loaded, examples[2:3], batch_size=1, pad_token_id=0)[0] == pytest.approx(own, rel=1e-5)
    scored_as_read_whole(loaded, base)
    generated_as_read_whole(loaded)


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """One text, one pass, no cache: the definition that everything else must agree with."""
    with torch.no_grad():
        tokens = torch.tensor([ids])
        logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits[0]
    return logits[len(logits) - len(ids) :].double().log_softmax(-1)


def scored_as_read_whole(model: Any, base: Base) -> None:
    encode = base.tokenizer.encode
    for request, scores in zip(REQUESTS, choice_log_likelihoods(model, base.tokenizer, REQUESTS), strict=True):
        for choice, found in zip(request.choices, scores.log_likelihoods, strict=True):
            ids = encode(request.context + choice)
            each = logits_of(model, ids)
            wanted = sum(each[at - 1, ids[at]].item() for at in range(len(encode(request.context)), len(ids)))
            assert found == pytest.approx(wanted, rel=1e-4, abs=1e-3)
    for text, row in zip(TEXTS, measure_drift(model, base.tokenizer, TEXTS).rows, strict=True):
        ids = encode(text)
        ours, theirs = logits_of(model, ids)[:-1], logits_of(base.model, ids)[:-1]
        assert row.nll == pytest.approx(-ours[range(len(ours)), ids[1:]].sum().item(), rel=1e-3)
        assert row.kl == pytest.approx((theirs.exp() * (theirs - ours)).sum().item(), rel=1e-2, abs=1e-3)


def generated_as_read_whole(model: Any) -> None:
    """Greedy, with a cache, alone and padded on the left beside a longer prompt."""
    short, long = list(b"A short one"), list(b"A prompt that is longer")
    wanted = []
    for prompt in (short, long):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(logits_of(model, ids)[-1].argmax()))
        wanted.append(ids[len(prompt) :])
    padding = len(long) - len(short)
    batch = torch.tensor([[0] * padding + short, long])
    attention = torch.tensor([[0] * padding + [1] * len(short), [1] * len(long)])
    for rows in ([0], [1], [0, 1]):
        ids, mask = (batch[rows], attention[rows]) if len(rows) == 2 else (torch.tensor([(short, long)[rows[0]]]), None)
        generator, inputs = for_generation(model, ids, torch.ones_like(ids) if mask is None else mask)
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        found = generator.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()
        assert found == [wanted[row] for row in rows]
