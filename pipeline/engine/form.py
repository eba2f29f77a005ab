"""A check that a model has the form that measures assume, by computing with random weights.

A small model of the same form (`reduced.py`) gets random weights, gains and biases: after
initialisation gains are 1 and biases 0, which would hide a missing norm. It runs on sequences of
one token, which attends to itself only and is not rotated, and the activations in the model's own
code are compared with those that the circuits (`models/circuits.py`) predict. The outcome depends
on config and code alone, so it is the same for all checkpoints and workers. See
`models/assumptions.py` for the list of assumptions.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

from pipeline.engine import attention
from pipeline.engine.agreement import close, differences, directions, proportional
from pipeline.engine.kernels import capped
from pipeline.engine.observed import Observed, observed
from pipeline.engine.reduced import reduced
from pipeline.engine.streams import started_at, watched_stream
from pipeline.errors import first_line
from pipeline.models.circuits import Circuits, FinalNorm, Stream, circuits
from pipeline.models.families import Family, family_of
from pipeline.models.layers import uses_interface
from pipeline.models.resident import Resident

_TOKENS = 8  # each comparison has this many vectors per head
_SCALES = (0.01, 1.0, 30.0)  # of streams: short ones show the norm's epsilon, long ones a softcap


def unmet_assumptions(
    architecture: str | Path | PreTrainedConfig, trust_remote_code: bool = False
) -> dict[str, str]:
    """Return the `ASSUMPTIONS` that a model of this architecture does not meet, with the reasons.

    Reads no checkpoint's weights. Raises InputError where no model can be built from it.
    """
    # The check seeds torch's global generator: restored at the end, so that no caller notices.
    with torch.random.fork_rng(devices=[]):
        resident = reduced(architecture, trust_remote_code)
        config = resident.weights.config
        family = family_of(config)
        if family is None:
            return {"matrices": f"where a {config.model_type} model keeps them is not known here"}
        try:
            with torch.inference_mode():
                return dict(_Check(resident, family).found())
        except Exception as error:  # the model's own code may raise anything
            return {"matrices": f"they could not be checked ({first_line(error)})"}


class _Check:
    """The check of one small model against its circuits."""

    def __init__(self, resident: Resident, family: Family) -> None:
        self.resident, self.family, self.module = resident, family, resident.module
        torch.manual_seed(0)
        resident.swap(_random_weights(self.module))
        made = circuits(resident.weights)
        if made is None:
            raise ValueError("there are projections between the embedding and the stream")
        self.model: Circuits = made
        norm = FinalNorm.of_blocks(resident.weights.config)
        self.norm: Callable[[Stream], Stream] = norm if family.norm else lambda stream: stream
        # Those that attend; of others only the streams around them are compared.
        self.layers = resident.facts.attention_layers
        # Different tokens: equal ones would have equal streams, whose differences are 0.
        self.tokens = torch.randperm(resident.facts.vocabulary)[:_TOKENS]
        if uses_interface(self.module):
            self.module.set_attn_implementation(attention.NAME)

    def found(self) -> Iterator[tuple[str, str]]:
        """Yield each assumption that does not hold, with the reason.

        The order matters: parameters are set to zero step by step, and each comparison needs a
        pass from before or after a certain step.
        """
        whole = self._observed()
        logits_hold = self._unembedding_holds(whole)
        pairs = None if uses_interface(self.module) else self._scores_hold_in_matrices()
        self._set_to_zero(lambda name: not self._in_attention(name))
        silent = self._observed()
        self._set_to_zero(lambda name: name.endswith("bias"))
        bare = self._observed()
        if self.model.heads_are_normed:
            yield "heads_apart", "there is a norm between the heads and the stream"
        if not self._embedding_holds(whole):
            yield "embedding", "the stream does not begin as the rows of W_E times a known factor"
        if not logits_hold:
            yield "unembedding", "final norm, W_U and biases do not give the model's own logits"
        queries = {
            k: pairs[k] if pairs else self._queries_hold(whole, bare, k) for k in self.layers
        }
        values = {k: self._values_hold(whole, bare, k) for k in self.layers}
        streams = {k: self._stream_holds(silent, bare, k) for k in self.layers}
        for name, holds, what in (
            ("queries_keys", queries, "W_Q and W_K do not give the queries and keys"),
            ("values_outputs", values, "W_V and W_O do not give the heads' outputs"),
            ("stream", streams, "the heads' outputs are not what attention adds to the stream"),
        ):
            if wrong := [k for k in self.layers if not holds[k]]:
                yield name, f"{what} of layer {', '.join(map(str, wrong))}"

    def _observed(self) -> Observed:
        return observed(self.resident, self.family, self.tokens, self.norm)

    def _set_to_zero(self, chosen: Callable[[str], bool]) -> None:
        for name, parameter in self.module.named_parameters():
            if chosen(name):
                parameter.data.zero_()

    def _in_attention(self, name: str) -> bool:
        """Return whether a parameter is outside all blocks, or part of a block's attention."""
        family = self.family
        parts = (family.output.rpartition(".")[0], family.norm, family.output_norm)
        for layer in self.layers:
            prefix = f"{family.layer.format(layer)}."
            if name.startswith(prefix):
                return any(part and name.startswith(f"{prefix}{part}.") for part in parts)
        return True

    def _embedding_holds(self, seen: Observed) -> bool:
        added = differences(self.model.W_E[self.tokens]) * self.model.embedding_factor
        return close(differences(seen.streams[0]), added)

    def _unembedding_holds(self, seen: Observed) -> bool:
        last = self.model.n_layers
        if not close(self._logits(seen.streams[last]), seen.logits):
            return False
        for scale in _SCALES if last else ():
            stream = scale * torch.randn(_TOKENS, 1, self.model.d_model)
            with started_at(self.module, last, last, stream):
                own = self.module(input_ids=self.tokens[:, None], use_cache=False).logits[:, 0]
            if not close(self._logits(stream[:, 0]), own):
                return False
        return True

    def _logits(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocabulary"]:
        model = self.model
        return capped(model.final_norm(stream) @ model.W_U + model.b_U, model.softcap)

    def _queries_hold(self, whole: Observed, bare: Observed, layer: int) -> bool:
        """Compare queries and keys with those of W_Q and W_K.

        They may differ by a constant (biases) and by one factor (a scale); where queries and keys
        are normalised, only their directions are compared.
        """
        heads = self.model.layer(layer)
        sides = ((whole.queries, bare.queries, heads.W_Q), (whole.keys, bare.keys, heads.W_K))
        for own, own_bare, matrix in sides:
            made = torch.einsum("tm,hmd->thd", whole.normed[layer], matrix)
            if proportional(differences(own[layer]), differences(made)):
                continue
            made = torch.einsum("tm,hmd->thd", bare.normed[layer], matrix)
            if not close(directions(own_bare[layer]), directions(made)):
                return False
        return True

    def _scores_hold_in_matrices(self) -> dict[int, bool]:
        """Make the comparison of `_queries_hold` from attention matrices, for each layer.

        For models whose queries and keys cannot be observed. With all tokens at position 0 nothing
        is rotated, and in log p[i, j] - log p[i, 0] - (log p[k, j] - log p[k, 0]) normalisation and
        biases cancel:

            factor (x_i - x_k) W_Q ((x_j - x_0) W_K)^T
        """
        n = self.model.n_layers
        tokens = torch.randint(self.resident.facts.vocabulary, (_TOKENS, 3))
        streams: dict[int, list[Float[Tensor, "token position d_model"]]] = {
            k: [] for k in range(n)
        }
        with watched_stream(self.module, n, streams):
            out = self.module(
                input_ids=tokens,
                position_ids=torch.zeros_like(tokens),
                attention_mask=torch.ones_like(tokens),
                use_cache=False,
                output_attentions=True,
            )
        holds: dict[int, bool] = {}
        for k in self.layers:
            log = out.attentions[k].log()
            own = log[:, :, 2, 1] - log[:, :, 2, 0] - log[:, :, 1, 1] + log[:, :, 1, 0]
            x = self.norm(streams[k][0])
            heads = self.model.layer(k)
            q = torch.einsum("tm,hmd->thd", x[:, 2] - x[:, 1], heads.W_Q)
            key = torch.einsum("tm,hmd->thd", x[:, 1] - x[:, 0], heads.W_K)
            holds[k] = proportional(own, torch.linalg.vecdot(q, key))
        return holds

    def _values_hold(self, whole: Observed, bare: Observed, layer: int) -> bool:
        """Compare values and outputs with those of W_V and W_O.

        Values may differ by a constant; outputs also by a factor, or by the scale of a norm.
        """
        heads = self.model.layer(layer)
        z = torch.einsum("tm,hmd->thd", whole.normed[layer], heads.W_V)
        if not close(differences(whole.z[layer]), differences(z)):
            return False
        if self.family.output_norm:
            made = torch.einsum("thd,hdm->tm", bare.z[layer], heads.W_O)
            return close(directions(bare.written[layer]), directions(made))
        made = torch.einsum("thd,hdm->tm", whole.z[layer], heads.W_O)
        return proportional(differences(whole.written[layer]), differences(made))

    def _stream_holds(self, silent: Observed, bare: Observed, layer: int) -> bool:
        """Compare what a block adds to the stream with its heads' outputs and biases.

        Everything else in the block is zero in these passes.
        """
        heads = self.model.layer(layer)
        seen = bare if self.family.output_norm else silent
        added = seen.streams[layer + 1] - seen.streams[layer]
        made = torch.einsum("thd,hdm->tm", seen.z[layer], heads.W_O)
        if self.family.output_norm:
            return close(directions(added), directions(made))
        return close(differences(added), differences(made))


def _random_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return random parameters: gains around 1, biases around 0, matrices that preserve norms.

    Gains differ from 1 and biases from 0, so that leaving one out changes the activations.
    """
    weights = {}
    for name, parameter in module.named_parameters():
        drawn = torch.randn(parameter.shape)
        if parameter.ndim > 1:
            drawn /= min(parameter.shape[-2:]) ** 0.5
        else:
            # Gains are named weight, as matrices are, but have one dimension.
            drawn = 0.3 * drawn + float(name.endswith("weight"))
        weights[name] = drawn
    return weights
