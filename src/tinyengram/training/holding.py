"""Teaching a method when not to speak: on prompts where the base's own answer is right, stay with the base.

Data that holds nothing but calls never asks a model to tell where a call is wanted, so inside the chat template every
answer drifts towards a call. Here the training requests come again in the same template with no tool that answers them,
answered by the base itself, and training is charged for every nat by which it departs from the base there. It needs
nothing but the training data (:mod:`tinyengram.training.unanswerable`) and works for any PEFT method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from tinyengram.errors import TinyEngramError
from tinyengram.host import adapters_off, base_is_below
from tinyengram.tasks.rendering import EncodedExample
from tinyengram.training.batches import IGNORED, collate, left_padded, predicting_positions
from tinyengram.training.unanswerable import HeldPrompt
from tinyengram.virtual_tokens import takes_positions, without_virtual

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object  # Those who mix it in have a trainer; nothing of transformers is loaded for it.

_GENERATION_BATCH = 8


@dataclass(frozen=True)
class HeldExample:
    """A prompt with the answer on which a model is held.

    Attributes:
        example: What the model reads; its mask marks the answer.
        reference: What the base reads, with the same answer: the same, or the request without tools where the base
            itself calls one.
    """

    example: EncodedExample
    reference: EncodedExample


def answered_by_base(
    model: Any,
    prompts: Sequence[HeldPrompt],
    *,
    pad_token_id: int,
    new_tokens: int,
    is_call: Callable[[list[int]], bool] = lambda answer: False,
) -> list[HeldExample]:
    """Each prompt with the base's own greedy answer.

    Where that is a call, it is no answer to hold to: then the base answers the same request without the tools, and what
    it says there is what a model is held to where tools are offered.

    Args:
        model: A base, or a PEFT model, whose adapters are switched off meanwhile.
        prompts: From :func:`tinyengram.training.unanswerable.unanswerable_prompts`, or one's own.
        pad_token_id: For the left of shorter prompts.
        new_tokens: Longest answer.
        is_call: Whether an answer, as token ids, is a call or no answer at all; none is, where it is not given.
    """
    first = _answers(model, [prompt.ids for prompt in prompts], pad_token_id, new_tokens)
    again = [at for at, prompt in enumerate(prompts) if prompt.bare is not None and is_call(first[at])]
    bare = [prompts[at].bare or [] for at in again]
    second = dict(zip(again, _answers(model, bare, pad_token_id, new_tokens), strict=True))
    held = []
    for at, prompt in enumerate(prompts):
        answer = second.get(at, first[at])
        example = _answered(prompt.ids, answer, at)
        held.append(HeldExample(example, _answered(prompt.bare or [], answer, at) if at in second else example))
    return held


def _answered(prompt: list[int], answer: list[int], at: int) -> EncodedExample:
    return EncodedExample([*prompt, *answer], [False] * len(prompt) + [True] * len(answer), f"hold:{at}")


def _answers(model: Any, prompts: Sequence[list[int]], pad_token_id: int, new_tokens: int) -> list[list[int]]:
    """The base's greedy answers, up to and with the token that ends them."""
    device = next(model.parameters()).device
    ordered = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    answers: dict[int, list[int]] = {}
    with adapters_off(model) if hasattr(model, "disable_adapter") else nullcontext(), torch.inference_mode():
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
            for index, answer in zip(part, written, strict=True):
                stop = next((at + 1 for at, token in enumerate(answer) if token in ends), len(answer))
                answers[index] = answer[:stop]
    return [answers[index] for index in range(len(prompts))]


def divergence_from_base(model: Any, examples: Sequence[HeldExample], *, pad_token_id: int) -> torch.Tensor:
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
    training = peft_model.training
    peft_model.eval()
    with torch.no_grad(), adapters_off(peft_model):
        base = _at_answers(peft_model, [one.reference for one in examples], pad_token_id)
    peft_model.train(training)
    ours = _at_answers(model, [one.example for one in examples], pad_token_id)
    return F.kl_div(ours, base, log_target=True, reduction="batchmean")


def _at_answers(model: Any, examples: Sequence[EncodedExample], pad_token_id: int) -> torch.Tensor:
    """Log-probabilities of what comes at each of the answers' tokens, float32 ``(tokens, vocab)``, row after row."""
    batch = collate(examples, loss_on="answer", pad_token_id=pad_token_id)
    device = next(getattr(model, "module", model).parameters()).device
    positions = predicting_positions(batch["labels"])
    counted = batch.pop("labels")[:, positions + 1] != IGNORED
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    return _log_probabilities(model, inputs, positions)[counted]


def _log_probabilities(model: Any, inputs: dict[str, torch.Tensor], positions: torch.Tensor) -> torch.Tensor:
    """float32 ``(batch, n, vocab)`` at ``positions``."""
    options = {"logits_to_keep": positions} if takes_positions(getattr(model, "module", model)) else {}
    logits = model(**inputs, use_cache=False, **options).logits
    if logits.shape[1] != len(positions):
        logits = without_virtual(logits, inputs["input_ids"].shape[1])[:, positions]
    return logits.float().log_softmax(-1)


class HoldToBase(_Trainer):
    """Mixin that holds any trainer of transformers, TRL's too, to the base on given prompts.

    To each training step's loss it adds ``hold_weight`` times the Kullback-Leibler divergence from the base on the next
    of the ``held`` examples (:func:`divergence_from_base`), averaged over the micro-batches of a step and over
    processes, whatever the trainer's own loss is averaged over. Evaluation is left alone. What it was is logged beside
    the loss as ``hold_divergence``, without the weight.

    Args:
        *args: The trainer's own arguments.
        held: From :func:`answered_by_base`: prompts with the base's own answers.
        hold_weight: Of a nat per token against the trainer's loss; 0 adds nothing.
        hold_batch_size: Held examples read with each micro-batch.
        **kwargs: The trainer's own arguments.

    Raises:
        TinyEngramError: There is nothing to hold to, a value makes no sense, or the base is not beneath the model.

    Example:
        >>> class HeldTrainer(HoldToBase, SFTTrainer): ...  # doctest: +SKIP
        >>> HeldTrainer(model, held=answered_by_base(model, prompts, pad_token_id=0, new_tokens=16))  # doctest: +SKIP
    """

    def __init__(
        self,
        *args: Any,
        held: Sequence[HeldExample],
        hold_weight: float = 1.0,
        hold_batch_size: int = 2,
        **kwargs: Any,
    ) -> None:
        if not hold_weight >= 0:
            raise TinyEngramError(f"hold_weight={hold_weight}: give 0, which holds nothing, or more.")
        if hold_batch_size < 1:
            raise TinyEngramError(f"hold_batch_size={hold_batch_size}: hold at least one example at a time.")
        if hold_weight and not held:
            raise TinyEngramError(f"hold_weight={hold_weight} needs examples to hold, and held is empty.")
        super().__init__(*args, **kwargs)
        if hold_weight and not base_is_below(self.model):
            raise TinyEngramError(
                f"{type(self).__name__} holds a model to its base, and switching off the adapter of this "
                f"{type(self.model).__name__} does not give its base: use a PEFT method that leaves the base's weights "
                "alone (not PiSSA and its like, nor trained biases), or hold_weight=0."
            )
        self._held, self._hold_weight, self._hold_batch_size = held, hold_weight, hold_batch_size
        self._micro_batch = (-1, 0)  # Of which step, and how many of it were read.
        self._divergences: list[torch.Tensor] = []  # Since the loss was last logged.

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's own loss, and in training what the divergence from the base costs."""
        found: Any = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if not (self._hold_weight and model.training):
            return found
        divergence = divergence_from_base(model, self._next_held(), pad_token_id=self._pad_token_id())
        self._divergences.append(divergence.detach())
        cost = self._hold_weight * divergence
        if self._is_scaled(num_items_in_batch):
            cost = cost / getattr(self, "current_gradient_accumulation_steps", 1)
        return (found[0] + cost, *found[1:]) if isinstance(found, tuple) else found + cost

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and beside a training loss the mean divergence since the last one."""
        if "loss" in logs and self._divergences:
            mean = torch.stack(self._divergences).mean()
            logs["hold_divergence"] = self.accelerator.gather(mean.reshape(1)).mean().item()
            self._divergences.clear()
        super().log(logs, *args, **kwargs)

    def _next_held(self) -> list[HeldExample]:
        """Held examples of this process and micro-batch, by the step alone, so that a resumed run has the same."""
        step, done = self._micro_batch
        done = done if step == self.state.global_step else 0
        self._micro_batch = (self.state.global_step, done + 1)
        micro_batch = self.state.global_step * self.args.gradient_accumulation_steps + done
        first = (micro_batch * self.args.world_size + self.args.process_index) * self._hold_batch_size
        return [self._held[(first + index) % len(self._held)] for index in range(self._hold_batch_size)]

    def _is_scaled(self, num_items_in_batch: Any) -> bool:
        """Whether the trainer takes the loss as it is; otherwise it divides it by the micro-batches of a step.

        As ``Trainer.training_step`` decides it; trainers can say it themselves since transformers 5.24.
        """
        said = getattr(self, "loss_is_scaled_for_ga", None)
        if said is not None:
            return bool(said)
        counted = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return counted or self.compute_loss_func is not None

    def _pad_token_id(self) -> int:
        """Fills up shorter held examples; it is never attended to."""
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        return getattr(tokenizer, "pad_token_id", None) or 0
