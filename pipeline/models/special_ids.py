"""The special ids that a checkpoint's own files name.

transformers' config classes have defaults for absent ids, which need not be the model's.
"""

import json
from pathlib import Path
from typing import Any

_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def named_special_ids(folder: str | Path, rows: int) -> tuple[int | None, tuple[int, ...]]:
    """Return the BOS id in the files of a checkpoint, if any, and all special ids in them.

    Reads config.json, generation_config.json and, for BOS, tokenizer_config.json; the first that
    names a BOS id decides. Ids beyond the `rows` of the embedding are left out.
    """
    place = Path(folder)
    config = _json(place / "config.json")
    named: list[dict[str, Any]] = [config, _nested(config), _json(place / "generation_config.json")]
    bos = next(
        (one["bos_token_id"] for one in named if _is_id(one.get("bos_token_id"), rows)), None
    )
    if bos is None:
        bos = _tokenizer_bos(place, rows)
    # eos_token_id may be a list, in the configs of Llama 3 and others.
    values = [one.get(key) for one in named for key in _KEYS]
    flat = [id_ for v in [*values, bos] for id_ in (v if isinstance(v, list) else [v])]
    return bos, tuple(sorted({id_ for id_ in flat if _is_id(id_, rows)}))


def _tokenizer_bos(folder: Path, rows: int) -> int | None:
    """Return the id of tokenizer_config.json's BOS token, looked up in the tokenizer's files."""
    about = _json(folder / "tokenizer_config.json")
    token = about.get("bos_token")
    token = token.get("content") if isinstance(token, dict) else token
    if not isinstance(token, str):
        return None
    whole = _json(folder / "tokenizer.json")
    added = {t.get("content"): t.get("id") for t in whole.get("added_tokens") or ()}
    decoder = about.get("added_tokens_decoder") or {}
    added |= {t.get("content"): int(key) for key, t in decoder.items()}
    vocabulary = (whole.get("model") or {}).get("vocab") or _json(folder / "vocab.json")
    in_vocabulary = vocabulary.get(token) if isinstance(vocabulary, dict) else None
    found = added.get(token, in_vocabulary)
    return found if isinstance(found, int) and _is_id(found, rows) else None


def _nested(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a multimodal config that describes the language model; else {}."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else {}


def _is_id(value: Any, rows: int) -> bool:
    # bool is a subclass of int, and `true` would be id 1.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < rows


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
