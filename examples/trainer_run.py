"""Train a tiny language model with the Trainer of transformers, as an example of a user's run.

    python examples/trainer_run.py gpt_neox examples/trainer-run
    ontogeny analyze examples/trainer-run.yaml

Families: gpt_neox (rotary positions, parallel attention and MLP), gpt2 (learned positions), llama
(rotary positions, grouped keys and values). The training text is the source code of `pipeline/`.
"""

import sys
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

SOURCE = Path(__file__).resolve().parents[1] / "pipeline"
CONTEXT = 128
SHAPES = {
    "gpt_neox": {},
    "gpt2": {},
    "llama": {"num_key_value_heads": 2},
}


def train_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer on the text, with an end-of-text token."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([text], vocab_size=512, special_tokens=["<|endoftext|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def make_model(family: str, vocabulary: int) -> torch.nn.Module:
    """Make a model with two layers of four heads each, with random weights."""
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape, **SHAPES[family]))


def train(family: str, folder: Path, steps: int = 60, save_every: int = 10) -> None:
    """Train on the source code of this repository; the Trainer saves `checkpoint-N` folders."""
    text = "\n".join(path.read_text() for path in sorted(SOURCE.rglob("*.py")))
    tokenizer = train_tokenizer(text)
    ids = torch.tensor(tokenizer(text)["input_ids"])
    sequences = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    torch.manual_seed(0)
    Trainer(
        model=make_model(family, len(tokenizer)),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            save_steps=save_every,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            include_num_input_tokens_seen="all",  # checkpoints then say how many tokens they saw
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in sequences],
        data_collator=default_data_collator,
        processing_class=tokenizer,
    ).train()


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]))
