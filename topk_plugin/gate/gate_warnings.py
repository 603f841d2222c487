"""What a training loop is warned about; each type says what kind of mistake it looks like."""

import warnings


class GateWarning(UserWarning):
    """Top-k training does something else than was probably meant."""


class NoEffectWarning(GateWarning):
    """Top-k training is set up in a way that cannot change anything."""


class SmallSelectionWarning(GateWarning):
    """The samples that a selection chooses from are too few for a ranking to mean much."""


class ReplayWarning(GateWarning):
    """A pass that should have repeated another one did something else."""


class WrongSignWarning(GateWarning):
    """The loss pushes the scores of generated samples the other way than the selection assumes."""


class CriticUpdateWarning(GateWarning):
    """The gate weights a gradient that looks like one of the critic's own update."""


def warn(message: str, kind: type[GateWarning]) -> None:
    """Warn on behalf of the caller of the method that calls this."""
    warnings.warn(message, kind, stacklevel=4)
