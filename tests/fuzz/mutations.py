"""Damage files: raw bytes, JSON values, headers, archives, and what stands under a file's name.

`mutate` is a function of the file and of a random generator alone, so that a seed repeats it.
"""

import io
import json
import os
import pickle
import random
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Random = random.Random
CANARY = "ONTOGENY_FUZZ_CANARY"  # names the file that code in a checkpoint makes

_RAW = {  # written into JSON as they stand
    "1e400": "1e400", "-1e400": "-1e400", "nan": "NaN", "infinity": "Infinity",
    "digits": "9" * 5000, "deep": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 3000 + "1" + "}" * 3000,
}  # fmt: skip
_VALUES: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 7, 2**31, 2**63, 2**64, 10**9, 10**12, 10**30, -(2**63), 0.5, 1e-300, 1e300,
    True, False, None, "", "768", "a\0b", "\ud800", "\x1b]0;x\x07", "../../etc/passwd",
    "x" * 10_000, [], {}, [[]], [1], {"a": 1}, [None] * 3,
)  # fmt: skip
_HOSTILE_KEYS: tuple[tuple[str, Any], ...] = (
    ("auto_map", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
    ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("quantization_config", 7), ("num_labels", 10**9), ("id2label", {"x": 1}), ("id2label", [1]),
    ("layer_types", ["x"] * 5), ("rope_scaling", {"type": "dynamic", "factor": "x"}),
    ("rope_parameters", {"rope_type": "nobody"}), ("rope_parameters", 7), ("text_config", {"a": 1}),
    ("torch_dtype", "nothing"), ("dtype", "os.system"), ("_attn_implementation", "evil/kernel"),
    ("attn_implementation", "flash_attention_9"), ("architectures", ["Evil"]), ("architectures", 3),
    ("model_type", "gpt2"), ("model_type", "bert"), ("model_type", "mamba"), ("model_type", 3),
    ("model_type", "clip"), ("model_type", "whisper"), ("head_dim", 10**9), ("vocab_size", 10**12),
    ("hidden_size", 10**12), ("num_hidden_layers", 10**9), ("num_attention_heads", 0),
    ("tie_word_embeddings", "yes"), ("pad_token_id", 10**12), ("hidden_act", "os.system"),
    ("use_return_dict", 5), ("tokenizer_class", "Evil"), ("added_tokens_decoder", {"x": {}}),
    ("chat_template", "{{ ''.__class__.__mro__ }}"), ("transformers_version", 5), ("is_decoder", 3),
    ("max_position_embeddings", 10**18), ("output_attentions", True), ("problem_type", "x"),
    ("__metadata__", 3), ("num_input_tokens_seen", 1e300), ("weight_map", {"a": "/"}),
)  # fmt: skip


def _one_of(random_: Random, words: str) -> str:
    return random_.choice(words.split())


def mutate(file: Path, random_: Random) -> str:
    """Damage one file; return what was done."""
    kinds: list[Callable[[Path, Random], str]] = [_bytes, _bytes, _another_kind]
    if file.suffix == ".json":
        kinds = [_bytes, _another_kind, *[_json] * 6]
    elif file.suffix == ".safetensors":
        kinds = [_bytes, _bytes, _another_kind, *[_header] * 5]
    elif file.suffix in (".pth",) or file.name == "pytorch_model.bin":
        kinds = [_bytes, _bytes, _another_kind, *[_archive] * 3, *[_pickle] * 3]
    elif file.suffix == ".npy":
        kinds = [_bytes, _bytes, _another_kind, *[_array] * 4]
    elif file.suffix == ".yaml":
        kinds = [_bytes, _another_kind, *[_yaml] * 4]
    chosen = random_.choice(kinds)
    return f"{chosen.__name__.strip('_')}: {chosen(file, random_)}"


def _bytes(file: Path, random_: Random) -> str:
    content = bytearray(file.read_bytes())
    kind = random_.choice(
        [
            "flip",
            "flips",
            "cut",
            "insert",
            "remove",
            "zeros",
            "repeat",
            "append",
            "random",
            "empty",
            "page",
            "pointer",
            "prefix",
            "0xff",
        ]
    )
    at = random_.randrange(len(content) or 1)
    if random_.random() < 0.5:  # most of what is decided is decided in the first bytes
        at = min(at, random_.randrange(300))
    few = random_.randrange(1, 40)
    match kind:
        case "flip" | "flips":
            for _ in range(1 if kind == "flip" else few):
                if content:
                    spot = random_.randrange(min(len(content), random_.choice((64, 10**9))))
                    content[spot] ^= 1 << random_.randrange(8)
        case "cut":
            del content[at:]
        case "insert":
            content[at:at] = random_.randbytes(few)
        case "remove":
            del content[at : at + few]
        case "zeros":
            content[at : at + few] = bytes(few)
        case "0xff":
            content[at : at + few] = b"\xff" * few
        case "repeat":
            content[at:at] = content[at : at + few] * random_.randrange(1, 50)
        case "append":
            content += random_.randbytes(few)
        case "random":
            content = bytearray(random_.randbytes(random_.randrange(2000)))
        case "empty":
            content = bytearray()
        case "page":
            content = bytearray(b"<!DOCTYPE html><html>404</html>")
        case "pointer":
            content = bytearray(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
        case "prefix":
            content[:8] = struct.pack("<Q", random_.choice((0, 1, 2**16, 2**31, 2**62, 10**8)))
    file.write_bytes(content)
    return f"{kind} at {at}"


def _another_kind(file: Path, random_: Random) -> str:
    """Replace a file by something else under its name."""
    kind = random_.choice(
        [
            "gone",
            "folder",
            "pipe",
            "socket",
            "passwd",
            "loop",
            "zero",
            "dangling",
            "sparse",
            "sparse-whole",
            "renamed",
            "denied",
            "full-folder",
        ]
    )
    if kind == "sparse":
        os.truncate(file, 100 * 10**9)
        return kind
    if kind == "denied":
        file.chmod(0)
        return kind
    content = file.read_bytes()
    file.unlink()
    match kind:
        case "folder":
            file.mkdir()
        case "full-folder":
            file.mkdir()
            (file / file.name).write_bytes(content)
        case "pipe":
            os.mkfifo(file)
        case "socket":
            with socket.socket(socket.AF_UNIX) as bound:
                before = Path.cwd()
                os.chdir(file.parent)  # a path may be longer than an address of a socket
                bound.bind(file.name)
                os.chdir(before)
        case "passwd":
            file.symlink_to("/etc/passwd")
        case "loop":
            file.symlink_to(file.name)
        case "zero":
            file.symlink_to("/dev/zero")
        case "dangling":
            file.symlink_to("nowhere")
        case "sparse-whole":
            file.touch()
            os.truncate(file, 100 * 10**9)
        case "renamed":
            file.with_name(random_.choice(("x\n.bin", "\x1b[31m", "pytorch_model.bin",
                                           "model.safetensors"))).write_bytes(content)  # fmt: skip
    return kind


def _json(file: Path, random_: Random) -> str:
    text, what = mutated_json(json.loads(file.read_text()), random_)
    file.write_bytes(text)
    return what


def mutated_json(value: Any, random_: Random) -> tuple[bytes, str]:
    """Return a JSON text with one damage, and its name."""
    kind = _one_of(
        random_,
        "value value raw remove double key hostile hostile other case",
    )
    if kind == "other":
        value = random_.choice(_VALUES)
        return json.dumps(value).encode(), f"{kind} {value!r:.40}"
    parent, key = _somewhere(value, random_)
    what: Any = key
    if parent is None:
        return b"7", "other"
    if kind == "value":
        what = parent[key] = random_.choice(_VALUES)
    elif kind == "remove":
        del parent[key]
    elif kind == "hostile" and isinstance(value, dict):
        what = random_.choice(_HOSTILE_KEYS)
        value[what[0]] = what[1]
    elif kind == "case" and isinstance(parent, dict):
        parent[random_.choice((key.upper(), "", "a\0b", "x" * 5000, "\ud800"))] = parent.pop(key)
    elif kind == "raw":
        what = random_.choice(list(_RAW))
        parent[key] = "@@@"
        return json.dumps(value).replace('"@@@"', _RAW[what]).encode(), f"{kind} {what} at {key!r}"
    elif kind in ("double", "key") and isinstance(parent, dict):
        text = json.dumps(value)
        spelt = json.dumps(key)
        return text.replace(
            spelt, f"{spelt}: {random_.choice(('1', '[]'))}, {spelt}", 1
        ).encode(), (f"double {key!r}")
    return json.dumps(value).encode(), f"{kind} {key!r:.40} {what!r:.60}"


def _somewhere(value: Any, random_: Random) -> tuple[Any, Any]:
    """Return a random container within a JSON value and one of its keys; None if it has none."""
    parent, key = None, None
    while isinstance(value, dict | list) and value:
        parent = value
        key = random_.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value = parent[key]
        if random_.random() < 0.3:
            break
    return parent, key


def _header(file: Path, random_: Random) -> str:
    """Damage the header of a safetensors file, whose length stays right."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    tensors = [name for name in header if name != "__metadata__"]
    facts = header[random_.choice(tensors)]
    start, stop = facts["data_offsets"]
    kind = _one_of(
        random_,
        "dtype shape offsets json json swap transpose name sparse",
    )
    if kind == "dtype":
        facts["dtype"] = random_.choice((
            "I32", "U32", "F16", "BF16", "F64", "BOOL", "I8", "C64", "F8_E4M3", "F4", "X", "",
            "F32\0", 5, None,
        ))  # fmt: skip
    elif kind == "shape":
        facts["shape"] = random_.choice((
            [], [-1], [2**64], [2**40, 2**40], [0], [1, *facts["shape"]], [-2, -8], [True], [1.0],
            ["1"], None, 3,
        ))  # fmt: skip
    elif kind == "offsets":
        facts["data_offsets"] = random_.choice((
            [stop, start], [0, stop], [start, 10**12], [-1, stop], [start], [], None,
            [start + 4, stop + 4],
        ))  # fmt: skip
    elif kind == "swap":
        other = header[random_.choice(tensors)]
        facts["data_offsets"], other["data_offsets"] = other["data_offsets"], facts["data_offsets"]
    elif kind == "transpose":
        facts["shape"] = facts["shape"][::-1]
    elif kind == "name":
        name = random_.choice(tensors)
        header[random_.choice(("a\0b", "", "\ud800", "model.x", "x" * 9999))] = header.pop(name)
    text = json.dumps(header).encode()
    if kind == "json":
        text, kind = mutated_json(header, random_)
    elif kind == "sparse":  # as long as its header says, and larger than any memory
        shape = [10**6, 25_000]
        end = len(data)
        header["extra"] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 10**11]}
        text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    if kind == "sparse":
        os.truncate(file, 8 + len(text) + len(data) + 10**11)
    return kind


class _Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self._reduced = call, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def _evil(random_: Random) -> Any:
    """Return an object whose pickle would make the file that CANARY names."""
    canary = os.environ[CANARY]
    return random_.choice((
        _Evil(os.system, f"touch {canary}"), _Evil(exec, f"open({canary!r}, 'w')"),
        _Evil(eval, f"open({canary!r}, 'w')"), _Evil(open, canary, "w"),
        _Evil(Path.touch, Path(canary)),
    ))  # fmt: skip


_OBJECTS = (
    "code", "code-bare", "list", "number", "keys", "sparse", "meta", "strided", "nested",
    "integers", "complex", "bytes", "many", "quantised", "shared", "nan", "strings", "0-d",
    "bytearray", "half",
)  # fmt: skip


def _pickle(file: Path, random_: Random) -> str:
    """Save other objects than tensors by name."""
    kind = random_.choice(_OBJECTS)
    plain = {"model.embed_tokens.weight": torch.zeros(3, 4), "lm_head.weight": torch.ones(3, 4)}
    try:
        state = torch.load(file, weights_only=True)
    except Exception:
        state = plain
    inner = state["model"] if isinstance(state.get("model"), dict) else state
    first = next(iter(inner))
    content: Any = state
    match kind:
        case "code":
            inner[first] = _evil(random_)
        case "code-bare":
            file.write_bytes(pickle.dumps(_evil(random_), protocol=random_.choice((0, 2, 4))))
            return kind
        case "list":
            content = [*inner.values()]
        case "number":
            content = 7
        case "keys":
            inner[7] = inner.pop(first)
        case "sparse":
            inner[first] = torch.zeros(10**6, 10**6, layout=torch.sparse_coo)
        case "meta":
            inner[first] = torch.empty(10**5, 10**6, device="meta")
        case "strided":
            inner[first] = torch.zeros(1).expand(10**6, 10**6)
        case "nested":
            inner[first] = {"a": {"b": [inner[first]]}}
        case "integers":
            inner[first] = inner[first].to(torch.int32)
        case "complex":
            inner[first] = inner[first].to(torch.complex64)
        case "bytes":
            inner[first] = b"abc"
        case "many":
            content["more"] = [[] for _ in range(10**6)]
        case "quantised":
            inner[first] = torch.quantize_per_tensor(inner[first].float(), 0.1, 0, torch.qint8)
        case "shared":
            inner |= dict.fromkeys(inner, inner[first])
        case "nan":
            inner[first] = torch.full_like(inner[first], torch.nan)
        case "strings":
            inner["x" * 10**6] = "y" * 10**6
        case "0-d":
            inner[first] = torch.tensor(3.0)
        case "bytearray":
            inner[first] = _Evil(bytearray, 2**31 - 1)
        case "half":
            inner[first] = inner[first].half()
    torch.save(content, file, _use_new_zipfile_serialization=random_.random() < 0.7)
    return kind


def _archive(file: Path, random_: Random) -> str:
    """Write the entries of a zip archive again, with one damage."""
    if not zipfile.is_zipfile(file):
        return _bytes(file, random_)
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    kind = random_.choice(
        [
            "deflated",
            "bomb",
            "pickle-bomb",
            "pickle",
            "pickle",
            "pickle",
            "lost",
            "renamed",
            "short",
            "extra",
            "claims",
            "order",
        ]
    )
    chosen = random_.choice(list(entries))
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    how = zipfile.ZIP_STORED
    match kind:
        case "deflated":
            how = zipfile.ZIP_DEFLATED
        case "bomb" | "pickle-bomb":
            how = zipfile.ZIP_DEFLATED
            entries[chosen if kind == "bomb" else pickled] = bytes(700 * 2**20)
        case "pickle":
            damaged = bytearray(entries[pickled])
            for _ in range(random_.randrange(1, 6)):
                damaged[random_.randrange(len(damaged))] = random_.randrange(256)
            entries[pickled] = bytes(damaged)
        case "lost":
            del entries[chosen]
        case "renamed":
            entries["../../" + chosen] = entries.pop(chosen)
        case "short":
            entries[chosen] = entries[chosen][: len(entries[chosen]) // 2]
        case "extra":
            entries |= {f"{pickled}/{number}": b"x" for number in range(random_.choice((1, 3000)))}
        case "order":
            with_byteorder = next((name for name in entries if name.endswith("byteorder")), chosen)
            entries[with_byteorder] = random_.choice((b"big", b"middle", b"\xff"))
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how, compresslevel=1) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    content = made.getvalue()
    if kind == "claims":  # a size of an entry in the table of contents
        at = content.rfind(b"PK\x01\x02")
        size = random_.choice((2**32 - 1, 10**9))
        content = content[: at + 20] + struct.pack("<LL", size, size) + content[at + 28 :]
    file.write_bytes(content)
    return f"{kind} {chosen}"


def _array(file: Path, random_: Random) -> str:
    ids = np.load(file)
    kind = random_.choice(
        [
            "objects",
            "float",
            "header",
            "header",
            "ids",
            "3-d",
            "strings",
            "shape",
            "unsigned",
            "columns",
            "flat",
            "structured",
            "bool",
            "empty",
        ]
    )
    match kind:
        case "objects":
            np.save(file, np.array([_evil(random_)], dtype=object), allow_pickle=True)
        case "float":
            np.save(file, ids.astype(float))
        case "header":
            content = bytearray(file.read_bytes())
            content[random_.randrange(128)] = random_.randrange(256)
            file.write_bytes(content)
        case "shape":
            wanted = random_.choice((b"(4, 800000000)", b"(-4, 8)", b"(4,,8)", b"(" * 50, b"10**9",
                                     b"(4, 8" + b"0" * 60 + b")", b"[4, 8]"))  # fmt: skip
            file.write_bytes(file.read_bytes().replace(b"(4, 8)", wanted))
        case "ids":
            ids[0, 0] = random_.choice((-1, 10**6, 2**62))
            np.save(file, ids)
        case "3-d":
            np.save(file, ids[None])
        case "strings":
            np.save(file, ids.astype("U20"))
        case "unsigned":
            np.save(file, np.full((4, 8), 2**64 - 1, np.uint64))
        case "columns":
            np.save(file, np.asfortranarray(ids))
        case "flat":
            np.save(file, ids.ravel())
        case "structured":
            np.save(file, np.zeros(4, dtype=[("a", "i4"), ("b", "O")]), allow_pickle=True)
        case "bool":
            np.save(file, ids > 3)
        case "empty":
            np.save(file, ids[:0])
    return kind


_YAML = (
    "a: &a [x, x]\nb: &b [*a, *a]\n", "!!python/object/apply:os.system [touch {canary}]",
    "[" * 5000, "- " * 5000, "steps: " + "9" * 6000, "steps: 2026-13-45", "steps: !!int abc",
    "? [a]\n: b",
    "steps: .inf", "steps: .nan", "\x00", "\ufeffsteps: 3", "a: *nobody", "{a: b",
    "%YAML 9.9\n---\n",
    "steps: yes", "<<: [1]", "steps: 0x" + "f" * 5000, "steps: 1_0:59:59", "name: \"\\ud800\"",
    "task: {kind: modular_arithmetic, p: 1000000000}", "---\n---\n", "!!binary x", "&a [*a]",
)  # fmt: skip


def _yaml(file: Path, random_: Random) -> str:
    lines = file.read_text().splitlines()
    kind = _one_of(
        random_,
        "add add alone double value remove bomb",
    )
    more = random_.choice(_YAML).replace("{canary}", os.environ[CANARY])
    at = random_.randrange(len(lines))
    if kind == "add":
        lines.insert(at, more)
    elif kind == "alone":
        lines = [more]
    elif kind == "double":
        lines.append(lines[at])
    elif kind == "value":
        value = random_.choice(
            ("-1", "true", "1" + "0" * 22, "[1]", "{}", "null", ".inf", "1e400", "'3'")
        )
        lines[at] = f"{lines[at].partition(':')[0]}: {value}"
    elif kind == "remove":
        del lines[at]
    elif kind == "bomb":
        lines += ["b0: &b0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 9)]
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return f"{kind} {more[:30]!r}"
