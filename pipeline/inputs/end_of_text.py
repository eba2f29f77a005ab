"""The token that stands after every file of a corpus."""

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0  # in the tokenizers that `pipeline.inputs.text` makes
