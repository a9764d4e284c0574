"""The project's own exceptions: few, and each for an error that a person can mend.

Every message names the thing, what was expected, what was found and what to do. What belongs here: exception classes
that more than one room raises or catches. What doesn't: how errors are shown (the command line, Dagster).
"""

from __future__ import annotations


class BiocloudError(Exception):
    """An error that a person can mend.

    Args:
        thing: what the error is about: a variable, a delivery, a table.
        expected: what was expected of it.
        found: what was found instead.
        hint: what to do.
    """

    def __init__(self, thing: str, *, expected: str, found: str, hint: str) -> None:
        self.thing, self.expected, self.found, self.hint = thing, expected, found, hint
        super().__init__(f"{thing}: expected {expected}, found {found}. {hint}")


class SettingsError(BiocloudError):
    """A setting has a value that can't be used."""


class LakeError(BiocloudError):
    """A path, a file or a bucket can't be used, or a path would leave its root."""


class DeliveryNameError(BiocloudError):
    """A name is not a delivery's name."""


class RunDateError(BiocloudError):
    """A run date, or a number of days before it, can't be used."""


class DeliveryRefusedError(BiocloudError):
    """A delivery breaks the contract; nothing of it was written. `faults` holds every fault that was found."""

    def __init__(self, delivery: str, faults: tuple[object, ...]) -> None:
        self.delivery, self.faults = delivery, faults
        super().__init__(
            f"delivery {delivery}",
            expected="data as in the DSI delivery contract",
            found=f"{len(faults)} fault{'s' if len(faults) != 1 else ''}:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\n",
            hint="Nothing of it was written. Have DSI mend and deliver it again.",
        )


class EngineError(BiocloudError):
    """The Spark engine can't be started or used as set up."""


class TableError(BiocloudError):
    """A Delta table is not as the contract says, or would not be after a write."""


class DeployError(BiocloudError):
    """The DAGs can't be deployed; nothing was uploaded or removed."""


class ExportError(BiocloudError):
    """The Dagster definitions can't be exported to Airflow, or what was exported is stale."""
