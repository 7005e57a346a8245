"""Decorators that code written for the podcast benchmark has on its functions.

They register nothing: a config names a function by its import path, or by its name in one of the
modules that `plugins` lists. A function keeps what its decorator said in `words_options`.
"""

from collections.abc import Callable
from typing import Any


def _marking(kind: str) -> Callable[..., Callable[[Callable], Callable]]:
    def register(name: Any = None, **options: Any) -> Callable[[Callable], Callable]:
        def marked(function: Callable) -> Callable:
            function.words_options = {"kind": kind, "name": name, **options}  # pyright: ignore
            return function

        return marked

    return register


register_model_constructor = _marking("model_constructor")
register_data_preprocessor = _marking("data_preprocessor")
register_config_setter = _marking("config_setter")
register_metric = _marking("metric")
register_task_data_getter = _marking("task_data_getter")
register_model_data_getter = _marking("model_data_getter")
