"""The fields of an analysis's `model`: what the `.pth` and `.pt` files of a run lack."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from pipeline.config.faults import Strict, shown, validated


class OwnTensor(Strict):
    """The place of a tensor of one's own model, and its axes.

    name: TransformerLens' name, with `{}` for the number of a block. axes: in the order of the
    file, those that are joined in parentheses, as in `(n_heads d_head) d_model`.
    """

    name: str
    axes: str | None = None


_OwnName = str | OwnTensor


def _is_place(value: Any) -> bool:
    """Return whether a value can be the place of a tensor; None is that of one without a use."""
    if not isinstance(value, dict):
        return value is None or isinstance(value, str | OwnTensor)
    is_named = isinstance(value.get("name"), str) and value.keys() <= {"name", "axes"}
    return is_named and isinstance(value.get("axes"), str | None)


class SavedModel(Strict):
    """Fields of a model's config that its `.pth` and `.pt` files lack, named as in TransformerLens.

    Names, meanings and defaults are those of HookedTransformerConfig, except that `act_fn` and
    `normalization_type` (null: no norm) have no default and must be given if no file has them. A
    value that contradicts a file is an error. ignore: fields of the files' own config that are
    known not to affect the forward pass.

    names: of the tensors of one's own model: "nanogpt", "gpt-lecture", "transformerlens", or a
    dictionary from each name to TransformerLens' name, with `{}` for the number of a block.
    matrices: how one's own model stores its matrices: "out_in" as nn.Linear does, or "in_out" for
    x @ W. norm_first: whether norms precede each layer of one's own model. n_heads: the number of
    heads. n_ctx: the longest input of a model with rotary positions.
    """

    names: str | dict[str, _OwnName | tuple[_OwnName, ...] | None] | None = None
    matrices: Literal["out_in", "in_out"] | None = None
    norm_first: bool = True
    n_heads: int | None = Field(default=None, ge=1)
    n_ctx: int | None = Field(default=None, ge=1)

    act_fn: str | None = None
    normalization_type: str | None = None
    positional_embedding_type: str = "standard"
    eps: float = 1e-5
    use_attn_scale: bool = True
    attn_scale: float = -1.0
    scale_attn_by_inverse_layer_idx: bool = False
    attention_dir: str = "causal"
    parallel_attn_mlp: bool = False
    use_local_attn: bool = False
    attn_types: tuple[str, ...] | None = None
    window_size: int | None = None
    gated_mlp: bool = False
    final_rms: bool = False
    post_embedding_ln: bool = False
    use_normalization_before_and_after: bool = False
    attn_scores_soft_cap: float = -1.0
    output_logits_soft_cap: float = -1.0
    n_key_value_heads: int | None = None
    num_experts: int | None = None
    rotary_dim: int | None = None
    rotary_base: float = 10_000.0
    rotary_adjacent_pairs: bool = False
    load_in_4bit: bool = False
    ignore: tuple[str, ...] = ()

    @field_validator("names", mode="before")
    @classmethod
    def _names_have_places(cls, names: Any) -> Any:
        """Refuse what is no table or dictionary of names, in one sentence for all its types."""
        if names is None or isinstance(names, str):
            return names
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{shown(names)} is neither a table's name nor a dictionary of names")
        for name, given in names.items():
            places = given if isinstance(given, list | tuple) else [given]
            is_nothing = not places or (places is given and None in places)
            if is_nothing or not all(_is_place(one) for one in places):
                raise ValueError(
                    f"{str(name)[:100]!r} has {shown(given)}, expected TransformerLens' name of "
                    "it, {name: ..., axes: ...}, a list of these, or null if it is not used"
                )
        return names

    def given(self) -> dict[str, Any]:
        """Return the fields that were given, without defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


def saved_model(fields: Mapping[str, Any] | None, where: str = "model") -> dict[str, Any]:
    """Return the given fields of a `SavedModel`. Raises InputError if one is not valid."""
    return validated(SavedModel, dict(fields), where).given() if fields else {}
