"""The special ids that a checkpoint's own files name.

transformers' config classes have defaults for absent ids, which need not be the model's.
"""

from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.outside import content_of, parsed_json

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
    listed = whole.get("added_tokens")
    added = {
        one.get("content"): one.get("id")
        for one in (listed if isinstance(listed, list) else ())
        if isinstance(one, dict) and isinstance(one.get("content"), str)
    }
    decoder = _part(about, "added_tokens_decoder")
    added |= {
        one.get("content"): int(key)
        for key, one in decoder.items()
        if isinstance(one, dict) and isinstance(one.get("content"), str) and _is_number(key)
    }
    vocabulary = _part(_part(whole, "model"), "vocab") or _json(folder / "vocab.json")
    found = added.get(token, vocabulary.get(token))
    return found if isinstance(found, int) and _is_id(found, rows) else None


def _is_number(key: str) -> bool:
    return key.isdecimal() and key.isascii()


def _part(content: dict[str, Any], key: str) -> dict[str, Any]:
    inner = content.get(key)
    return inner if isinstance(inner, dict) else {}


def _nested(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a multimodal config that describes the language model; else {}."""
    return _part(config, "text_config")


def _is_id(value: Any, rows: int) -> bool:
    # bool is a subclass of int, and `true` would be id 1.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < rows


def _json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if it is absent or cannot be read."""
    try:
        content = parsed_json(content_of(file, InputError), finite=False)
    except (ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
