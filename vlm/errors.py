"""Errors that are a user's to mend: one sentence that names the thing and the remedy."""


class UserError(Exception):
    """The work failed for a reason the user can mend. The command line prints the sentence and exits with ``exit_code``."""

    exit_code = 1


class ConfigError(UserError):
    """Bad arguments or a bad config file."""

    exit_code = 2


class ImageError(UserError):
    """A picture that is missing, unreadable or over the limits."""

    exit_code = 2
