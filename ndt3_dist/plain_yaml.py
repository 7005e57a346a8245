"""YAML 1.2 as users write it: 1e-4 is a number, `no` and 2026-11-27 are text.

A number keeps the text that it was written as, so that a name may look like one: `12e4567` in a
field of text stays `12e4567` (`as_text`).

Source: YAML 1.2.2, section 10.3 (core schema).
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml


class WrittenInt(int):
    """An integer with its text."""

    text: str


class WrittenFloat(float):
    """A float with its text."""

    text: str


class KeyTwice(yaml.constructor.ConstructorError):
    """A key that a mapping has twice."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of the core schema."""

    yaml_implicit_resolvers: dict = {}  # PyYAML's own are those of YAML 1.1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuses a key that is there twice; PyYAML takes the last in silence."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                if key.value in seen:
                    raise KeyTwice(None, None, f"key {key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_RESOLVERS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
for _name, (_pattern, _first) in _RESOLVERS.items():
    _whole = re.compile(f"(?:{_pattern})$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _whole, _first)


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> WrittenInt:
    text = loader.construct_scalar(node)
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    if len(text) > 4000:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number of {len(text)} digits", node.start_mark
        )
    found = WrittenInt(int(text, base))
    found.text = text
    return found


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> WrittenFloat:
    text = loader.construct_scalar(node)
    found = WrittenFloat(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    found.text = text
    return found


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def load(text: str | bytes) -> Any:
    """Read one document. Raises yaml.YAMLError."""
    return yaml.load(text, _Loader)  # noqa: S506, a SafeLoader


def as_text(value: Any) -> Any:
    """Numbers inside of a value as the text that they were written as."""
    return _each(value, lambda number: number.text)


def as_numbers(value: Any) -> Any:
    """Numbers inside of a value as plain int and float."""
    return _each(value, lambda number: int(number) if isinstance(number, int) else float(number))


def _each(value: Any, change) -> Any:
    if isinstance(value, WrittenInt | WrittenFloat):
        return change(value)
    if isinstance(value, Mapping):
        return {_each(k, change): _each(v, change) for k, v in value.items()}
    return [_each(v, change) for v in value] if isinstance(value, list) else value
