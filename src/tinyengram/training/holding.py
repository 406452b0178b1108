"""Teaching a method when not to speak: on prompts where the base's own answer is right, stay with the base.

Data that holds nothing but calls never asks a model to tell where a call is wanted, so inside the chat template every
answer drifts towards a call. Here the training requests come again in the same template without tools and with another
example's tools, answered by the base itself, and training is charged for every nat by which it departs from the base
there. It needs nothing but the training data and works for any PEFT method.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from tinyengram.tasks.conversations import Conversation, request, system_text, user_request
from tinyengram.tasks.rendering import EncodedExample, Renderer
from tinyengram.training.batches import IGNORED, collate, left_padded, predicting_positions
from tinyengram.virtual_tokens import takes_positions, without_virtual

if TYPE_CHECKING:
    from collections.abc import Iterator

_GENERATION_BATCH = 8


def unanswerable_prompts(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    max_length: int = 2048,
    limit: int = 64,
    seed: int = 42,
) -> list[list[int]]:
    """Prompts to which a call is the wrong answer, as token ids: half without tools, half with another example's.

    Args:
        conversations: Training examples only; of each the request before its first learnt turn.
        renderer: Writes them as they are trained.
        max_length: Longer prompts are left out.
        limit: Most prompts.
        seed: Of the choice.

    Returns:
        At most ``limit`` prompts, the two kinds in turn.

    Raises:
        TaskError: The chat template refuses a request.
    """
    chosen = [conversation for conversation in conversations if user_request(conversation)]
    random.Random(seed).shuffle(chosen)
    prompts: list[list[int]] = []
    for index, conversation in enumerate(chosen):
        other, text = chosen[(index + 1) % len(chosen)], user_request(conversation)
        same = (system_text(other), other.tools) == (system_text(conversation), conversation.tools)
        if len(prompts) % 2 == 0 or same:
            asked = request(text)
        else:
            asked = request(text, tools=other.tools, system=system_text(other))
        ids = renderer.tokenizer(renderer.prompt(asked), add_special_tokens=False)["input_ids"]
        if len(ids) <= max_length:
            prompts.append(ids)
        if len(prompts) == limit:
            break
    return prompts


def answered_by_base(
    model: Any, prompts: Sequence[Sequence[int]], *, pad_token_id: int, new_tokens: int
) -> list[EncodedExample]:
    """Each prompt with the base's own greedy answer, which is what its mask marks.

    Args:
        model: A base, or a PEFT model, whose adapters are switched off meanwhile.
        prompts: Token ids.
        pad_token_id: For the left of shorter prompts.
        new_tokens: Longest answer.
    """
    device = next(model.parameters()).device
    ordered = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answered: dict[int, EncodedExample] = {}
    with _base_of(model), torch.inference_mode():
        for start in range(0, len(ordered), _GENERATION_BATCH):
            part = ordered[start : start + _GENERATION_BATCH]
            ids, attention = left_padded([prompts[index] for index in part], pad_token_id)
            written = model.generate(
                input_ids=ids.to(device),
                attention_mask=attention.to(device),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=pad_token_id,
            )[:, ids.shape[1] :].tolist()
            ends = model.generation_config.eos_token_id
            ends = set(ends if isinstance(ends, list) else [ends])
            for row, index in enumerate(part):
                answer = written[row]
                stop = next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))
                prompt = list(prompts[index])
                mask = [False] * len(prompt) + [True] * stop
                answered[index] = EncodedExample(prompt + answer[:stop], mask, f"hold:{index}")
    return [answered[index] for index in range(len(prompts))]


def divergence_from_base(model: Any, examples: Sequence[EncodedExample], *, pad_token_id: int) -> torch.Tensor:
    """Mean Kullback-Leibler divergence of a PEFT model from its base at the answers' tokens, in nats per token.

    Args:
        model: A PEFT model, possibly wrapped for several processes.
        examples: From :func:`answered_by_base`.
        pad_token_id: See :func:`tinyengram.training.batches.collate`.

    Returns:
        A scalar with gradient: the mean of ``KL(base || model)``, in which what the base says and the model no longer
        does counts most.
    """
    peft_model = getattr(model, "module", model)
    device = next(peft_model.parameters()).device
    batch = collate(examples, loss_on="answer", pad_token_id=pad_token_id)
    positions = predicting_positions(batch["labels"])
    counted = batch.pop("labels")[:, positions + 1] != IGNORED
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    training = peft_model.training
    peft_model.eval()
    with torch.no_grad(), _base_of(peft_model):
        base = _log_probabilities(peft_model, inputs, positions)[counted]
    peft_model.train(training)
    ours = _log_probabilities(model, inputs, positions)[counted]
    return F.kl_div(ours, base, log_target=True, reduction="batchmean")


def _log_probabilities(model: Any, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
    """float32 ``(batch, n, vocab)`` at ``positions``."""
    options = {"logits_to_keep": positions} if takes_positions(getattr(model, "module", model)) else {}
    logits = model(**inputs, use_cache=False, **options).logits
    if logits.shape[1] != len(positions):
        logits = without_virtual(logits, inputs["input_ids"].shape[1])[:, positions]
    return logits.float().log_softmax(-1)


@contextmanager
def _base_of(model: Any) -> Iterator[None]:
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            yield
    else:
        yield
