"""Whether arguments fit a workflow's function: asked where they are submitted, and again where they are run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pgqrs.decorators import Definition


def check_fits(definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise `TypeError` where a workflow's function cannot be called with a context and these arguments."""
    try:
        _signature_of(definition.function).bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"the workflow {definition.name!r} cannot be called like that: {error}.") from None


@lru_cache(maxsize=1024)
def _signature_of(function: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(function)
