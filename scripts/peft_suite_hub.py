"""A Hugging Face cache with tiny random models under the names that PEFT's own tests ask for.

No hub is reached: the tests use the models for their structure alone, so random weights of about the same tiny sizes
do. ``lay_out`` writes them as ``huggingface_hub`` would, so that the tests run unchanged with ``HF_HUB_OFFLINE=1``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

VOCABULARY = 1000
_REVISION = "0" * 40
_HEADS = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_LLAMA = {**_HEADS, "hidden_size": 16, "num_key_value_heads": 4}
_BERT = {**_HEADS, "hidden_size": 32, "max_position_embeddings": 128, "pad_token_id": 0}
_GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 5,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": VOCABULARY - 2,
    "eos_token_id": VOCABULARY - 1,
}
_OPT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 4,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 4,
    "decoder_ffn_dim": 4,
    "max_position_embeddings": 128,
}
_LM, _CLASSIFIER, _ENCODER, _SEQ2SEQ = (
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModel",
    "AutoModelForSeq2SeqLM",
)

# Name on the hub -> class of transformers, model type, sizes.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": (_LM, "opt", _OPT),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": (_LM, "gpt2", _GPT2),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": (_LM, "gptj", {**_GPT2, "rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": (_LM, "llama", _LLAMA),
    "peft-internal-testing/tiny-dummy-qwen2": (_LM, "qwen2", {**_LLAMA, "hidden_size": 8}),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": (
        _LM,
        "gemma3_text",
        {**_LLAMA, "head_dim": 8, "sliding_window": 16},
    ),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": (_CLASSIFIER, "llama", {**_LLAMA, "num_labels": 1}),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": (_CLASSIFIER, "bert", _BERT),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": (_CLASSIFIER, "roberta", _BERT),
    "peft-internal-testing/tiny-random-BertModel": (_ENCODER, "bert", _BERT),
    "peft-internal-testing/tiny-random-RobertaModel": (_ENCODER, "roberta", _BERT),
    "peft-internal-testing/tiny-random-DebertaModel": (_ENCODER, "deberta", _BERT),
    "peft-internal-testing/tiny-random-DebertaV2Model": (_ENCODER, "deberta-v2", _BERT),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": (_SEQ2SEQ, "t5", _T5),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": (_SEQ2SEQ, "bart", _BART),
}
# An adapter whose options test_config.py reads, at this revision.
ADAPTER, ADAPTER_REVISION = "peft-internal-testing/tiny-opt-lora-revision", "test"


def lay_out(cache: Path) -> None:
    """Write every model under ``cache``, a folder for ``HF_HUB_CACHE``, unless these very ones are there."""
    whole = cache / "models.json"
    described = json.dumps(MODELS, indent=1)
    if whole.exists() and whole.read_text() == described:
        return
    import torch
    import transformers
    from peft import LoraConfig

    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(cache, ignore_errors=True)
    for name, (auto_class, model_type, sizes) in MODELS.items():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **sizes)
        model = getattr(transformers, auto_class).from_config(config)
        model.save_pretrained(_snapshot(cache, name, "main"))
    folder = _snapshot(cache, ADAPTER, ADAPTER_REVISION)
    LoraConfig(base_model_name_or_path=next(iter(MODELS)), task_type="CAUSAL_LM").save_pretrained(folder)
    whole.write_text(described)  # Last.


def _snapshot(cache: Path, name: str, ref: str) -> Path:
    """An empty snapshot folder of a repository, with its reference."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / _REVISION
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / ref).write_text(_REVISION)
    return snapshot
