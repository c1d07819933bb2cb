"""The errors a user can cause. The command line prints each as one line and exits with status 2."""


class UserError(Exception):
    """Bad input: a choice, a path or a setting that the user can mend. Its message is one clear sentence."""


class IncompatibleAxes(UserError):
    """A combination of axes (schedule, path, parameterization, ...) that has no meaning; says why."""


class NoLikelihood(UserError):
    """The family has no likelihood; its column in a table stays empty."""
