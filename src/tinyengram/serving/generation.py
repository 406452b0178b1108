"""One answer, generated token by token, that can be watched and stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from tinyengram.host import versions

Ending = Literal["end of turn", "length", "stopped"]

# What stands for bytes that are no character yet.
HALF = "\N{REPLACEMENT CHARACTER}"
_TRIED = 2  # tokens: the first is generated from the prompt, the second from the cache
# Standard deviations of logits. bfloat16 is 0.03 off at most; virtual tokens at the wrong place are 1 and more.
_NOISE = 0.1


@dataclass(frozen=True)
class Generated:
    """What was generated: its text up to and without what ends the turn, the tokens of that, and why it ended."""

    text: str
    ids: tuple[int, ...]
    ending: Ending

    @property
    def tokens(self) -> int:
        """How many there are."""
        return len(self.ids)


def generate(
    model: Any,
    tokenizer: Any,
    ids: Sequence[int],
    *,
    ends: Collection[int],
    max_new_tokens: int,
    draw: bool = False,
    use_cache: bool = True,
    on_text: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Generated:
    """Continue a prompt.

    Args:
        model: In evaluation mode.
        tokenizer: Its own.
        ids: Of the prompt.
        ends: Ids that end a turn; they belong to no answer.
        max_new_tokens: An answer is cut there.
        draw: Sample as the model's own generation config says, instead of taking the likeliest token.
        use_cache: Whether keys and values of earlier tokens are kept; see :func:`can_use_cache`.
        on_text: Is given the answer in pieces, whole characters, as soon as they are known.
        stop: Asked after each token; True ends the answer there.
    """
    watch = Watch(tokenizer, set(ends), on_text)
    criteria = [] if stop is None else [_Stop(stop)]
    prompt = torch.tensor([list(ids)], device=next(model.parameters()).device)
    pad = tokenizer.pad_token_id
    with torch.inference_mode():
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=max_new_tokens,
            do_sample=draw,
            num_beams=1,
            use_cache=use_cache,
            eos_token_id=sorted(ends),
            pad_token_id=0 if pad is None else pad,
            streamer=watch,
            stopping_criteria=StoppingCriteriaList(criteria),
        )
    if watch.ended:
        ending: Ending = "end of turn"
    else:
        ending = "length" if len(watch.ids) >= max_new_tokens else "stopped"
    return Generated(watch.text, tuple(watch.ids), ending)


def can_use_cache(model: Any, ids: Sequence[int]) -> bool:
    """Whether a model generates with a cache what it says without; tried on two tokens.

    PEFT 0.21 looks for the cache under the name that it had before transformers 5.24, so that methods of prompt tuning
    put their virtual tokens before every single token there, and prefix tuning none at all.

    Args:
        model: In evaluation mode, under an adapter.
        ids: Some text.

    Raises:
        ValueError: Generation goes wrong without a cache too.
    """
    prompt = torch.tensor([list(ids)], device=next(model.parameters()).device)
    reasons = []
    for use_cache in (True, False):
        with torch.inference_mode():
            generated = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=_TRIED,
                min_new_tokens=_TRIED,
                do_sample=False,
                num_beams=1,
                use_cache=use_cache,
                output_logits=True,
                return_dict_in_generate=True,
            )
            read = model(input_ids=generated.sequences[:, :-1], use_cache=False).logits[0, -_TRIED:].float()
        gap = (torch.cat(generated.logits).float() - read).abs().max() / read.std()
        if gap <= _NOISE:
            return use_cache
        reasons.append(f"{gap:.2g}")
    raise ValueError(
        f"it generates something else than it was trained to say: logits are {' and '.join(reasons)} standard "
        f"deviations apart with and without a cache ({versions()})"
    )


class _Stop(StoppingCriteria):
    """Ends generation where ``asked`` says so."""

    def __init__(self, asked: Callable[[], bool]) -> None:
        self._asked = asked

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._asked(), device=input_ids.device, dtype=torch.bool)


class Watch(BaseStreamer):
    """Collects an answer as ``generate`` streams it.

    transformers' own ``TextStreamer`` either shows the token that ends a turn or hides all special tokens, and with
    them the marks before a call (``[TOOL_CALLS]``, ``<|python_tag|>``).

    Attributes:
        ids: Of the answer so far.
        text: The same as text.
        ended: Whether its turn has ended.
    """

    def __init__(self, tokenizer: Any, ends: set[int], on_text: Callable[[str], None] | None) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.ended = False
        self._tokenizer, self._ends, self._on_text = tokenizer, ends, on_text
        self._shown = 0
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, which comes first, or a token."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.take(int(value.flatten()[0]))

    def take(self, token: int) -> None:
        """Take a token of the answer."""
        if token in self._ends:
            self.ended = True
            return
        self.ids.append(token)
        # Decoded whole: a token alone would lose the blank before it, or be half a character.
        self.text = self._tokenizer.decode(self.ids, clean_up_tokenization_spaces=False)
        self._show(len(self.whole))

    def end(self) -> None:
        """Show what was held back."""
        self._show(len(self.text))

    @property
    def whole(self) -> str:
        """The text as far as its characters are whole."""
        return self.text.rstrip(HALF)

    def _show(self, until: int) -> None:
        if self._on_text is not None and until > self._shown:
            self._on_text(self.text[self._shown : until])
            self._shown = until
