"""The base of class-based consumers, by the name that Django Channels gives it."""

from .exceptions import StopConsumer
from .generic.consumer import SyncConsumer

__all__ = ["StopConsumer", "SyncConsumer"]
