"""The settings of a run for people: values as the text that config.yaml has, of any run at all.

A file of a stranger's run may be made to take all memory or the stack. So it is read event by
event: nothing is nested deeper than `DEEPEST`, and no value stands in several places.
"""

import math
from collections.abc import Iterator
from typing import Any

import yaml

DEEPEST = 20
MOST_BYTES = 1 << 20
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_config(data: bytes, name: str) -> tuple[dict, str]:
    """Settings as mappings, lists and text, and what is wrong with them, "" = nothing.

    Args:
        data: YAML, or JSON, which is YAML.
        name: Of the file, for the fault.
    """
    try:
        found = _built(data[:MOST_BYTES])
    except (yaml.YAMLError, ValueError) as e:
        return {}, f"{name}: no settings ({type(e).__name__})"
    return (found, "") if isinstance(found, dict) else ({}, f"{name}: no settings")


def _built(data: bytes) -> Any:
    """What the events of a document come to. Raises yaml.YAMLError, ValueError."""
    root: list = []
    stack: list = [root]
    keys: list = [None]
    for event in yaml.parse(data, LOADER):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("a value that stands elsewhere")
        value: Any = None
        if isinstance(event, yaml.ScalarEvent):
            value = event.value
        elif isinstance(event, yaml.MappingStartEvent):
            value = {}
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            stack.pop()
            keys.pop()
        if value is None:
            continue
        above = stack[-1]
        if isinstance(above, list):
            above.append(value)
        elif keys[-1] is None:
            if not isinstance(value, str):
                raise ValueError("a key that is no text")
            keys[-1] = value
            continue
        else:
            above[keys[-1]], keys[-1] = value, None
        if not isinstance(value, str):
            stack.append(value)
            keys.append(None)
            if len(stack) > DEEPEST:
                raise ValueError("nested too deeply")
    return root[0] if root else None


def flat(config: dict, above: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else _listed(value)


def _listed(values: list) -> str:
    return f"[{', '.join(v if isinstance(v, str) else str(v) for v in values)}]"


def positive(text: object) -> float | None:
    """A number above 0 as a setting has it; None where it is none."""
    try:
        value = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        return None
    return value if 0 < value < math.inf else None
