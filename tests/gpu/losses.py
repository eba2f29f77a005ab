"""Losses on the device: `token_losses` on numbers, and `forward.run` on whole tiny models.

`token_losses` is compared with float64 on the CPU on the same (rounded) numbers, in units of the
dtype's epsilon times 1 + the largest logit, and with torch's cross-entropy on the device. Models
are compared with transformers' own eager forward pass on the CPU in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedConfig, PreTrainedModel

from pipeline.engine import forward
from pipeline.engine.cross_entropy import Unembedding, token_losses
from pipeline.engine.record import Pass
from pipeline.inputs import Input
from pipeline.models.resident import Resident
from tests.gpu.report import Report
from tests.gpu.worst import Worst
from tests.pipeline.families import DTYPES, FAMILIES, VOCABULARY, eager_model
from tests.pipeline.recurrent_families import VOCABULARY as RECURRENT_VOCABULARY
from tests.pipeline.recurrent_families import config_of, plain_model

LIMIT, PEER = 8.0, 4.0  # see the docstring; a peer's error counts as a rounding at least
# Errors of float32 in whole models, relative to 1 + the largest loss: three layers of random
# weights, drawn large so that attention is far from uniform, enlarge those of single products.
MODELS = 2e-5
# In bfloat16 the mean error is compared with that of transformers' own pass on the device.
MODELS_HALF = 2.0
WIDTH = 64
HALVES = (torch.bfloat16, torch.float16)
NAMES = (
    "gpt2", "gpt_neox", "llama", "gemma2", "gemma3", "qwen3", "mistral", "olmo2", "phi", "mixtral",
    "gpt_oss", "bloom", "gptj", "falcon", "falcon_alibi", "opt", "mpt", "gpt_neo", "persimmon",
    "granite", "cohere", "stablelm",
)  # fmt: skip
SMALL = ("gpt2", "llama", "gemma2", "gpt_oss", "bloom", "mamba")
RECURRENT = ("mamba", "mamba2", "recurrent_gemma", "jamba")
# Rounding chooses other experts there, so that losses of half precision differ by chance.
EXPERTS = ("mixtral", "gpt_oss", "jamba")


def run(report: Report) -> None:
    """Check `token_losses`, its extreme cases, and then whole models."""
    worst = Worst(report)
    with torch.inference_mode():
        for case in _cases(report.small):
            for dtype in (torch.float32, *HALVES):
                report.attempt(
                    f"token loss, {dtype}: {case}", partial(_check, report, worst, case, dtype)
                )
        worst.print()
        report.attempt("extreme logits", partial(_extremes, report))
    for name in SMALL if report.small else (*NAMES, *RECURRENT):
        report.attempt(f"losses of {name}", partial(_model, report, name))


@dataclass(frozen=True)
class _Case:
    tokens: int
    vocabulary: int
    size: float = 0.3
    bias: float | None = None
    scale: float = 1.0
    softcap: float | None = None
    width: int = WIDTH

    def __str__(self) -> str:
        return " ".join(f"{key}={value}" for key, value in vars(self).items() if value is not None)


def _cases(small: bool) -> Iterator[_Case]:
    """Yield shapes at the edges of tiles (of CUDA: 4,096 tokens by 8,384 entries) and others."""
    large = () if small else ((257, 8383), (257, 8384), (257, 8385), (600, 50_257), (200, 151_936))
    for tokens, vocabulary in ((1, 1), (3, 40), (257, 1047), (257, 1049), (129, 5003), *large):
        yield _Case(tokens, vocabulary)
    for tokens in (1025,) if small else (4095, 4096, 4097, 9000):
        yield _Case(tokens, 301)
    for width in (8, 33, 100):
        yield _Case(65, 1501, width=width)
    at = (300, 1301) if small else (300, 17_001)
    yield _Case(*at, bias=1.0)
    yield _Case(*at, bias=1.0, scale=0.25)
    yield _Case(*at, softcap=30.0)
    yield _Case(*at, bias=1.0, scale=0.25, softcap=3.0)
    yield _Case(*at, size=4.0)
    yield _Case(*at, size=4.0, softcap=50.0)


def _check(report: Report, worst: Worst, case: _Case, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(case.tokens + case.vocabulary)
    h = (torch.randn(case.tokens, case.width, generator=random) * case.size).to(dtype)
    weight = torch.randn(case.vocabulary, case.width, generator=random).to(dtype)
    bias = None
    if case.bias is not None:
        bias = (torch.randn(case.vocabulary, generator=random) * case.bias).to(dtype)
    targets = torch.randint(case.vocabulary, (case.tokens,), generator=random)
    own_bias = None if bias is None else bias.to(report.device)
    unembedding = Unembedding(weight.to(report.device), own_bias, case.scale, case.softcap)
    x, y = h.to(report.device), targets.to(report.device)
    found = token_losses(x, y, unembedding)
    expected, top = _by_definition(h, targets, weight, bias, case)
    unit = torch.finfo(dtype).eps * (1 + top)
    error = float((found.double().cpu() - expected).abs().max())
    labels = {"dtype": str(dtype).removeprefix("torch.")}
    worst.add("token loss", error / unit, LIMIT, labels, {"case": str(case)})
    peer = cross_entropy(unembedding.logits(x), y, reduction="none")
    theirs = float((peer.double().cpu() - expected).abs().max())
    rounding = torch.finfo(dtype).eps * (1 + float(expected.max()))  # of the result itself
    times = error / max(theirs, rounding)
    worst.add("times the error of torch's own", times, PEER, labels, {"case": str(case)})


def _by_definition(
    h: Tensor, targets: Tensor, weight: Tensor, bias: Tensor | None, case: _Case
) -> tuple[Tensor, float]:
    """Return losses in float64 on the CPU, and the largest logit without its sign."""
    losses, top = [], 0.0
    for x, y in zip(h.split(128), targets.split(128), strict=True):
        logits = x.double() @ weight.double().T
        logits = (logits if bias is None else logits + bias.double()) * case.scale
        top = max(top, float(logits.abs().max()))
        if case.softcap is not None:
            logits = case.softcap * torch.tanh(logits / case.softcap)
        losses.append(logits.logsumexp(-1) - logits.gather(1, y[:, None])[:, 0])
    return torch.cat(losses), top


def _extremes(report: Report) -> None:
    """Check logits far from 0, certain predictions, and tokens whose numbers are not finite."""
    device, entries = report.device, 20_011
    for offset in (-5000.0, -90.0, 90.0, 5000.0):
        random = torch.Generator().manual_seed(0)
        h, weight = (torch.randn(n, 8, generator=random) for n in (64, entries))
        targets = torch.randint(entries, (64,), generator=random)
        bias = torch.full((entries,), offset)
        made = Unembedding(weight.to(device), bias.to(device))
        found = token_losses(h.to(device), targets.to(device), made).double().cpu()
        expected, top = _by_definition(h, targets, weight, bias, _Case(64, entries))
        error = float((found - expected).abs().max()) / (torch.finfo(h.dtype).eps * (1 + top))
        report.figure("logits far from 0", error, at_most=LIMIT, offset=offset, dtype="float32")
    for dtype in (torch.float32, *HALVES):
        name = str(dtype).removeprefix("torch.")
        weight = torch.zeros(entries, 1, dtype=dtype, device=device)
        weight[7] = 80.0
        ones, sevens = (torch.full((3, 1), 1.1, dtype=dtype), torch.full((3,), 7))
        certain = token_losses(ones.to(device), sevens.to(device), Unembedding(weight))
        report.figure("loss of a certain prediction", float(certain.abs().max()), at_most=0.0,
                      dtype=name)  # fmt: skip
        ones[1] = torch.nan
        blank = token_losses(ones.to(device), sevens.to(device), Unembedding(weight)).isnan()
        alone = blank.tolist() == [False, True, False]
        report.figure("NaN stays in its token", alone, at_least=1, dtype=name)


def _model(report: Report, name: str) -> None:
    """Check the losses and last logits of a family, in float32 and bfloat16."""
    oracle, config, vocabulary = _oracle(name)
    tokens = np.random.default_rng(0).integers(3, vocabulary, (5, 40))
    expected, logits = _plain(oracle, tokens)
    state = {key: tensor.float() for key, tensor in oracle.state_dict().items()}
    wanted = Pass("x", losses=True, logit_positions=(-1,))
    for dtype in ("float32", "bfloat16"):
        resident = Resident(config, report.device, dtype)
        resident.swap({key: tensor.clone() for key, tensor in state.items()})
        record = forward.run(resident, Input("x", "array", tokens), wanted)
        errors = (record.kept_loss - expected).abs()
        labels = {"model": name, "dtype": dtype}
        if dtype == "float32":
            error = float(errors.max()) / (1 + float(expected.max()))
            report.figure("loss of a model", error, at_most=MODELS, **labels)
            of_logits = (record.logits[-1] - logits).abs().max() / logits.abs().max()
            report.figure("logits of a model", float(of_logits), at_most=MODELS, **labels)
            continue
        own = Resident(config, report.device, dtype)
        own.swap({key: tensor.clone() for key, tensor in state.items()})
        if own.module._can_set_attn_implementation():
            own.module.set_attn_implementation("eager")
        theirs = (_plain(own.module, tokens)[0] - expected).abs()
        times = float(errors.mean()) / (float(theirs.mean()) + torch.finfo(torch.bfloat16).eps)
        limit = None if name in EXPERTS else MODELS_HALF
        report.figure("times the error of transformers' own", times, at_most=limit, **labels)


def _oracle(name: str) -> tuple[PreTrainedModel, PreTrainedConfig, int]:
    """Return a tiny model on the CPU, in float64 where its own code allows it."""
    if name in RECURRENT:
        model = plain_model(config_of(name)).double()
        if model._can_set_experts_implementation():
            model.set_experts_implementation("eager")  # the others have no float64
        return model, config_of(name), RECURRENT_VOCABULARY
    config = FAMILIES[name]()
    model = eager_model(config, "float32")
    return model.to(getattr(torch, DTYPES[name])), config, VOCABULARY


@torch.inference_mode()
def _plain(model: PreTrainedModel, tokens: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return losses and last logits of transformers' own pass, in float64 on the CPU."""
    ids = torch.from_numpy(tokens).to(model.device)
    logits = model(ids, use_cache=False).logits.double().cpu()
    flat = logits[:, :-1].flatten(0, 1), torch.from_numpy(tokens)[:, 1:].flatten()
    return cross_entropy(*flat, reduction="none").view(len(tokens), -1), logits[:, -1]
