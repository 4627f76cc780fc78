"""YAML as plain data: PyYAML's safe part, within bounds, and with the names and numbers of YAML 1.2.

Anchors, aliases and merges are allowed, and counted as often as they are repeated while the text is read:
what would grow beyond the bounds of `plain_data` is never built.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from perfkit.plain_data import DEEPEST, MOST_VALUES

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = tuple(_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map"))
_LONGEST_NUMBER = 40  #: characters
#: Booleans of YAML 1.1 alone: as values they are read so, as names (`spread: {on: …}`) they are words.
_OLD_BOOLS = r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
_OLD_BOOL = re.compile(_OLD_BOOLS).fullmatch


def load(text: str) -> Any:
    """The data in a YAML text; yaml.YAMLError, with `problem` and `problem_mark`, when it cannot be taken."""
    return yaml.load(text, _Loader)


def dump(value: Any, *, unicode: bool = True, width: int = 80) -> str:
    """Return plain data as YAML, in its own order, which `load` reads back; unicode: without escapes."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=unicode, width=width)


class _Error(yaml.MarkedYAMLError):
    def __init__(self, problem: str, node: Any) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}  # names and values in a finished node, those of aliases too

    def compose_node(self, parent: Any, index: Any) -> Any:
        """See PyYAML."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        if self._depth > DEEPEST:
            raise _Error(f"nested more than {DEEPEST} deep", event)
        self._depth += 1
        node: Any = super().compose_node(parent, index)
        self._depth -= 1
        is_name = isinstance(parent, yaml.MappingNode) and index is None
        if is_name and isinstance(event, yaml.ScalarEvent) and event.tag is None and _OLD_BOOL(event.value):
            node.tag = f"{_TAG}str"
        if isinstance(event, yaml.AliasEvent):
            if node not in self._sizes:
                raise _Error(f"*{event.anchor} contains itself", event)
            self._values += self._sizes[node]
        else:
            self._values += 1
            self._sizes[node] = self._values - before
        if self._values > MOST_VALUES:
            raise _Error(f"more than {MOST_VALUES:,} names and values", event)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """See PyYAML; a name is one word, and given once."""
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise _Error("a list or a mapping cannot be a name", key)
            if key.value in seen:
                raise _Error(f"{key.value!r:.60} is given twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """See PyYAML, which lets through what a constructor stumbles over, such as `!!bool 7`."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):
            kind = node.tag.rpartition(":")[2]
            raise _Error(f"{node.value!r:.60} does not fit its type {kind}", node) from None

    def construct_number(self, node: Any) -> int | float:
        """A number as YAML 1.2 writes it."""
        text = self.construct_scalar(node)
        if len(text) > _LONGEST_NUMBER:
            raise _Error(f"a number of {len(text):,} characters", node)
        if not node.tag.endswith(":int"):
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        return int(text, 0 if text[1:2] in ("x", "o") else 10)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or `_Loader` would not read as a text: `1e3` is none to PyYAML, a number here."""


_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag is None or tag in _PLAIN_TAGS
}
_Loader.add_constructor(f"{_TAG}int", _Loader.construct_number)
_Loader.add_constructor(f"{_TAG}float", _Loader.construct_number)
# In YAML 1.1 `010` is eight, `1:30` is ninety and `2024-01-01` a date; here they are ten and two texts.
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in {
    "null": r"~|null|Null|NULL|",
    "bool": rf"true|True|TRUE|false|False|FALSE|{_OLD_BOOLS}",
    "int": r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}.items():
    for _either in (_Loader, _Dumper):
        _either.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)
