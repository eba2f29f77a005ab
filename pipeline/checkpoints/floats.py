"""Check that a checkpoint's tensors are finite floating-point numbers and not quantised."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import CheckpointError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Names of dtypes in a safetensors header. Others keep their spelling there.
_IN_HEADERS = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_FLOAT_NAMES = frozenset(str(dtype).removeprefix("torch.") for dtype in FLOATS)

# Tensors that bitsandbytes, GPTQ, AWQ, FP8, HQQ, AQLM, torchao and MXFP4 save beside (or instead
# of) a weight.
_QUANTISED = re.compile(
    r"(^|\.)(SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map"
    r"|quant_state(\..+)?|qweight|qzeros|scales|g_idx|weight_packed|weight_shape|weight_scales"
    r"|W_q|codes|codebooks|_?weight(_|:_?)(qdata|data|scale|zero_point)"
    r"|(gate_up_proj|down_proj)_(blocks|scales)"
    r"|(weight|input|activation|k|v)_(scale|scale_inv|scale_2|zero_point|g_idx))$"
)

_CONFIG_KEYS = ("quantization_config", "compression_config")
# Methods whose models transformers dequantises: `from_pretrained(...).dequantize()`.
_DEQUANTISED = ("bitsandbytes", "compressed-tensors", "fp8", "mxfp4")
_REMEDY = "give the unquantised checkpoint, or restore the file if it should hold floating point"


class QuantisedError(CheckpointError):
    """A checkpoint whose tensors or config.json are those of a quantised model."""


class NonFiniteError(CheckpointError):
    """A checkpoint with NaN or infinite weights; the message is the reason for leaving it out."""


def dtype_name(dtype: torch.dtype | str) -> str:
    """Return the name, such as "float32", of a torch dtype or of one in a safetensors header."""
    return _IN_HEADERS.get(dtype, dtype) if isinstance(dtype, str) else str(dtype).split(".")[-1]


def quantisation_in(config: Mapping[str, Any]) -> str:
    """Return a config's quantisation, such as "quantization_config: gptq 4-bit"; "" for none."""
    # At the top, or in the nested config of a multimodal model's language part.
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for key in _CONFIG_KEYS:
        for said in (part[key] for part in parts if part.get(key)):
            return f"{key}: {_scheme(said)}".rstrip(": ")
    return ""


def as_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without the keys that describe quantisation."""
    return {key: value for key, value in config.items() if key not in _CONFIG_KEYS}


def _scheme(said: object) -> str:
    """Return the method and the bits in a quantization_config, as far as they are given."""
    if not isinstance(said, Mapping):
        return ""
    bits = said.get("bits") or said.get("w_bit") or said.get("weight_bits")
    bits = 8 if said.get("load_in_8bit") else 4 if said.get("load_in_4bit") else bits
    method = said.get("quant_method") or said.get("quantization_method") or said.get("format")
    return " ".join([*([str(method)] if method else []), *([f"{bits}-bit"] if bits else [])])


def refuse_quantised(
    dtypes: Mapping[str, torch.dtype | str],
    floats: Collection[str],
    source: str,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Raise QuantisedError if tensors or config are those of a quantised model.

    dtypes: of all tensors of the checkpoint, by their names in it. floats: the names of those that
    floating-point parameters are read from. config: the checkpoint's own config.json.
    """
    said = quantisation_in(config or {})
    wrong = {
        name: f"holds {dtype} for a floating-point parameter"
        for name in sorted(floats)
        if (dtype := dtype_name(dtypes[name])) not in _FLOAT_NAMES
    }
    found = wrong or {
        name: "belongs to a quantised weight"
        for name in sorted(dtypes)
        if _QUANTISED.search(name) and name not in floats
    }
    parts = []
    if found:
        first, what = next(iter(found.items()))
        more = f" (as do {len(found) - 1} more)" if len(found) > 1 else ""
        parts.append(f"{first} {what}{more}")
    if said:
        parts.append(f"config.json says {said}")
    if parts:
        remedy = _REMEDY if not said else "give the unquantised checkpoint"
        if any(f": {method}" in said for method in _DEQUANTISED):
            remedy += ", or what transformers' dequantize() and save_pretrained make of it"
        raise QuantisedError(f"{source}: {'; '.join(parts)}: {remedy}")


def refuse_unreadable(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError for a tensor that is not a dense array: sparse, meta or quantised."""
    for name, tensor in sorted(tensors.items()):
        if tensor.is_meta:
            what = "has no data (it was saved from the meta device)"
        elif tensor.layout != torch.strided:
            what = f"is sparse ({str(tensor.layout).removeprefix('torch.')})"
        elif tensor.is_quantized:
            what = f"is quantised ({dtype_name(tensor.dtype)})"
        else:
            continue
        raise CheckpointError(f"{source}: {name} {what}, expected a dense tensor: save it densely")


def non_finite(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return tensors with NaN or infinities: by name, their count, such as "3 of 4,096".

    Tensors of other dtypes than `FLOATS` are ignored; `refuse_quantised` checks those.
    """
    found = {}
    for name, tensor in weights.items():
        if tensor.dtype not in FLOATS or tensor.is_meta:
            continue
        # A sum needs no mask as large as the tensor. It may overflow although all numbers are
        # finite; then the mask decides.
        if math.isfinite(float(tensor.sum())):
            continue
        if count := tensor.numel() - int(tensor.isfinite().sum()):
            found[name] = f"{count:,} of {tensor.numel():,}"
    return found


def why_non_finite(found: Mapping[str, str], most: int = 3) -> str:
    """Return the result of `non_finite` as a sentence with the first tensors and their counts."""
    shown = [f"{name} ({count} numbers)" for name, count in list(found.items())[:most]]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"NaN or infinite: {', '.join(shown)}{more}"
