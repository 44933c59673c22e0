"""The objects that a command names by modules: workflows, and the `Admin` of an application."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import click

from pgqrs.client.admin import Admin
from pgqrs.workflow.definition import definition_of

Act: TypeAlias = Callable[[Admin], Awaitable[object]]

Workflow: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]


def look_here() -> None:
    """Find modules in the working directory, which a console script does not search."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)


def admin_maker(target: str) -> Callable[[], object]:
    """Return a function that returns the Admin of `target`, or an awaitable; call it in the worker's loop."""
    module_name, _, name = target.partition(":")
    if not name:
        raise click.ClickException(f"--admin takes MODULE:NAME, as in `shop.app:admin`, got {target!r}.")
    module = _imported(module_name)
    if not hasattr(module, name):
        raise click.ClickException(f"the module {module_name!r} has no {name!r}.")
    found: object = getattr(module, name)
    if isinstance(found, Admin):
        return lambda: found
    if not callable(found) or not _takes_nothing(found):
        raise click.ClickException(
            f"{target} is neither an Admin nor a function without arguments that returns an Admin."
        )
    return found


def _takes_nothing(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


async def with_own_admin(target: str, make: Callable[[], object], act: Act) -> None:
    """Call `act` with the Admin that `make` returns."""
    made = make()
    admin = await made if inspect.isawaitable(made) else made
    if not isinstance(admin, Admin):
        raise click.ClickException(
            f"{target} must return an Admin, got an object of the class {type(admin).__name__!r}."
        )
    async with admin:
        await act(admin)


def collected(targets: Iterable[str]) -> list[Workflow]:
    """Return the workflows of modules, each once."""
    return list(dict.fromkeys(each for target in targets for each in _workflows_of(target)))


def _workflows_of(target: str) -> list[Workflow]:
    module_name, _, names = target.partition(":")
    module = _imported(module_name)
    if names:
        return [_named(module, name.strip()) for name in names.split(",")]
    found = [each for each in vars(module).values() if _is_workflow(each)]
    if not found:
        raise click.ClickException(f"the module {module_name!r} has no function that is decorated with @workflow.")
    return found


def _imported(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise click.ClickException(f"{name!r} is not the name of a module: write it as in `shop.orders`.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If an import within the module fails, its traceback shows the place.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise click.ClickException(f"there is no module {name!r} here.") from None


def _named(module: ModuleType, name: str) -> Workflow:
    found: Any = getattr(module, name, None)
    if not _is_workflow(found):
        raise click.ClickException(f"{module.__name__}.{name} is not a function that is decorated with @workflow.")
    return found  # type: ignore[no-any-return]


def _is_workflow(value: Any) -> bool:
    try:
        definition_of(value)
    except TypeError:
        return False
    return True
