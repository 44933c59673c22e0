"""`FernetCodec`, which encrypts the text of another codec."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pgqrs.codecs.base import FERNET, Codec, Encoded, codec_for, is_typed, validate_codec
from pgqrs.codecs.json import JsonCodec
from pgqrs.errors import ConfigurationError, SerializationError

__all__ = ["FernetCodec"]


class FernetCodec:
    """Encrypts the text of another codec and recorded errors with Fernet: AES-128-CBC and an HMAC-SHA256.

    To rotate keys, first add the new key as the last key everywhere, then make it the first key everywhere. Drop
    an old key when no reader needs a history that was written with it.

    Each token holds the place that it was written for, and is refused at another place. The place is the
    workflow's id, the step's id and the kind, outcome or error; for an input it is the workflow's name.

    Payloads are encrypted: inputs, outputs, results of steps and errors. Names, step ids, keys, queues, statuses
    and times are not encrypted. Fingerprints of arguments are not recorded, so pgqrs does not notice a step that
    is called with other arguments than its recorded outcome.

    Args:
        keys: Keys that `Fernet.generate_key()` returned, as text or bytes. The first key encrypts, and every key
            decrypts.
        codec: The codec whose text is encrypted; strict JSON by default.

    Raises:
        ConfigurationError: `keys` is empty or contains an invalid key. The message never shows a key.
        TypeError: `keys` is a single key, or a key is neither text nor bytes, or `codec` is not a codec.
    """

    def __init__(self, keys: Iterable[str | bytes], codec: Codec | None = None) -> None:
        self._codec = JsonCodec() if codec is None else validate_codec(codec)
        self._fernet = _fernet_of(keys)
        self.name = f"{FERNET}{self._codec.name}"
        self.is_typed = is_typed(self._codec)
        self._place = ""

    def __repr__(self) -> str:
        return f"<FernetCodec {self.name}>"

    def of(self, annotation: Any) -> Codec:
        """Return the codec for values of a type: the codec itself unless the inner codec is a `TypedCodec`.

        Args:
            annotation: The type, as for `pgqrs.codecs.TypedCodec.of`.

        Returns:
            A codec of the same name, with the same keys and place.

        Raises:
            ConfigurationError: The inner codec cannot carry values of the type.
        """
        inner = codec_for(self._codec, annotation)
        return self if inner is self._codec else self._like(inner, self._place)

    def at(self, place: str) -> FernetCodec:
        """Return the codec for the values of a place.

        Args:
            place: A text that names the place, as for `pgqrs.codecs.PlacedCodec.at`.

        Returns:
            A codec of the same name and keys, which refuses tokens of other places.
        """
        return self._like(self._codec, place)

    def _like(self, inner: Codec, place: str) -> FernetCodec:
        copy = object.__new__(FernetCodec)
        copy._codec, copy._fernet, copy.name, copy.is_typed = inner, self._fernet, self.name, self.is_typed
        copy._place = place
        return copy

    def encode(self, value: Any) -> Encoded:
        """Return `value` encrypted, as a JSON string that holds the token.

        Args:
            value: The value to store.

        Returns:
            The text of the token and the value that it decodes to.

        Raises:
            SerializationError: The inner codec cannot carry `value`.
        """
        inner = self._codec.encode(value)
        return Encoded(self.seal(inner.text), inner.value)

    def decode(self, text: str) -> Any:
        """Return the value of a token.

        Args:
            text: The JSON string that holds the token.

        Returns:
            The value.

        Raises:
            SerializationError: None of the keys has encrypted `text`, or it was encrypted for another place, or
                the inner codec cannot decode the decrypted text.
        """
        return self._codec.decode(self.open(text))

    def seal(self, text: str) -> str:
        """Return a text encrypted, as a JSON string that holds the token.

        Args:
            text: The text to encrypt, such as the JSON text of an error.

        Returns:
            A JSON string that `open` accepts.
        """
        token = self._fernet.encrypt(f"{self._place}\n{text}".encode())
        return f'"{token.decode()}"'

    def open(self, text: str) -> str:
        """Return the text that `seal` encrypted.

        Args:
            text: The JSON string that holds the token.

        Returns:
            The decrypted text.

        Raises:
            SerializationError: None of the keys has encrypted `text`, or it was encrypted for another place.
        """
        token = _token_of(text)
        if token is None:
            raise SerializationError("the stored text is not encrypted.", reading=True)
        # A place is a single line, because JSON escapes line ends.
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
                "none of the keys of the FernetCodec has encrypted it: add the key that was in use at that time, "
                "after the other keys.",
                reading=True,
            ) from None


def _token_of(text: str) -> bytes | None:
    """Return the token in a JSON text; None if the text holds no token."""
    try:
        found: object = json.loads(text)
        return found.encode() if isinstance(found, str) else None
    except (ValueError, RecursionError):  # invalid JSON, or a lone surrogate in a string
        return None


def _fernet_of(keys: object) -> MultiFernet:
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        given = type(keys).__name__
        raise TypeError(f"`keys` must be an iterable of keys, got {given}: write FernetCodec([key]).")
    fernets = [_fernet(key, place) for place, key in enumerate(cast("Iterable[object]", keys), 1)]
    if not fernets:
        raise ConfigurationError("`keys` must hold at least one key, got none: Fernet.generate_key() makes one.")
    return MultiFernet(fernets)


def _fernet(key: object, place: int) -> Fernet:
    if not isinstance(key, (str, bytes)):
        raise TypeError(f"key {place} of the FernetCodec must be str or bytes, got {type(key).__name__}.")
    try:
        return Fernet(key)
    except ValueError:
        raise ConfigurationError(
            f"key {place} of the FernetCodec must be 32 bytes in URL-safe base64: Fernet.generate_key() makes one."
        ) from None
