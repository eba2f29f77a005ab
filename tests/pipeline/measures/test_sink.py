"""Attention to the first token and its entropy against an explicit softmax, sinks included."""

import numpy as np
import pytest
import torch

from pipeline.engine.kernels import attend
from pipeline.engine.masks import causal_mask
from pipeline.engine.record import Entropy, KeyPosition, Record
from pipeline.engine.reductions import FromScores
from pipeline.inputs import Input
from pipeline.measures.sink import Sink
from pipeline.models.resident import Resident
from tests.pipeline.families import FAMILIES, eager_model, matrices
from tests.pipeline.measures.measuring import measured, of_record


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("with_sinks", [True, False])
def test_entropy_is_that_of_the_keys_in_a_softmax_with_the_sinks_column(softcap, with_sinks):
    torch.manual_seed(0)
    q, k = (torch.randn(2, 3, 9, 4, dtype=torch.float64) for _ in range(2))
    sinks = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64) if with_sinks else None
    _, lse = attend(q, k, k, None, 0.7, softcap, sinks)
    found = FromScores(q, k, lse, 0.7, softcap, causal_mask(q.device)).entropy()
    scores = 0.7 * q @ k.mT
    if softcap is not None:
        scores = softcap * (scores / softcap).tanh()
    scores += torch.full((9, 9), -torch.inf, dtype=torch.float64).triu(1)
    if sinks is not None:
        scores = torch.cat([scores, sinks[None, :, None, None].expand(2, 3, 9, 1)], dim=-1)
    p = scores.softmax(-1)[..., :9]
    torch.testing.assert_close(found, torch.special.entr(p).sum(-1))


def test_one_query_two_keys_and_a_sink_by_hand():
    # Scores 0 and log 2, sink log 3: 1/6, 1/3 and, to no key, 1/2.
    q = torch.tensor([[[[0.0], [1.0]]]], dtype=torch.float64)
    k = torch.tensor([[[[0.0], [np.log(2.0)]]]], dtype=torch.float64)
    sink = torch.tensor([np.log(3.0)], dtype=torch.float64)
    _, lse = attend(q, k, k, None, 1.0, sinks=sink)
    found = FromScores(q, k, lse, 1.0, None, None).entropy()[0, 0, 1]
    assert float(found) == pytest.approx(np.log(6) / 6 + np.log(3) / 3)


def test_both_variables_are_of_what_gpt_oss_attends_with():
    model = eager_model(FAMILIES["gpt_oss"]())
    tokens = np.random.default_rng(0).integers(3, 96, (2, 12))
    resident = Resident(model.config, dtype="float64")
    resident.swap(model.state_dict())
    found = measured(Sink(), resident, Input("repeated", "text", tokens))
    p, _, _ = matrices(model, torch.from_numpy(tokens))
    assert float(p.sum(-1).max()) < 1  # the sinks have their part
    np.testing.assert_allclose(found["first_token"], p[..., 1:, 0].mean((1, 3)), rtol=1e-6)
    entropy = torch.special.entr(p[..., 1:, :]).sum(-1).mean((1, 3))
    np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-6)


def test_padding_is_left_out_by_its_place_and_nan_of_the_model_is_not():
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    made = Input("text", "text", np.zeros((2, 3), np.int64), {"attention_mask": mask})
    of = torch.tensor([[[9.0, 1.0, 2.0]], [[9.0, 6.0, torch.nan]]])[None]
    attention = {KeyPosition(0): of, Entropy(): of.clone()}
    found = of_record(Sink(), Record(made, attention=attention))
    assert found["first_token"] == found["entropy"] == [[3.0]]
    attention[Entropy()][0, 0, 0, 2] = torch.nan
    found = of_record(Sink(), Record(made, attention=attention))
    assert found["first_token"] == [[3.0]] and np.isnan(found["entropy"]).all()
