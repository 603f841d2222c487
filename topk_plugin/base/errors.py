"""The one exception that the command line turns into a sentence and exit status 2."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one clear sentence: what was given, what is allowed, what to do. The command
    line prints it without a traceback and exits with status 2.
    """
