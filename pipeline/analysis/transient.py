"""The errors after which a whole checkpoint is tried again.

They stand apart from `pipeline.retrying`, because reading a store needs that but no torch.
"""

import torch

OUT_OF_MEMORY = (MemoryError, torch.OutOfMemoryError)
TRANSIENT = (OSError, *OUT_OF_MEMORY)  # any other would be raised again
