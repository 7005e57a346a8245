"""One recording as a recipe wants it: read, then through the recipe's own functions."""

from pathlib import Path

from ndt3_dist.config import import_call
from ndt3_dist.errors import BadInput
from ndt3_dist.prep.recipe import Recipe
from ndt3_dist.readers.read import reader_of
from ndt3_dist.readers.recording import Recording


def read(path: str | Path, recipe: Recipe) -> Recording:
    """Read a file and preprocess it.

    Raises:
        BadInput: The file cannot be used, or a function is not there or gives something else.
    """
    return preprocessed(checked(reader_of(recipe)(path, recipe), recipe.reader), recipe)


def preprocessed(recording: Recording, recipe: Recipe) -> Recording:
    """A recording behind the recipe's own functions."""
    for step in recipe.preprocess:
        arguments = {"call": step} if isinstance(step, str) else dict(step)
        call = arguments.pop("call")
        function = import_call(call, "preprocess")
        recording = checked(function(recording, **arguments), call)
    return recording


def checked(found: object, source: str) -> Recording:
    if not isinstance(found, Recording):
        raise BadInput(f"{source} gave a {type(found).__name__}; expected a Recording")
    return found


def check_calls(recipe: Recipe) -> None:
    """Refuse a recipe whose functions are not there, before any work begins."""
    reader_of(recipe)
    for step in recipe.preprocess:
        import_call(step if isinstance(step, str) else step["call"], "preprocess")
