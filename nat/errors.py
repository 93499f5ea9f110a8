"""Errors that are meant for users: one line, no traceback, exit code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The command line prints its text and exits with `exit_code`."""

    exit_code = 2


class ConfigError(UserError):
    """An option is unknown, has the wrong type or an impossible value."""


class DataError(UserError):
    """A file, a corpus or a checkpoint cannot be used as it is."""
