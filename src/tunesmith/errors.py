"""One error tree: every user error names the place, the cause and the fix, in that order."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Every verb's help imports this module, and records brings NumPy.
    from pathlib import Path

    from tunesmith.records import Where


class TunesmithError(Exception):
    """Base of all errors a user can cause or repair; the command line prints it without a traceback.

    place: file:line:field, a recipe key, a folder or a model. cause: what is wrong. fix: what to do about it.
    """

    exit_code = 2

    def __init__(self, place: str | Where | Path, cause: str, fix: str) -> None:
        self.place = str(place)
        self.cause = cause
        self.fix = fix
        super().__init__(f"{self.place}: {cause} Fix: {fix}")


class ConfigError(TunesmithError, ValueError):
    """A recipe that cannot be understood: unknown key, wrong type, value out of range."""


class DataError(TunesmithError, ValueError):
    """Rows that cannot be read, shaped, rendered or trained on."""


class ModelError(TunesmithError, ValueError):
    """A base model or tokenizer that cannot be found or loaded."""


class AdapterMismatchError(ModelError):
    """An adapter trained on another base or tokenizer than the one it is asked to run on."""


class RunError(TunesmithError, OSError):
    """A run folder in use, missing or not writable."""


class CheckpointError(TunesmithError, OSError):
    """A checkpoint that is missing, half-written, corrupt or made by another recipe."""


class DiskFullError(RunError):
    """No space left while writing; what was written before stays valid."""


class NonFiniteLossError(TunesmithError, ArithmeticError):
    """The loss or its gradient became infinite or not a number."""


class ExportCheckError(TunesmithError, ValueError):
    """An exported file that its engine does not run as the model that was trained."""


class RewardError(TunesmithError, ValueError):
    """A reward that cannot be opened, fails, or gives something else than one finite number an answer."""


class BudgetError(TunesmithError, MemoryError):
    """The job does not fit into the memory of this machine."""


class MissingExtraError(TunesmithError, ImportError):
    """A feature whose optional dependency is not installed."""


class EndpointError(TunesmithError, OSError):
    """An endpoint that cannot be reached, refuses, or answers with something else than what was asked."""
