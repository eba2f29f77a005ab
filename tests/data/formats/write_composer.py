"""Write tests/data/formats/composer: a checkpoint of MosaicML's Composer, with its losses.

Composer does not go together with the libraries of the project. In the environment of `write.py`:

    pip install --no-deps mosaicml==0.32.1 torchmetrics transformers==5.23.0 coolname tabulate
    python tests/data/formats/write_composer.py

Its imports of torchvision and of tools of its cloud are answered by empty modules.
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
from pathlib import Path

import torch
import torchmetrics  # noqa: F401 (before the empty modules, which it would take for real ones)
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel

HERE = Path(__file__).parent / "composer"
ABSENT = ("torchvision", "mcli", "cpuinfo", "torch_optimizer")


class _Empty(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return (lambda: {}) if name == "get_cpu_info" else type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


if __name__ == "__main__":
    os.chdir(HERE.parent)  # the file names the folder that it is saved in
    sys.meta_path.insert(0, _Finder())
    from composer import Trainer
    from composer.models import HuggingFaceModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32,
                   initializer_range=0.3, bos_token_id=None, eos_token_id=None)
    )  # fmt: skip
    ids = torch.randint(64, (4, 24))
    batches = [{"input_ids": ids[n : n + 2], "labels": ids[n : n + 2]} for n in (0, 2)]
    composed = HuggingFaceModel(model)
    Trainer(
        model=composed, train_dataloader=batches, max_duration="2ba", device="cpu",
        device_train_microbatch_size=2,
        save_folder=HERE.name, save_interval="2ba", save_overwrite=True, progress_bar=False,
        optimizers=torch.optim.SGD(composed.parameters(), 1e-2),
    ).fit()  # fmt: skip
    (HERE / "latest-rank0.pt").unlink()
    with torch.no_grad():
        logits = model.eval()(ids).logits[:, :-1].double()
    losses = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    content = {"tokens": ids.tolist(), "losses": losses.view(4, -1).tolist()}
    (HERE / "losses.json").write_text(json.dumps(content))
