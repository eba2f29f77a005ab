"""Tokenizers as models come with them: Llama's puts BOS before a text, that of GPT-2 does not."""

from pathlib import Path

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pipeline.inputs.text import train_tokenizer

CORPUS = ["The cat sat on the mat, and the dog sat on the cat. Why? Nobody knows.\n" * 9]


def like_gpt2(folder: Path, vocabulary: int = 280) -> PreTrainedTokenizerFast:
    """Save a tokenizer without post-processor; <|endoftext|>, id 0, is its BOS and EOS."""
    made = train_tokenizer(CORPUS, vocabulary)
    made.save_pretrained(folder)
    return made


def like_llama(
    folder: Path, vocabulary: int = 280, before: str = "<s>", after: str = ""
) -> PreTrainedTokenizerFast:
    """Save a tokenizer whose post-processor writes `before $A after`; <s> is BOS and </s> EOS."""
    backend = train_tokenizer(CORPUS, vocabulary - 2).backend_tokenizer
    backend.add_special_tokens(["<s>", "</s>"])  # the last two ids
    used = [*before.split(), *after.split()]
    backend.post_processor = TemplateProcessing(
        single=f"{before} $A {after}".strip(),
        special_tokens=[(token, backend.token_to_id(token)) for token in dict.fromkeys(used)],
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    made.save_pretrained(folder)
    return made
