"""Every failure that a user can mend is a `LeukError`: one line for the problem, one for the way out, one exit code.

This module imports nothing, so that it can be raised from anywhere.
"""


class LeukError(Exception):
    """A problem with something outside the program; `problem` names the value, `hint` the next thing to do."""

    exit_code = 1

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.problem}\n{self.hint}" if self.hint else self.problem


class UsageError(LeukError):
    """The command was asked for something that does not exist or does not go together."""

    exit_code = 2


class DataError(LeukError):
    """Some or all inputs cannot be used."""

    exit_code = 3


class WorkspaceError(LeukError):
    """An artefact is missing, damaged, or was made from other data."""

    exit_code = 4


class MachineError(LeukError):
    """Device, memory, disk or pretrained weights are not to be had."""

    exit_code = 5


class ThresholdMissed(LeukError):
    """A figure fell short of a threshold that the user set."""

    exit_code = 6


class Interrupted(LeukError):
    """A signal asked the work to stop, and it stopped at a point from which it can go on."""

    def __init__(self, exit_code: int, problem: str, hint: str) -> None:
        super().__init__(problem, hint)
        self.exit_code = exit_code
