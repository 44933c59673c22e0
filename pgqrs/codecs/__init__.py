"""Codecs for `Admin`: strict JSON, typed values and encryption at rest.

`PydanticCodec` and `FernetCodec` are imported at their first use, because their dependencies come with the extras
`pydantic` and `cryptography`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from pgqrs.codecs.base import Codec, Encoded, PlacedCodec, SealingCodec, TypedCodec
from pgqrs.codecs.json import JsonCodec

if TYPE_CHECKING:
    from pgqrs.codecs.fernet import FernetCodec
    from pgqrs.codecs.pydantic import PydanticCodec

__all__ = [
    "Codec",
    "Encoded",
    "FernetCodec",
    "JsonCodec",
    "PlacedCodec",
    "PydanticCodec",
    "SealingCodec",
    "TypedCodec",
]

_EXTRAS: Final = {"PydanticCodec": "pydantic", "FernetCodec": "cryptography"}
_MODULES: Final = {"PydanticCodec": "pgqrs.codecs.pydantic", "FernetCodec": "pgqrs.codecs.fernet"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        extra = _EXTRAS[name]
        if error.name is None or error.name.partition(".")[0] != extra:
            raise
        raise ModuleNotFoundError(
            f"{name} needs {extra}: install it with `pip install 'pgqrs[{extra}]'`.", name=error.name
        ) from error
    return getattr(module, name)
