"""Pickles as plain data: a file from elsewhere is read without running anything that it names.

An interpreter of the instructions that torch.save writes for data (protocol 2). It calls nothing: a
class or function is a `Name`, what a pickle would build with it an `Inert` record of name,
arguments and state. Names outside an allowed list, other instructions, and keys other than plain
values are refused. A byte of the pickle takes a hundred bytes of memory and a few microseconds at
most, so its size bounds both. torch's own restricted loader has neither bound; docs/LOG.md,
2026-11-27, has the figures.

Source: Python's pickletools, which decodes instructions and executes none.
"""

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ndt3_dist.errors import CheckpointCorrupt

MOST_KEYS = 10_000
"""Keys of one dictionary: numbers can be chosen that all collide in its hash table."""
LONGEST_KEY = 10
"""Strings in a tuple that is a key; OmegaConf's cache of resolvers has such keys. Only strings:
tuples of numbers can be chosen that share one hash, and a tuple's hash is computed at every use."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """What a pickle would have built: of which class, with which arguments and state."""

    kind: Name
    args: tuple
    state: Any = None


Build = Callable[[Name, tuple], Any]
"""Plain data for a name and its arguments, or an Inert of them."""

CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Reader:
    """The state of one reading: stack, marks, memo.

    Args:
        where: What is read, for errors.
        is_known: Whether a name may occur.
        build: Makes what the pickle would build.
        persistent: Resolves a persistent id.
    """

    def __init__(
        self,
        where: str,
        is_known: Callable[[Name], bool],
        build: Build,
        persistent: Callable[[Any], Any],
    ):
        self.where, self.is_known = where, is_known
        self.build, self.persistent = build, persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks under each mark
        self.memo: dict[int, Any] = {}

    def read(self, data: bytes) -> Any:
        """The value that `data` describes.

        Raises:
            CheckpointCorrupt: It is malformed, or names or does what is not allowed.
        """
        position = 0
        try:
            for code, value, at in pickletools.genops(data):
                position = at or 0
                if code.name != "STOP":
                    self.step(code.name, value)
            (result,) = self.stack
        except (ValueError, IndexError, KeyError, TypeError) as e:
            raise CheckpointCorrupt(
                f"{self.where}: not a pickle of plain data, at byte {position} ({brief(e)}); "
                "fetch the checkpoint again from where it came from"
            ) from e
        if self.below or position + 1 != len(data):
            raise self.refuse("has something behind its end")
        return result

    def refuse(self, what: str) -> CheckpointCorrupt:
        return CheckpointCorrupt(
            f"{self.where} {what}; expected data, tensors and NDT3's own configuration; nothing of "
            "it was run. If you trust the file, save its state_dict, and its hyper_parameters as "
            "plain dicts, again where NDT3 is installed"
        )

    def name(self, module: str, name: str) -> Name:
        found = Name(module, name)
        if not name.isidentifier() or not self.is_known(found):
            raise self.refuse(f"names {brief(found)}")
        return found

    def to_mark(self) -> list[Any]:
        """Everything above the last mark, taken from the stack."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def step(self, code: str, value: Any) -> None:
        """Carry out one instruction."""
        stack = self.stack
        if code in LITERALS:
            stack.append(value)
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code]())
        elif code in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[value])
        elif code in ("BINPUT", "LONG_BINPUT"):
            self.memo[value] = stack[-1]
        elif code == "MARK":
            self.below.append(stack)
            self.stack = []
        elif code in TUPLES:
            items = [stack.pop() for _ in range(TUPLES[code])]
            stack.append(tuple(items[::-1]))
        elif code == "TUPLE":
            items = self.to_mark()
            self.stack.append(tuple(items))
        elif code in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            self.extend(code)
        elif code == "GLOBAL":
            stack.append(self.name(*value.split(" ", 1)))
        elif code in ("REDUCE", "NEWOBJ"):
            args, kind = stack.pop(), stack.pop()
            if type(kind) is not Name or type(args) is not tuple:
                raise self.refuse(f"calls {brief(kind)}")
            stack.append(self.build(kind, args))
        elif code == "BUILD":
            state, built = stack.pop(), stack[-1]
            if type(built) is Inert:
                built.state = state
            elif type(built) is not dict:  # an OrderedDict's own attributes mean nothing here
                raise self.refuse(f"sets the state of {brief(built)}")
        elif code == "BINPERSID":
            stack.append(self.persistent(stack.pop()))
        elif code != "PROTO":
            raise self.refuse(f"has the instruction {code}")

    def extend(self, code: str) -> None:
        """Append to the list or dictionary under the items."""
        many = code.endswith("S")
        size = 2 if code == "SETITEM" else 1
        items = self.to_mark() if many else [self.stack.pop() for _ in range(size)][::-1]
        target = self.stack[-1]
        if type(target) is list and code.startswith("APPEND"):
            target.extend(items)
        elif type(target) is dict and code.startswith("SETITEM"):
            if len(items) // 2 + len(target) > MOST_KEYS:
                raise self.refuse(f"has a dictionary of more than {MOST_KEYS:,} keys")
            target.update(zip(map(self.key, items[::2]), items[1::2], strict=True))
        else:
            raise self.refuse(f"adds items to {brief(target)}")

    def key(self, value: Any) -> Any:
        """`value`, if it may be a dictionary key: plain, or a short tuple of strings."""
        if type(value) is int:
            is_key = -(2**63) <= value < 2**63
        elif type(value) is tuple:
            is_key = len(value) <= LONGEST_KEY and all(type(part) is str for part in value)
        else:
            is_key = isinstance(value, (str, bool, float, type(None), Name, Inert))
        if not is_key:
            raise self.refuse(f"has {brief(value)} as a key")
        return value


def brief(value: Any) -> str:
    """A value for a message: short, on one line, without control characters."""
    if isinstance(value, Inert):
        text = f"a {value.kind}"
    elif isinstance(value, (str, Exception, Name)):
        text = str(value)
    elif isinstance(value, (int, float, type(None))):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return re.sub(r"[^ -~]", "?", text if len(text) <= 120 else text[:117] + "...")
