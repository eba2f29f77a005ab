"""Read YAML files of people: limits before anything is read, and one sentence for every fault.

The values are those of YAML 1.2 and JSON: `yes`, `no`, `on` and `off` are words, `1e5` is a number,
`017`, `1:30` and `2026-01-31` are words too. (In YAML 1.1, which PyYAML implements, they are
booleans, a word, 15, 90 and a date.)
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import AliasEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from pipeline.errors import InputError
from pipeline.outside import content_of

MOST_BYTES = 200_000
MOST_DEPTH = 40
MOST_VALUES = 10_000  # with those that aliases repeat
_MOST_DIGITS = 400

_TAG = "tag:yaml.org,2002:"
_TEXT, _MERGE = f"{_TAG}str", f"{_TAG}merge"


class _Resolver(BaseResolver):
    """The types of unquoted words, see the module."""


class _Loader(Reader, Scanner, Parser, Composer, SafeConstructor, _Resolver):
    """A loader of plain values: no tags but those of JSON, no duplicate keys, limited in size."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        _Resolver.__init__(self)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node; refuse it if it is nested too deeply."""
        mark, is_alias = self.peek_event().start_mark, self.check_event(AliasEvent)
        if self._depth == MOST_DEPTH:
            raise _refusal(f"values are nested more than {MOST_DEPTH} deep", mark)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and id(node) not in self._sizes:
            raise _refusal("an alias stands within the value that it repeats", mark)
        if not is_alias:
            self._sizes[id(node)] = 1 + sum(self._sizes[id(one)] for one in _children(node))
        if max(self._sizes[id(node)], len(self._sizes)) > MOST_VALUES:
            raise _refusal(f"there are more than {MOST_VALUES:,} values, with aliases", mark)
        return node

    def construct_document(self, node: Node) -> Any:
        """Return the values of a document without duplicate keys."""
        _refuse_duplicates(node)
        return super().construct_document(node)

    def construct_text(self, node: ScalarNode) -> str:
        """Return a text; refuse one with half of a surrogate pair, which no file can hold."""
        text = str(self.construct_scalar(node))
        if any("\ud800" <= one <= "\udfff" for one in text):
            raise _refusal(
                "it holds half of a surrogate pair, which is no character", node.start_mark
            )
        return text

    def construct_number(self, node: ScalarNode) -> int | float:
        """Return a number; refuse one that is written with very many digits, or is no number."""
        text = node.value.replace("_", "")
        try:
            if len(text) > _MOST_DIGITS:
                raise ValueError
            if node.tag == f"{_TAG}float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            return int(text, 0) if text.lower().startswith(("0x", "0o")) else int(text)
        except ValueError:
            shown = text if len(text) < 40 else f"{text[:20]}… ({len(text):,} characters)"
            raise _refusal(f"{shown!r} is no usable number", node.start_mark) from None

    def construct_truth(self, node: ScalarNode) -> bool:
        """Return a boolean."""
        if node.value.lower() not in ("true", "false"):
            raise _refusal(f"{node.value[:40]!r} is neither true nor false", node.start_mark)
        return node.value.lower() == "true"


_Loader.yaml_constructors = {
    f"{_TAG}null": SafeConstructor.construct_yaml_null,
    f"{_TAG}bool": _Loader.construct_truth,
    f"{_TAG}int": _Loader.construct_number,
    f"{_TAG}float": _Loader.construct_number,
    _TEXT: _Loader.construct_text,
    f"{_TAG}seq": SafeConstructor.construct_yaml_seq,
    f"{_TAG}map": SafeConstructor.construct_yaml_map,
    None: SafeConstructor.construct_undefined,
}
_SIGN = "-+0123456789"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+", _SIGN),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*)([eE][-+]?[0-9]+)?", f"{_SIGN}."),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", _SIGN),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", "<<", "<"),
):
    _Resolver.add_implicit_resolver(f"{_TAG}{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Raises InputError if it is absent or no valid mapping."""
    content = parse_yaml(_text_of(path), str(path))
    if content is None:
        raise InputError(f"{path}: is empty, expected keys with values")
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, expected keys with values")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Return the value that a YAML text describes. Raises InputError with the parser's reason."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = " ".join(f"{error.context or ''} {error.problem or ''}".split())[:200]
        raise InputError(f"{where}{at}: is not valid YAML ({reason}): correct it there") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{where} at line {line}: is not valid YAML (it holds the character "
            f"{chr(int(error.character))!a}): remove it"
        ) from None
    except (
        ValueError,
        OverflowError,
    ) as error:  # such as the escape "\UFFFFFFFF", which is no character
        raise InputError(f"{where}: is not valid YAML ({error}): correct it") from None


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes what `read_yaml` would not read as the same text."""

    def ignore_aliases(self, data: Any) -> bool:
        """Return True: values that occur twice are written twice."""
        return True

    def represent_text(self, text: str) -> ScalarNode:
        """Return a text in quotes unless it is one line of words."""
        is_plain = (
            text.isprintable() and _Resolver().resolve(ScalarNode, text, (True, False)) == _TEXT
        )
        return self.represent_scalar(_TEXT, text, style=None if is_plain else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def dump_yaml(content: Any) -> str:
    """Return YAML that `read_yaml` reads as the same: printable, with one line for each value."""
    return _dumped(content, flow=False)


def flow_yaml(value: Any) -> str:
    """Return one line of YAML for a value, such as `{kind: repeated, block_length: 25}`."""
    # A text or a number alone is followed by a line that marks the end of the document.
    return _dumped(value, flow=True).removesuffix("...\n").rstrip("\n")


def _dumped(content: Any, flow: bool) -> str:
    style: dict[str, Any] = {"sort_keys": False, "width": math.inf, "default_flow_style": flow}
    plain = yaml.dump(content, Dumper=_Dumper, allow_unicode=True, **style)
    if plain.replace("\n", "").isprintable():
        return plain
    return yaml.dump(content, Dumper=_Dumper, **style)


def _text_of(path: Path) -> str:
    """Return the text of a regular UTF-8 file of limited size. Raises InputError."""
    try:
        content = content_of(path, InputError, MOST_BYTES, remedy="give a YAML file of settings")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): try again") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} at line {line}: is not valid YAML (it is no UTF-8 text): save it as UTF-8"
        ) from None


def _refuse_duplicates(root: Node) -> None:
    """Raise for a mapping with a key that is no text, or is given twice, also by merging."""
    pending, seen = [root], set[int]()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        pending += _children(node)
        if isinstance(node, MappingNode):
            _keys_of(node)


def _keys_of(mapping: MappingNode, depth: int = 0) -> dict[str, ScalarNode]:
    """Return the keys of a mapping, those that it merges included."""
    found: dict[str, ScalarNode] = {}
    merges = False
    for key, value in mapping.value:
        if key.tag == _MERGE and merges:
            raise _refusal("the key '<<' is given twice", key.start_mark)
        if key.tag == _MERGE:
            merges = True
            new = _merged(value, depth)
        elif isinstance(key, ScalarNode) and key.tag == _TEXT:
            new = [(key.value, key)]
        else:
            shown = f" {key.value[:40]!r}" if isinstance(key, ScalarNode) else ""
            raise _refusal(f"the key{shown} is no text: write it in quotes", key.start_mark)
        for name, at in new:
            if name in found:
                lines = f"lines {found[name].start_mark.line + 1} and {at.start_mark.line + 1}"
                raise _refusal(f"the key {name[:80]!r} is given twice, {lines}", key.start_mark)
            found[name] = at
    return found


def _merged(value: Node, depth: int) -> Iterator[tuple[str, ScalarNode]]:
    sources = value.value if isinstance(value, SequenceNode) else [value]
    for source in sources:
        if not isinstance(source, MappingNode) or depth > MOST_DEPTH:
            raise _refusal("'<<' merges something that is no mapping", value.start_mark)
        yield from _keys_of(source, depth + 1).items()


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _refusal(problem: str, mark: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, mark)
