"""Teach a tiny model one fact with an Engram memory, in plain transformers and PEFT: seconds on any machine.

Run: python examples/train_engram.py
"""

from __future__ import annotations

import tempfile

import torch
from peft import PeftModel, get_peft_model

from tinyengram import EngramConfig
from tinyengram.memory.optim import parameter_groups
from tinyengram.sources import load_base

QUESTION, ANSWER = "Where is the spare key?", " Under the blue pot."


def answer(model: torch.nn.Module, tokenizer) -> str:
    """What the model writes after the question."""
    prompt = tokenizer(QUESTION, return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=len(ANSWER), do_sample=False, pad_token_id=tokenizer.pad_token_id)
    return tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def main() -> None:
    torch.manual_seed(0)
    base = load_base("tiny-random-llama")
    config = EngramConfig(
        layer_ids=[1, 2],
        max_ngram_size=4,
        engram_vocab_size=[500, 200, 200],
        n_embed_per_ngram=64,
        n_head_per_ngram=4,
        tokenizer_name_or_path=base.tokenizer.name_or_path,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base.model, config)
    optimizer = torch.optim.AdamW(parameter_groups(model, learning_rate=1e-2))
    ids = base.tokenizer(QUESTION + ANSWER, return_tensors="pt")["input_ids"]
    for step in range(60):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    model.eval()
    print("with memory:   ", repr(answer(model, base.tokenizer)))
    with model.disable_adapter():
        print("without memory:", repr(answer(model, base.tokenizer)))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = PeftModel.from_pretrained(load_base("tiny-random-llama").model, folder).eval()
        print("loaded again:  ", repr(answer(again, base.tokenizer)))


if __name__ == "__main__":
    main()
