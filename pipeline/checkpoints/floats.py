"""Whether a checkpoint's tensors are floating-point numbers as they were trained, and finite."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import CheckpointError

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# By the name that safetensors gives them in a header. Others are named as they are spelled there.
_IN_HEADERS = {
    "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_FLOAT_NAMES = frozenset(str(dtype).removeprefix("torch.") for dtype in FLOATS)

# What bitsandbytes, GPTQ, AWQ, FP8 and HQQ formats save beside (or in place of) a weight.
_QUANTISED = re.compile(
    r"(^|\.)(SCB|weight_format|absmax|nested_absmax|quant_map|nested_quant_map"
    r"|quant_state(\..+)?|qweight|qzeros|scales|g_idx|weight_packed|weight_shape"
    r"|(weight|input|activation|k|v)_(scale|scale_inv|scale_2|zero_point|g_idx))$"
)

_CONFIG_KEYS = ("quantization_config", "compression_config")
_REMEDY = "give the unquantised checkpoint, or restore the file if it should hold floating point"


class QuantisedError(CheckpointError):
    """A checkpoint's tensors, or its config.json, are not those of a floating-point model."""


class NonFiniteError(CheckpointError):
    """A checkpoint's weights are NaN or infinite; the message is the reason to leave it out."""


def dtype_name(dtype: torch.dtype | str) -> str:
    """The name of a torch dtype, or of one in a safetensors header: "float32", "int8"."""
    return _IN_HEADERS.get(dtype, dtype) if isinstance(dtype, str) else str(dtype).split(".")[-1]


def quantisation_in(config: Mapping[str, Any]) -> str:
    """What a config.json says of quantisation: "quantization_config: gptq 4-bit"; "" for none."""
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    for key in _CONFIG_KEYS:
        for said in (part[key] for part in parts if part.get(key)):
            return f"{key}: {_scheme(said)}".rstrip(": ")
    return ""


def as_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what says how its weights are quantised: the architecture alone."""
    return {key: value for key, value in config.items() if key not in _CONFIG_KEYS}


def _scheme(said: object) -> str:
    """The method and the bits in a quantization_config, as far as it names them."""
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
    """Raise QuantisedError unless the tensors are the weights as they were trained.

    dtypes: of all tensors of the checkpoint, by their names there. floats: the names of those that
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
        raise QuantisedError(f"{source}: {'; '.join(parts)}: {remedy}")


def refuse_unreadable(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError for a tensor without a plain array of numbers: sparse, meta, packed."""
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
    """Tensors with NaN or infinities: by name, how many numbers of how many ("3 of 4,096").

    Those of other dtypes than `FLOATS` are left out: `refuse_quantised` is about these.
    """
    found = {}
    for name, tensor in weights.items():
        if tensor.dtype not in FLOATS or tensor.is_meta:
            continue
        # A sum needs no mask as large as the tensor. It may overflow although all is finite.
        if math.isfinite(float(tensor.sum())):
            continue
        if count := tensor.numel() - int(tensor.isfinite().sum()):
            found[name] = f"{count:,} of {tensor.numel():,}"
    return found


def why_non_finite(found: Mapping[str, str], most: int = 3) -> str:
    """The result of `non_finite` in words, the first tensors by name with their counts."""
    shown = [f"{name} ({count} numbers)" for name, count in list(found.items())[:most]]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"NaN or infinite: {', '.join(shown)}{more}"
