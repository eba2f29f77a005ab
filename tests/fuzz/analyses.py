"""Mutations of the YAML of an analysis, for fuzzing: `mutated(random)` returns one."""

from random import Random

GOOD = """\
checkpoints: run
store: out.zarr
audit: off
inputs:
  probe: {kind: repeated, block_length: 10, seed: 3, ids: [0, 5]}
  prose: &prose {kind: text, path: prose.txt, length: 64}
measures:
  head_scores.probe:
  token_loss.prose: {early_token: 5, late_token: 60, select: {steps: [0, 1]}}
workers: {count: 2, gpus: 0.5, timeout: 60}
model: {act_fn: relu, eps: 1e-5}
"""
VALUES = [
    "!!int abc", "!!python/object/apply:os.system ['touch canary']", "!!binary x", "!!set {a}",
    "2026-13-45", "9" * 5000, "-1", "1e400", ".nan", ".inf", "true", "on", "0o17", "017", "1_000",
    "1:30", "~", "*prose", "&a [*a]", "[" * 5000, "{a: " * 3000, "- " * 3000, '"\\0"', '"\\uD800"',
    '"\\UFFFFFFFF"', '"\\x1b]0;x\\a"', "'{{ 7 }}'", "s3://KEY:SECRET@bucket/x", "[[a]]", "{1: 2}",
    "{a: 1, a: 2}", "{<<: *prose, kind: text}", "a: b: c", "\t- x", "|\n  x\n ANALYSIS", "? [a]",
    '"/x\\ntouch canary\\n#"', "../../../etc/passwd", "x" * 5000, "%YAML 3.0", "--- x", "\x07",
    "\ufeff", "\u202e", "[1, [2, [3]]]", "{}", "[]", '""', "@x", "`x`", "%x", "!", "&", "*", "|",
]  # fmt: skip
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 9)}]\n" for at in range(1, 12)
)


def mutated(random: Random) -> bytes:
    """Return the bytes of an analysis with one to three faults."""
    text = GOOD.encode()
    for _ in range(random.randint(1, 3)):
        text = random.choice(_MUTATIONS)(text, random)
    return text


def _value(text: bytes, random: Random) -> bytes:
    """Replace the value of one line."""
    lines = text.split(b"\n")
    at = random.randrange(len(lines))
    key, colon, _ = lines[at].partition(b":")
    lines[at] = key + colon + b" " + random.choice(VALUES).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _inner_value(text: bytes, random: Random) -> bytes:
    """Replace one word by a value."""
    words = text.split(b" ")
    words[random.randrange(len(words))] = random.choice(VALUES).encode("utf-8", "surrogatepass")
    return b" ".join(words)


def _byte(text: bytes, random: Random) -> bytes:
    at = random.randrange(len(text) + 1)
    return text[:at] + bytes([random.randrange(256)]) + text[at + random.randint(0, 1) :]


def _cut(text: bytes, random: Random) -> bytes:
    return text[: random.randrange(len(text) + 1)]


def _repeated_line(text: bytes, random: Random) -> bytes:
    lines = text.split(b"\n")
    return b"\n".join([*lines, random.choice(lines)])


def _indentation(text: bytes, random: Random) -> bytes:
    lines = text.split(b"\n")
    lines[random.randrange(len(lines))] += b"\n" + b" " * random.randint(1, 9) + b"x: 1"
    return b"\n".join(lines)


def _whole(text: bytes, random: Random) -> bytes:
    """Return another kind of file: a bomb, another encoding, several documents, nothing."""
    wide = text.decode("utf-8", "replace").encode("utf-16")
    return random.choice([BOMB.encode(), wide, text + b"---\n" + text, b"", b"\0" * 99, text * 300])


_MUTATIONS = (_value, _value, _inner_value, _byte, _cut, _repeated_line, _indentation, _whole)
