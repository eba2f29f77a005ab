"""The logits of the whole table at every checkpoint, and restricted loss without hindsight."""

import numpy as np

from pipeline.measures.base import Context, Setting
from pipeline.measures.modular import fourier
from pipeline.measures.modular.keys import key_frequencies_by_neuron_logit
from pipeline.measures.modular.pairs import PairTable
from pipeline.measures.modular.table import TableMeasure
from pipeline.schema import Variable


class TableLogits(TableMeasure):
    """Logits of all pairs, for principal components over checkpoints.

    - `logits`: at '=', its own logit dropped; without their mean over the residues, which changes
      no probability. One checkpoint takes 4 p^3 bytes before compression.
    - `restricted_loss_own_keys`: `restricted_loss` of `modular_addition`, with the key frequencies
      of the same checkpoint in place of the last one's, so that nothing of it lies in the future.
      NaN where W_L is not finite, and for operations other than add, subtract and multiply mod a
      prime.
    """

    name = "table_logits"
    version = 1
    needs_waves = ("restricted_loss_own_keys",)
    variables = (
        Variable("logits", ("step", "pair", "residue"), "1",
                 "Logits of the residues, less their mean."),
        Variable("restricted_loss_own_keys", ("step",), "nats",
                 "Restricted loss with the key frequencies of the same step.", dtype="float64"),
    )  # fmt: skip

    def coordinates(self, setting: Setting) -> dict[str, np.ndarray]:
        """Return the pairs and residues."""
        p = setting.input.attributes["p"]
        return {"pair": np.arange(p * p), "residue": np.arange(p)}

    def compute(self, context: Context) -> dict[str, np.ndarray]:
        table = PairTable.of(context.record)
        logits = table.whole.logits - table.whole.logits.mean(dim=1, keepdim=True)
        keys = key_frequencies_by_neuron_logit(table.acting(context.weights), self.key_share)
        restricted = np.array(np.nan)
        if keys is not None and table.has_waves:
            waves = fourier.projected(table.by_answer, keys) + table.mean_logits
            restricted = table.loss_by_answer(waves).mean().cpu().numpy()
        return {"logits": logits.float().cpu().numpy(), "restricted_loss_own_keys": restricted}
