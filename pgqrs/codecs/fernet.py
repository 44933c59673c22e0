"""`FernetCodec`: what is stored is encrypted, whatever it is encoded with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pgqrs.codecs.base import Codec, Encoded, JsonCodec, codec_for, is_typed, validate_codec
from pgqrs.errors import ConfigurationError, SerializationError

__all__ = ["FernetCodec"]


class FernetCodec:
    """Encrypts what another codec encodes, and recorded errors: AES-128-CBC with an HMAC-SHA256, as Fernet has it.

    `keys` are those of `Fernet.generate_key()`, as text or bytes: the first one encrypts, each of them decrypts. A
    new key is first given as the last one everywhere, then as the first; an old one is dropped when no history
    written with it is read any more. `codec` encodes what is encrypted; strict JSON by default.

    Each token holds the place that it was written for, and is refused at another one: the ids of the workflow and
    the step, and whether it is an outcome or an error; for an input the workflow's name.

    Payloads are encrypted: inputs, outputs, results of steps, errors. Names, step ids, keys, queues, statuses and
    times are not; the fingerprints of arguments are left out, so a step that is called with other arguments than
    those that are recorded is not noticed.

    Raises `ConfigurationError` for no key, or one that is none; no message shows a key.
    """

    def __init__(self, keys: Iterable[str | bytes], codec: Codec | None = None) -> None:
        self._codec = JsonCodec() if codec is None else validate_codec(codec)
        self._fernet = _fernet_of(keys)
        self.name = f"fernet+{self._codec.name}"
        self.is_typed = is_typed(self._codec)
        self._place = ""

    def __repr__(self) -> str:
        return f"<FernetCodec {self.name}>"

    def of(self, annotation: Any) -> Codec:
        """Return the codec for values of a type, where the inner one goes by types."""
        inner = codec_for(self._codec, annotation)
        return self if inner is self._codec else self._like(inner, self._place)

    def at(self, place: str) -> FernetCodec:
        """Return the codec for the values of a place; see `pgqrs.codecs.PlacedCodec`."""
        return self._like(self._codec, place)

    def _like(self, inner: Codec, place: str) -> FernetCodec:
        copy = object.__new__(FernetCodec)
        copy._codec, copy._fernet, copy.name, copy.is_typed = inner, self._fernet, self.name, self.is_typed
        copy._place = place
        return copy

    def encode(self, value: Any) -> Encoded:
        """Return `value` as a JSON string, the token; raise `SerializationError` as the inner codec does."""
        inner = self._codec.encode(value)
        return Encoded(self.seal(inner.text), inner.value)

    def decode(self, text: str) -> Any:
        """Return the value that the token stands for.

        Raise `SerializationError` for a text that none of the keys has encrypted, or that was encrypted for
        another place, and as the inner codec does.
        """
        return self._codec.decode(self.open(text))

    def seal(self, text: str) -> str:
        """Return a JSON string, the token, that `open` makes `text` of."""
        token = self._fernet.encrypt(f"{self._place}\n{text}".encode())
        return f'"{token.decode()}"'

    def open(self, text: str) -> str:
        """Return the text of an error that was sealed; raise `SerializationError` as `decode` does."""
        token = _token_of(text)
        if token is None:
            raise SerializationError("what is stored is not encrypted.", reading=True)
        # A place is one line: JSON escapes the ends of lines.
        place, _, opened = self._decrypted(token).partition("\n")
        if place != self._place:
            raise SerializationError(
                "it was encrypted for another place: the row was changed by hand, or restored in part.",
                reading=True,
            )
        return opened

    def _decrypted(self, token: bytes) -> str:
        try:
            return self._fernet.decrypt(token).decode()
        except InvalidToken:
            raise SerializationError(
                "none of the keys that the FernetCodec was given has encrypted it: give it the key of that time, "
                "after the others.",
                reading=True,
            ) from None


def _token_of(text: str) -> bytes | None:
    """Return the token in a JSON text, None where there is something else."""
    try:
        found: object = json.loads(text)
        return found.encode() if isinstance(found, str) else None
    except (ValueError, RecursionError):  # no JSON, or a lone surrogate in it
        return None


def _fernet_of(keys: object) -> MultiFernet:
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise TypeError("keys are several: write FernetCodec([key]).")
    fernets = [_fernet(key, place) for place, key in enumerate(cast("Iterable[object]", keys), 1)]
    if not fernets:
        raise ConfigurationError("a FernetCodec needs at least one key: Fernet.generate_key() makes one.")
    return MultiFernet(fernets)


def _fernet(key: object, place: int) -> Fernet:
    if not isinstance(key, (str, bytes)):
        raise TypeError(f"key {place} of the FernetCodec is neither str nor bytes, but {type(key).__name__}.")
    try:
        return Fernet(key)
    except ValueError:
        raise ConfigurationError(
            f"key {place} of the FernetCodec is not 32 bytes as URL-safe base64: Fernet.generate_key() makes one."
        ) from None
