"""The errors a user can cause. The command line prints each as one line and exits with status 2."""

AGAIN = 75
"""Exit status of what was stopped before it was done (EX_TEMPFAIL): a batch script has it started again."""

LOST = 69
"""Exit status of a rank that lost another (EX_UNAVAILABLE), which has said why it stopped."""


class UserError(Exception):
    """Bad input: a choice, a path or a setting that the user can mend. Its message is one clear sentence."""


class IncompatibleAxes(UserError):
    """A combination of axes (schedule, path, parameterization, ...) that has no meaning; says why."""


class Interrupted(Exception):
    """A run was told to stop by a signal, and has; says how it goes on.

    Args:
        status: the exit status, that of a process ended by that signal, say; 0 for a rank that leaves it to rank zero to
            say so, since one that fails has the rest killed.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class NonFiniteSamples(UserError):
    """A sampler diverged, or a model has not learned anything finite."""


class NonFiniteFeatures(UserError):
    """An extractor gave features that are NaN or infinite, of samples or of data."""


class Diverged(UserError):
    """Training came to a loss or to weights that are NaN or infinite; names the step."""


class NoLikelihood(UserError):
    """The family has no likelihood; its column in a table stays empty."""


class WeightsUnavailable(UserError):
    """Published weights are neither on this machine nor can they be downloaded; says where to put them."""


def essence(message: str) -> str:
    """What a parser's message says, without the types it tried and the value it was given."""
    noise = (
        'Parser key "object"',
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "- Expected a <class 'NoneType'>",
        "Given value",
    )
    lines = [line.strip() for line in message.splitlines()]
    return " ".join(line.removeprefix("- ") for line in lines if line and not line.startswith(noise))
