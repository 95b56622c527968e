"""The two ways in which a command fails on purpose. Each carries one line for the user and its exit code."""


class PayprocError(Exception):
    """A failure that has been understood: its text is the whole message, fit for a user's eyes."""

    exit_code = 1


class CannotFinish(PayprocError):
    """The command could not finish. What it reported before is durable, and running it again is safe."""


class WrongUsage(PayprocError):
    """The command was called with something it cannot work on. Nothing was done."""

    exit_code = 2
