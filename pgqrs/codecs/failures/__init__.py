"""Classify errors as terminal or transient, record them as JSON, and raise them again in a replay."""

from pgqrs.codecs.failures.classify import ErrorClasses, is_terminal
from pgqrs.codecs.failures.record import Failure, dump_error, is_terminal_text, plain_error, shown_error
from pgqrs.codecs.failures.replay import load_error, steps_behind

__all__ = [
    "ErrorClasses",
    "Failure",
    "dump_error",
    "is_terminal",
    "is_terminal_text",
    "load_error",
    "plain_error",
    "shown_error",
    "steps_behind",
]
