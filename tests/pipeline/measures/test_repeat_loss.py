"""Losses of new and repeated tokens, distinguished by comparing tokens."""

import numpy as np
import pytest
import torch

from pipeline.analysis.inputs import make_input
from pipeline.config import RepeatedInput
from pipeline.measures.repeat_loss import RepeatLoss
from tests.pipeline.measures.measuring import measured


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("repeats", [2, 3])
def test_losses_are_means_over_new_and_over_foretold_tokens(hand_built, bos, repeats):
    spec = RepeatedInput(block_length=5, repeats=repeats, sequences=4, bos=bos)
    made = make_input("repeated", spec, "", hand_built.facts)
    found = measured(RepeatLoss(), hand_built, made)
    with torch.no_grad():
        log_p = hand_built.module(torch.from_numpy(made.tokens)).logits.log_softmax(-1)
    new, foretold = [], []
    for s, row in enumerate(made.tokens.tolist()):
        for i in range(bos + 1, len(row)):
            loss = -log_p[s, i - 1, row[i]].item()
            if row[i] not in row[:i]:
                new.append(loss)
            elif row[i - 1] in row[: i - 1]:
                foretold.append(loss)
    assert found["first"] == pytest.approx(np.mean(new), abs=1e-5)
    assert found["repeated"] == pytest.approx(np.mean(foretold), abs=1e-5)
    assert found["gain"] == pytest.approx(np.mean(new) - np.mean(foretold), abs=1e-5)
