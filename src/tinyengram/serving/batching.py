"""Many answers at a time: a thread that owns the model and gives each answer under way a token at each turn."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from tinyengram import host
from tinyengram.memory import joining
from tinyengram.serving.model import ServingError
from tinyengram.serving.streams import Asked, News, Stream

_AT_ONCE = 4  # prompts read between two tokens of those who wait for theirs
# What a model's generation config may ask for beside drawing, and a batch does not keep to.
_NOT_KEPT = (
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "sequence_bias", "min_length"),
    *("min_new_tokens", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id", "forced_eos_token_id"),
    *("exponential_decay_length_penalty", "guidance_scale", "watermarking_config"),
)


class BusyError(ServingError):
    """So many requests wait already that another is not taken."""


@dataclass(eq=False)
class _Group:
    """Streams of one adapter that are continued together.

    Attributes:
        adapter: PEFT's name of it; None for the base.
        streams: A row each.
        cache: What was read of all but each row's last token; None where every step reads a text anew.
        joinable: Whether further rows can be put on the cache. If not there is one stream.
    """

    adapter: str | None
    streams: list[Stream]
    cache: Any
    joinable: bool


class Batcher:
    """Answers what is asked, that of one adapter together, one token of each adapter after the other's.

    Rows come and go between tokens. An adapter whose cache cannot be joined (sliding windows, recurrent layers) has its
    answers side by side, and one of prompt tuning reads each text anew for each token (see ``can_use_cache``).

    Args:
        model: In evaluation mode; nobody else may call it meanwhile.
        most_streams: Answers that are under way at a time; what is asked beyond them waits.
        most_waiting: Requests that may wait.

    Raises:
        ServingError: The model's generation config asks for what a batch does not keep to.
    """

    def __init__(self, model: Any, *, most_streams: int = 16, most_waiting: int = 64) -> None:
        config = getattr(model, "generation_config", None)
        for name in _NOT_KEPT:
            if (value := getattr(config, name, None)) not in (None, 0, [], {}):
                raise ServingError(
                    f"The model's generation config sets {name}={value!r}, which answers in a batch do not keep to. "
                    "Take it out of generation_config.json."
                )
        self._model = model
        self._most_streams, self._most_waiting = most_streams, most_waiting
        self._penalty = getattr(config, "repetition_penalty", None)
        self._device = next(model.parameters()).device
        below = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._takes = {name for name in ("logits_to_keep", "position_ids") if host.takes_argument(below, name)}
        self._cache_argument = host.cache_argument(below)
        self._waiting: deque[Stream] = deque()
        self._groups: list[_Group] = []
        self._changed = threading.Condition()
        self._closing = False
        self._active: str | None = None
        self._thread = threading.Thread(target=self._run, name="tinyengram-batcher", daemon=True)
        self._thread.start()

    def ask(self, asked: Asked, tell: Callable[[News], None]) -> Stream:
        """Have something answered.

        Raises:
            BusyError: Too much waits already.
        """
        stream = Stream(asked, tell)
        with self._changed:
            self._waiting = deque(one for one in self._waiting if not one.is_given_up)
            if len(self._waiting) >= self._most_waiting:
                raise BusyError(f"{len(self._waiting)} requests wait already, and no more are taken. Try again later.")
            self._waiting.append(stream)
            self._changed.notify()
        return stream

    def close(self) -> None:
        """End; what is under way fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._waiting or self._groups):
                    self._changed.wait()
                if self._closing:
                    break
                under_way = sum(len(group.streams) for group in self._groups)
                free = max(0, min(_AT_ONCE, self._most_streams - under_way))
                coming = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            try:
                with torch.inference_mode():
                    self._turn(coming)
            except Exception as error:  # While rows were moved: none of them is whole any more.
                for stream in [*coming, *(stream for group in self._groups for stream in group.streams)]:
                    stream.fail(error)
                self._groups = []
        for stream in [*self._waiting, *(stream for group in self._groups for stream in group.streams)]:
            stream.fail(ServingError("The server ends. Ask again when it runs."))

    def _turn(self, coming: list[Stream]) -> None:
        """A token for each stream, and those that come with them."""
        for group in list(self._groups):
            self._guarded(group, self._step)
        for stream in coming:
            if not stream.is_given_up:
                group = _Group(stream.asked.adapter, [stream], None, joinable=False)
                self._groups.append(group)
                self._guarded(group, self._begin)
        self._join()

    def _guarded(self, group: _Group, work: Callable[[_Group], None]) -> None:
        """Do a group's work; an error ends its own streams and no others."""
        try:
            with self._speaking(group.adapter):
                work(group)
        except Exception as error:
            for stream in group.streams:
                stream.fail(error)
            group.streams = []
        if not group.streams:
            self._groups.remove(group)

    def _speaking(self, adapter: str | None) -> AbstractContextManager[Any]:
        """The adapter, or the base without one."""
        if adapter is None:
            return self._model.disable_adapter() if hasattr(self._model, "disable_adapter") else nullcontext()
        if adapter != self._active:
            self._model.set_adapter(adapter)
            self._active = adapter
        return nullcontext()

    def _begin(self, group: _Group) -> None:
        """Read a prompt, alone: its first token is to the bit what ``generate`` takes."""
        (stream,) = group.streams
        stream.begin(self._penalty, self._device)
        if self._reads_anew(group.adapter):
            self._read_anew(stream)
        else:
            out = self._read([stream.ids], None)
            group.cache = host.cache_of(out)
            if group.cache is None:
                raise ServingError("The model returns no key-value cache. Serve another.")
            group.joinable = "position_ids" in self._takes and joining.can_be_joined(group.cache)
            stream.take(out.logits[0, -1])
        self._drop(group)

    def _step(self, group: _Group) -> None:
        """One more token of each stream."""
        self._drop(group)
        if not group.streams:
            return
        if group.cache is None:
            self._read_anew(group.streams[0])
        else:
            places = [len(stream.ids) for stream in group.streams] if group.joinable else None
            logits = self._read([stream.ids[-1:] for stream in group.streams], group.cache, places).logits
            for stream, row in zip(group.streams, logits[:, -1], strict=True):
                stream.take(row)
        self._drop(group)

    def _drop(self, group: _Group) -> None:
        """Drop the rows that are over."""
        kept = [at for at, one in enumerate(group.streams) if not (one.is_over or one.is_given_up)]
        if len(kept) == len(group.streams):
            return
        group.streams = [group.streams[at] for at in kept]
        if kept and group.cache is not None:
            longest = max(len(stream.ids) for stream in group.streams) - 1  # The last token is not read yet.
            joining.keep_rows(group.cache, kept, group.cache.get_seq_length() - longest)

    def _join(self) -> None:
        """Make one group of those whose caches can be joined."""
        together: dict[str | None, list[_Group]] = {}
        for group in self._groups:
            if group.joinable:
                together.setdefault(group.adapter, []).append(group)
        for first, *others in together.values():
            if others:
                first.cache = joining.join([first.cache, *(group.cache for group in others)])
                first.streams += [stream for group in others for stream in group.streams]
                self._groups = [group for group in self._groups if all(group is not other for other in others)]

    # --- the model -----------------------------------------------------------------------------------------------

    def _reads_anew(self, adapter: str | None) -> bool:
        return adapter is not None and self._model.peft_config[adapter].is_prompt_learning

    def _read_anew(self, stream: Stream) -> None:
        ids = torch.tensor([stream.ids], device=self._device)
        stream.take(self._model(input_ids=ids, use_cache=False).logits[0, -1])

    def _read(self, ids: list[list[int]], cache: Any, places: list[int] | None = None) -> Any:
        """Read ``ids``, one row a stream, behind what is in the cache.

        Args:
            ids: Equally long rows.
            cache: What was read before; None: nothing.
            places: For each row how long it is with them, where rows may begin at different places.
        """
        options: dict[str, Any] = {}
        if cache is not None:
            options[self._cache_argument] = cache
        if "logits_to_keep" in self._takes:
            options["logits_to_keep"] = 1
        if places is not None:
            lengths = torch.tensor(places, device=self._device).unsqueeze(1)
            longest = max(places)
            options["attention_mask"] = (torch.arange(longest, device=self._device) >= longest - lengths).long()
            options["position_ids"] = lengths - 1
        return self._model(input_ids=torch.tensor(ids, device=self._device), use_cache=True, **options)
