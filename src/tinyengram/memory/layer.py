"""The maths of one Engram memory, and the wrapper that puts it before a decoder block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn import functional as F

from tinyengram.errors import TinyEngramError
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.reading import Reading, ReadingSlot
from tinyengram.memory.tables import Tables

_NORM_EPS = 1e-6
# The paper's demo takes the square root of the gate's logit; below this the root's slope is cut.
_GATE_FLOOR = 1e-6
# Without it a CPU convolves channel by channel.
_HAS_MKLDNN = torch.backends.mkldnn.is_available()
# Share of places with a known n-gram below which an exact memory reads those alone.
_FEW = 0.75


class EngramMemory(nn.Module):
    """Tables, gate and convolution of one memory at one block (arXiv 2601.07372, section 2.3 and 2.4).

    ``e`` = the rows that were found, side by side; ``v = alpha W_V e`` with the gate ``alpha = sigmoid(f(g))``,
    ``g = <RMSNorm(W_K e), RMSNorm(h)> / sqrt(d)`` and ``f(g) = sign(g) sqrt(max(|g|, 1e-6))``; with ``gate="hard"``
    ``alpha = min(1, max(0, g / 6 + 1/2))``, which is exactly 0 where ``g <= -3`` and learns by the slope of the other
    gate (a straight-through estimator, arXiv 1308.3432). The output, which is added to the residual stream, is
    ``v + SiLU(DWConv(RMSNorm(v)))``. No projection has a bias, so rows of zeros and a shut gate give an output of
    exactly zero.

    Args:
        config: The memory's options.
        hidden_size: Width d of the base's residual stream.
        n_rows: Rows of the table; in an exact memory one more than known n-grams, the last one being "not known".
    """

    def __init__(self, config: EngramConfig, hidden_size: int, n_rows: int) -> None:
        super().__init__()
        n_orders = len(config.ngrams.orders) if config.ngrams is not None else len(config.orders)
        if config.memory == "exact" and config.ngrams is None and config.fingerprint is not None:
            n_orders = len(config.fingerprint["ngram_orders"])
        width = n_orders * config.n_embed_per_ngram
        self.dilation = config.max_ngram_size
        self.kernel_size = config.kernel_size
        self.gate = config.gate
        self.unknown_row = n_rows - 1 if config.memory == "exact" else None
        self.tables = Tables(n_rows, config.row_width, self.unknown_row, config.tables_on)
        self.key_proj = nn.Linear(width, hidden_size, bias=False)
        self.value_proj = nn.Linear(width, hidden_size, bias=False)
        self.key_norm = nn.RMSNorm(hidden_size, eps=_NORM_EPS)
        self.query_norm = nn.RMSNorm(hidden_size, eps=_NORM_EPS)
        if config.kernel_size:
            self.conv_norm = nn.RMSNorm(hidden_size, eps=_NORM_EPS)
            # Taps newest first; zero at the start, as in the paper.
            self.conv_weight = nn.Parameter(torch.zeros(config.kernel_size, hidden_size))
        if config.init != "zero_tables":
            if self.tables.shard is not None:
                raise TinyEngramError(
                    f"init={config.init!r} draws whole tables, which tables_on='ranks' never holds; take "
                    "init='zero_tables' or tables_on='device'."
                )
            nn.init.normal_(self.tables.weight)
            if self.unknown_row is not None:
                with torch.no_grad():
                    self.tables.weight[self.unknown_row].zero_()
        if config.init == "zero_value":
            nn.init.zeros_(self.value_proj.weight)
        self.trainable_tables = config.trainable_tables
        self.rows_differ = config.memory == "hashed" or config.rows == "shuffled"  # From layer to layer.
        self.table_learning_rate_factor = config.table_learning_rate_factor

    @property
    def reach(self) -> int:
        """Positions that the convolution looks back."""
        return max(0, self.kernel_size - 1) * self.dilation

    def forward(
        self, hidden: torch.Tensor, rows: torch.Tensor, reading: Reading, key: tuple[str, int]
    ) -> torch.Tensor | None:
        """What is added to the residual stream. Called as a module, since accelerate brings offloaded weights then.

        Args:
            hidden: ``(batch, length, hidden)``.
            rows: int64 ``(batch, length, rows per position)``.
            reading: What is being read.
            key: Adapter and layer id, by which the reading knows this memory's convolution.

        Returns:
            ``(batch, length, hidden)`` in the memory's own dtype (or the autocast dtype); None for zeros.
        """
        known, rows = self._to_read(rows, reading, key[0])
        if known is None:
            values = self.weigh(hidden, self._found(rows, hidden.device, reading, key))
            opened = reading.opened.get(key[0])
            if opened is not None and torch.compiler.is_compiling():
                values = values.where(opened.unsqueeze(-1).to(values.device), 0)
            normed = self.conv_norm(values) if self.kernel_size else values
        else:
            # Without gradients only: every process of a distributed step must give one to each parameter.
            # Where tables lie on ranks, others may ask this one for rows.
            silent = not len(known) and not torch.is_grad_enabled() and self.tables.shard is None
            if silent and (not self.kernel_size or reading.nothing_behind(key, self.reach)):
                return None
            values = self.weigh(hidden.flatten(0, 1)[known], self._found(rows, hidden.device, reading, key))
            normed = _spread(self.conv_norm(values) if self.kernel_size else values, known, hidden.shape)
        if not self.kernel_size:
            return normed
        past = reading.recall(key, self.reach, normed)
        same_text = reading.same_text(self.kernel_size, self.dilation)
        if same_text is not None and same_text.device != hidden.device:
            same_text = same_text.to(hidden.device)
        convolved = F.silu(self.convolve(normed, past, same_text))
        if known is None:
            return values + convolved
        added = convolved.reshape(-1, hidden.shape[-1])
        return added.index_add_(0, known, values).view(hidden.shape)

    def fetch(self, rows: torch.Tensor, reading: Reading, key: tuple[str, int]) -> None:
        """Begin to bring what will be read from the host to where it will be used; arguments as of :meth:`forward`."""
        device = self.key_proj.weight.device
        if self.tables.on_host and self.tables.weight.device != device and not torch.is_grad_enabled():
            reading.fetched[key] = self.find(self._to_read(rows, reading, key[0])[1], device)

    def _found(self, rows: torch.Tensor, device: torch.device, reading: Reading, key: tuple[str, int]) -> torch.Tensor:
        fetched = reading.fetched.pop(key, None)
        return self.find(rows, device) if fetched is None else fetched

    def _to_read(
        self, rows: torch.Tensor, reading: Reading, adapter_name: str
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Where to read, int64 ``(places,)`` among ``batch * length``, and the rows there, ``(places, …)``.

        An exact memory reads where it knows an n-gram, a hashed one where its latch is open. None, with all rows, where
        reading every place is right and as cheap: what is not known reads zeros, and gives exactly zero. In a compiled
        graph no size can depend on what is read.
        """
        unknown, opened = self.unknown_row, reading.opened.get(adapter_name)
        if torch.compiler.is_compiling() or (unknown is None and opened is None):
            return None, rows

        def places() -> torch.Tensor:
            read = cast(torch.Tensor, opened).to(rows.device) if unknown is None else rows.ne(unknown).any(-1)
            return read.flatten().nonzero().squeeze(1)

        known = reading.once((adapter_name, "known", rows.device), places)
        enough = 1.0 if unknown is None else _FEW
        if len(known) >= enough * rows.shape[0] * rows.shape[1]:
            return None, rows
        if self.rows_differ:
            return known, rows.flatten(0, 1)[known]
        at_known = reading.once((adapter_name, "rows at known", rows.device), lambda: rows.flatten(0, 1)[known])
        return known, at_known

    def read(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The gated value ``v`` at each position.

        Args:
            hidden: ``(…, hidden)``.
            rows: int64 ``(…, rows per position)``.

        Returns:
            ``(…, hidden)`` in the memory's own dtype (or the autocast dtype).
        """
        return self.weigh(hidden, self.find(rows, hidden.device))

    def find(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """What stands in the rows, side by side, ``(…, rows per position * row width)``, brought to ``device``."""
        found = self.tables(rows).flatten(-2)
        if found.device == device:
            return found
        if device.type == "cuda":
            found = found.pin_memory()  # Only then does the copy not keep the host waiting.
        return found.to(device, non_blocking=True)

    def weigh(self, hidden: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """The gated value of what was found; shapes as in :meth:`read` and :meth:`find`."""
        return self.opening(hidden, found) * self.value_proj(found)

    def opening(self, hidden: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """The gate ``(…, 1)``, 0 to 1, for what was found; shapes as in :meth:`read` and :meth:`find`."""
        key = self.key_norm(self.key_proj(found))
        if hidden.dtype != self.tables.weight.dtype:
            hidden = hidden.to(self.tables.weight.dtype)
        logit = torch.linalg.vecdot(key, self.query_norm(hidden)).unsqueeze(-1) * hidden.shape[-1] ** -0.5
        gate = torch.sigmoid(logit.abs().clamp_min(_GATE_FLOOR).sqrt().copysign(logit))
        if self.gate == "hard":
            # Straight through: a gate that is wide open or shut must still be able to move.
            gate = F.hardsigmoid(logit).detach() + (gate - gate.detach())
        return gate

    def convolve(self, values: torch.Tensor, past: torch.Tensor | None, same_text: torch.Tensor | None) -> torch.Tensor:
        """Causal, dilated, depthwise convolution that does not cross from one text into another.

        Args:
            values: ``(batch, length, hidden)``, normalised.
            past: ``(batch, reach, hidden)``, the same at the positions before; None for zeros.
            same_text: bool ``(batch, length, kernel_size)``: whether the token under tap k belongs to the text; None
                where it does everywhere.

        Returns:
            ``(batch, length, hidden)``.
        """
        length, weight = values.shape[1], self.conv_weight
        if same_text is None and length > 1 and _convolves_at_once(values):
            across = values.transpose(1, 2)
            if past is None:
                across = F.pad(across, (self.reach, 0))
            else:
                across = torch.cat([past.to(values.dtype).transpose(1, 2), across], dim=2)
            filters = weight.flip(0).t().unsqueeze(1)
            return F.conv1d(across, filters, groups=len(filters), dilation=self.dilation).transpose(1, 2)
        if past is None:
            timeline = F.pad(values, (0, 0, self.reach, 0))
        else:
            timeline = torch.cat([past.to(values.dtype), values], dim=1)
        if length == 1:
            taps = timeline[:, :: self.dilation].flip(1)
            taps = taps if same_text is None else taps * same_text.transpose(1, 2)
            return (taps * weight).sum(1, keepdim=True)
        total = torch.zeros_like(values)
        for tap in range(self.kernel_size):
            first = self.reach - tap * self.dilation
            factor = weight[tap] if same_text is None else weight[tap] * same_text[..., tap : tap + 1]
            total = torch.addcmul(total, timeline[:, first : first + length], factor)
        return total


def _convolves_at_once(values: torch.Tensor) -> bool:
    """Whether torch convolves ``values`` in one call about as fast as tap by tap.

    A CPU goes channel by channel through float64, and needs four times as long for the gradient (torch 2.13).
    """
    if values.device.type != "cpu":
        return True
    return _HAS_MKLDNN and values.dtype != torch.float64 and not values.requires_grad


def _spread(values: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Zeros ``(batch, length, hidden)`` with ``values`` at the given places among ``batch * length``."""
    flat = values.new_zeros(shape[0] * shape[1], shape[2])
    return flat.index_copy_(0, places, values).view(shape)


class EngramLayer(nn.Module, BaseTunerLayer):
    """A decoder block whose input is first enriched by the active memories.

    Args:
        base_layer: The block.
        layer_id: Its index among the blocks.
        slot: Where the model leaves what is being read during a forward pass.
    """

    adapter_layer_names = ("engram_memory",)

    def __init__(self, base_layer: nn.Module, layer_id: int, slot: ReadingSlot) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.layer_id = layer_id
        self.slot = slot
        self.engram_memory = nn.ModuleDict()
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, config: EngramConfig, hidden_size: int, n_rows: int) -> None:
        """Add a memory under ``adapter_name``."""
        memory = EngramMemory(config, hidden_size, n_rows)
        self.engram_memory[adapter_name] = memory
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        for memory in cast(Iterable[EngramMemory], self.engram_memory.values()):
            if not memory.trainable_tables:
                memory.tables.weight.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._disable_adapters and any(name in self.engram_memory for name in self.active_adapters):
            reading = self.slot.reading
            if reading is None:
                raise RuntimeError(
                    f"Block {self.layer_id} was run outside its model's forward pass, so its memory cannot know what "
                    "is read. For activation checkpointing use model.gradient_checkpointing_enable(); a wrapper around "
                    "single blocks belongs around their base_layer."
                )
            hidden = args[0] if args else kwargs["hidden_states"]
            added = [
                self._recollect(name, reading, hidden) for name in self.active_adapters if name in self.engram_memory
            ]
            for one in added:
                hidden = hidden if one is None else hidden + one
            if args:
                args = (hidden, *args[1:])
            else:
                kwargs["hidden_states"] = hidden
        return self.base_layer(*args, **kwargs)

    def _recollect(self, adapter_name: str, reading: Reading, hidden: torch.Tensor) -> torch.Tensor | None:
        """What one memory adds to ``hidden`` ``(batch, length, hidden)``; None for nothing."""
        memory = cast(EngramMemory, self.engram_memory[adapter_name])
        # A model may lie on several devices, and its stream arrives from the block before.
        device = memory.key_proj.weight.device
        if device.type == "meta":  # Offloaded: its weights come to where they are used.
            device = hidden.device
        rows, stream = reading.rows(adapter_name, self.layer_id), hidden
        if rows.device != device or hidden.device != device:
            rows, stream = rows.to(device), hidden.to(device)
        added = memory(stream, rows, reading, (adapter_name, self.layer_id))
        if added is not None and (added.dtype != hidden.dtype or added.device != hidden.device):
            added = added.to(hidden)
        return added

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their own blocks, such as the kind of attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)
