"""The errors that end a command. Each carries one line for the user and its exit code."""


class PayprocError(Exception):
    """A failure with a known cause. Its text is the whole message for the user."""

    exit_code = 1


class CannotFinish(PayprocError):
    """The command could not finish. Its reports are durable, and running it again is safe."""


class WrongUsage(PayprocError):
    """The command was called with arguments or input that it cannot use. Nothing was done."""

    exit_code = 2
