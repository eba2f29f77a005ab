"""Changes that models make to their logits after the unembedding, as their configs state them."""

from transformers import PreTrainedConfig

# Cohere and Falcon-H1 multiply logits; Granite divides them.
_FACTORS = ("logit_scale", "lm_head_multiplier")
_DIVISORS = ("logits_scaling",)

# Gemma 2 and 3, RecurrentGemma and xLSTM.
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def logit_factor(config: PreTrainedConfig) -> float:
    """Return the factor of a model's logits, 1 without one."""
    # No code of transformers reads MPT's `logit_scale`.
    factors = () if config.model_type == "mpt" else _numbers(config, _FACTORS)
    factor = 1.0
    for of in factors:
        factor *= of
    for of in _numbers(config, _DIVISORS):
        factor /= of or 1.0
    return factor


def logit_softcap(config: PreTrainedConfig) -> float | None:
    """Return the c of logits c tanh(x / c), None without it."""
    return next(iter(_numbers(config, _CAPS)), None)


def _numbers(config: PreTrainedConfig, names: tuple[str, ...]) -> list[float]:
    found = (getattr(config, name, None) for name in names)
    return [one for one in found if isinstance(one, int | float)]
