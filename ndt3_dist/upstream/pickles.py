"""Pickles as plain data: a file from elsewhere is read without running anything that it names.

An interpreter of the few instructions that Python 3 writes for data. It has no call: a class or
function is a `Name`, what a pickle would build with it an `Inert` record of name, arguments and
state. Names outside an allowed list, other instructions, and keys that are no plain values are
refused. Each instruction costs a bounded amount of memory, so the file's own size bounds what is
read here; keys that could be chosen to share one hash are bounded in number.

Source: Python's pickletools, which decodes instructions and executes none.
"""

import pickletools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ndt3_dist.errors import CheckpointCorrupt

DEEPEST_KEY = 2
"""Levels of tuples in a dictionary key; the hash of deep ones that share parts never ends."""
MOST_KEYS = 10_000
"""Keys of one dictionary or set: looking one up among many of one hash compares it with all."""


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
    "EMPTY_SET": set,
}
LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINUNICODE8"}
LITERALS |= {"SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"}
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

    def name(self, module: Any, name: Any) -> Name:
        found = Name(module, name) if type(module) is str and type(name) is str else None
        if found is None or not name.isidentifier() or not self.is_known(found):
            raise self.refuse(f"names {brief(module)}.{brief(name)}")
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
        elif code == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif code == "MARK":
            self.below.append(stack)
            self.stack = []
        elif code in TUPLES:
            items = [stack.pop() for _ in range(TUPLES[code])]
            stack.append(tuple(items[::-1]))
        elif code == "TUPLE":
            items = self.to_mark()
            self.stack.append(tuple(items))
        elif code == "FROZENSET":
            items = self.to_mark()
            self.stack.append(frozenset(self.keys(items)))
        elif code in ("APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"):
            self.extend(code)
        elif code == "GLOBAL":
            stack.append(self.name(*value.split(" ", 1)))
        elif code == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(self.name(module, name))
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
        elif code not in ("PROTO", "FRAME"):
            raise self.refuse(f"has the instruction {code}")

    def extend(self, code: str) -> None:
        """Append to the list, set or dictionary under the items."""
        many = code.endswith("S")
        size = 2 if code == "SETITEM" else 1
        items = self.to_mark() if many else [self.stack.pop() for _ in range(size)][::-1]
        target = self.stack[-1]
        if type(target) is list and code.startswith("APPEND"):
            target.extend(items)
        elif type(target) is set and code == "ADDITEMS":
            target.update(self.keys(items, target))
        elif type(target) is dict and code.startswith("SETITEM"):
            target.update(zip(self.keys(items[::2], target), items[1::2], strict=True))
        else:
            raise self.refuse(f"adds items to {brief(target)}")

    def keys(self, values: list[Any], beside: Collection = ()) -> list[Any]:
        """`values`, if they may be keys beside those that are there."""
        if len(values) + len(beside) > MOST_KEYS:
            raise self.refuse(f"has a dictionary or set of more than {MOST_KEYS:,} keys")
        return [self.key(value) for value in values]

    def key(self, value: Any, depth: int = 0) -> Any:
        """`value`, if it may be a dictionary key: plain, or a shallow tuple of plain values."""
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise self.refuse(f"has {brief(value)} as a key")
        if type(value) is tuple and depth < DEEPEST_KEY and len(value) < 100:
            for part in value:
                self.key(part, depth + 1)
        elif not isinstance(value, (str, int, float, bytes, type(None), Name, Inert)):
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
