"""One schema for every run: YAML on disk, frozen and checked in memory.

Precedence: the defaults below < the YAML file < `section.key=value` on the command line, the later
of two. Unknown keys are refused with the nearest known name, and every problem is reported at once,
with who said it. YAML files are whole: no includes, anchors or interpolation.
"""

import difflib
import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from ndt3_dist import plain_yaml
from ndt3_dist.errors import BadInput

PROJECT = Path(__file__).resolve().parent.parent
"""The checkout, where there is one."""
COMMAND_LINE = "command line"


class Section(BaseModel):
    """A frozen part of a config that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # of a caller in Python; YAML keeps the text of a number
    )

    @field_validator("*", mode="before")
    @classmethod
    def _name_or_number(cls, value: Any, info: ValidationInfo) -> Any:
        """A field of text takes a number as it was written: 12e4567, 007."""
        kinds = _leaves(cls.model_fields[info.field_name or ""].annotation)
        if any(isinstance(k, type) and issubclass(k, BaseModel) for k in kinds):
            return value
        return (
            plain_yaml.as_text(value)
            if str in kinds and not kinds & {int, float, Any}
            else plain_yaml.as_numbers(value)
        )


def _leaves(annotation: Any) -> set:
    """Types that an annotation is made of: list[str] | None -> {str, NoneType}."""
    inner = get_args(annotation)
    return {leaf for a in inner for leaf in _leaves(a)} if inner else {annotation}


C = TypeVar("C", bound=BaseModel)


def import_call(path: str, key: str) -> Any:
    """The function that an import path `package.module:function` in a user's own file names.

    Raises:
        BadInput: It is no such path, or there is no such module or function.
    """
    module, colon, name = path.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z_][\w.]*", module) or not name.isidentifier():
        raise BadInput(f"{key}: {path!r} is no import path; expected package.module:function")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as e:
        raise BadInput(f"{key}: {module} cannot be imported ({e}); is it installed here?") from e
    if not callable(found):
        raise BadInput(f"{key}: {module} has no function {name}")
    return found


def shipped(folder: str) -> Path:
    """Where `configs` or `data_prep/recipes` lie: in a checkout, or inside an installed package."""
    there = PROJECT / folder
    return there if there.is_dir() else Path(__file__).parent / Path(folder).name


def find_file(name: str | Path, folder: str) -> Path:
    """Seek a bare file name in the current folder, then among those that are shipped."""
    path, ours = Path(name), shipped(folder)
    candidates = [path] if path.parent != Path(".") else [path, ours / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    places = " or ".join(str(c.parent.absolute()) for c in candidates)
    known = sorted(p.name for p in ours.glob("*.yaml"))
    near = difflib.get_close_matches(path.name, known, n=1)
    hint = f"; nearest: {near[0]}" if near else f"; there are: {', '.join(known)}"
    raise BadInput(f"no file {path.name} in {places}{hint}")


def read_values(schema: type[C], path: str | Path) -> dict:
    """The keys of a YAML file, unchecked; BadInput where it cannot be read or has none."""
    try:
        values = plain_yaml.load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise BadInput(f"{path}: not valid YAML: {e}") from e
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"is {str(values)[:40]!r}"
        needed = [f"{key}: ..." for key, f in schema.model_fields.items() if f.is_required()]
        raise BadInput(f"{path}: {found}; expected keys, at least {', '.join(needed)}")
    return values


def load_config(schema: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read a YAML file into `schema`, with `a.b=value` overrides on top.

    Raises:
        BadInput: The file cannot be read, or keys or values do not fit; names all of them at once.
    """
    values = read_values(schema, path)
    for override in overrides:
        key, eq, text = override.partition("=")
        if not eq or not key:
            raise BadInput(f"{override!r} is not an override; expected section.key=value")
        set_key(values, key, parse_scalar(text, key))
    return check(schema, values, str(path), [o.partition("=")[0] for o in overrides])


def parse_scalar(text: str, key: str) -> Any:
    """A command-line value as YAML would read it; what is not YAML stays text."""
    try:
        return plain_yaml.load(text)
    except plain_yaml.KeyTwice as e:
        raise BadInput(f"{COMMAND_LINE}: {key}: {e.problem}") from e
    except yaml.YAMLError:
        return text


def set_key(values: dict, dotted: str, value: Any, where: str = COMMAND_LINE) -> None:
    """Set `a.b.c` in nested dictionaries, making those that are missing; `where` says so."""
    *parents, last = dotted.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise BadInput(f"{where}: {dotted}: {parent} is a value, not a section")
        values = child
    values[last] = value


def check(schema: type[C], values: Mapping, where: str, overridden: Sequence[str] = ()) -> C:
    """Validate `values`; all problems in one BadInput, unknown keys with the nearest name.

    Args:
        where: Says whose they are, but for the keys `a.b` that the command line has `overridden`.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as e:
        problems: dict[str, list[str]] = {}
        for error in e.errors():
            source = _blamed(error["loc"], where, [key.split(".") for key in overridden])
            problems.setdefault(source, []).append(_explain(schema, error))
        said = (f"{source}: {'; '.join(each)}" for source, each in problems.items())
        raise BadInput("; ".join(said)) from e


def _blamed(loc: tuple, where: str, overridden: list[list[str]]) -> str:
    """Who said what is wrong at a place: `where`, the command line, or both."""
    place = [str(part) for part in loc]
    if any(place[: len(key)] == key for key in overridden):
        return COMMAND_LINE
    inside = any(key[: len(place)] == place for key in overridden)
    return f"{where} and the {COMMAND_LINE}" if inside else where


def _explain(schema: type[BaseModel], error: Any) -> str:
    """One pydantic error in words: the key, what was found, what was expected."""
    *parents, last = error["loc"] or ("",)
    dotted = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        owner: Any = schema
        for parent in (p for p in parents if isinstance(p, str)):
            field = owner.model_fields.get(parent) if hasattr(owner, "model_fields") else None
            owner = field.annotation if field else None
            owner = next((a for a in get_args(owner) if hasattr(a, "model_fields")), owner)
        known = list(getattr(owner, "model_fields", {}))
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
        return f"unknown key {dotted} ({hint})"
    found, said = error.get("input"), error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{dotted} is missing"
    if isinstance(found, Mapping):
        return f"{dotted + ': ' if dotted else ''}{said}"
    return f"{dotted} is {found!r}: {said}"
