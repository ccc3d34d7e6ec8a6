"""The errors a user can mend: each message says what was got, what was expected and what to do.

A command-line tool prints a UserError as one line and exits with 2; anything else is a bug and stays a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something in the user's hands is wrong; the message names it and says how to mend it."""


class ConfigError(UserError):
    """A config file, a config key or a command-line flag."""


class CheckpointError(UserError):
    """A checkpoint file or state dict that can't be read safely or doesn't fit the model."""


class DataError(UserError):
    """A data set: a missing folder, a corrupt image, a label out of range."""


class InputError(UserError):
    """Arguments of a call that don't fit together (shapes, dtypes, devices, files to infer on)."""


class UnknownNameError(UserError):
    """A name that nothing is registered under."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'a' or 'b'?` for the near misses of `name`, else the known names, else nothing."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        likeness = {match: difflib.SequenceMatcher(a=match, b=name).ratio() for match in near}
        # Long names are all alike: what is clearly further off than the nearest is no near miss.
        near = [match for match in near if likeness[match] > likeness[near[0]] - 0.1]
        return f" Did you mean {' or '.join(repr(match) for match in near)}?"
    if known:
        shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
        return f" Known: {shown}."
    return ""
