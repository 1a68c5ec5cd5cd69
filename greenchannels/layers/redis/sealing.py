"""Encryption of messages that Redis carries: cryptography's Fernet."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from ...errors import ConfigurationError

#: Between what is sealed: the topic, the sender's name, the message.
_SEPARATOR = b"\x00"


class Sealer:
    """
    Seal messages with the first key, open those of all keys.

    A sealed message is good for its topic and as its sender's only. That it is sent
    again by somebody who has seen it is noticed by its number.

    Args:
        keys: Secrets of any length, at least one.

    Raises:
        ConfigurationError: If cryptography is not installed.

    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "encryption needs cryptography: pip install"
                " greenchannels[redis,encryption]"
            ) from error
        self._fernet = MultiFernet([Fernet(_derive(key)) for key in keys])
        self._invalid = InvalidToken

    def seal(self, topic: str, origin: str, data: bytes) -> bytes:
        """Return what only those with the key can read."""
        return self._fernet.encrypt(_bound(topic, origin) + data)

    def open(self, topic: str, origin: str, token: bytes) -> bytes:
        """
        Return what was sealed.

        Raises:
            ValueError: If it was not by one of the keys, for this topic and as this
                sender's.

        """
        try:
            found = self._fernet.decrypt(token)
        except self._invalid:
            raise ValueError("not sealed with one of the keys") from None
        bound = _bound(topic, origin)
        if not found.startswith(bound):
            raise ValueError("sealed for another topic, or as another sender's")
        return found[len(bound) :]


def _derive(secret: str) -> bytes:
    """Return a Fernet key."""
    return base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest())


def _bound(topic: str, origin: str) -> bytes:
    return topic.encode() + _SEPARATOR + origin.encode() + _SEPARATOR
