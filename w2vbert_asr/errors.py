"""Errors that a user can cause or mend, each with the exit code of the command that ends with it."""

from __future__ import annotations


class UserError(Exception):
    """A mistake or a circumstance that the user can mend.

    The message says what is wrong, where (file, line or key, and the value) and the remedy. The command line prints it
    without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class ConfigError(UserError):
    """A wrong option, key or value."""

    exit_code = 2


class DataError(UserError):
    """A missing, malformed or damaged file or data directory."""

    exit_code = 3


class SetupError(UserError):
    """Something that this machine or this installation lacks."""

    exit_code = 4


class ResourceError(UserError):
    """No disk space, no memory, no permission, or an experiment that another process owns."""

    exit_code = 5


class NumericsError(UserError):
    """Training or a parity check that left the range of sensible numbers."""

    exit_code = 6


class Preempted(UserError):
    """The run saved its state because a signal asked it to; the same command goes on."""

    exit_code = 75


def summarize(items: list[str], limit: int = 10) -> str:
    """The first `limit` items, one an indented line, and how many more there are."""
    lines = [f"  {item}" for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"  ... and {len(items) - limit} more")
    return "\n".join(lines)
