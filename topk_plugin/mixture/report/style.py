"""What all figures of the laboratory share."""

from pathlib import Path

from matplotlib.figure import Figure

from topk_plugin.base.files import atomic_write

DPI = 110
# Okabe and Ito's colours, which colour-blind readers can tell apart; one an arm everywhere
COLOURS = {"full": "#4d4d4d", "top": "#0072B2", "bottom": "#D55E00", "random": "#009E73"}
LABELS = {"full": "full batch", "top": "top-k", "bottom": "bottom-k", "random": "random-k"}
TITLES = {
    "high_quality": "high-quality samples",
    "recovered": "recovered modes",
    "recovered_strictly": "strictly recovered modes",
    "kl": "KL of mode shares (nats)",
    "steps_to_half": "steps until half of the samples are of high quality",
}


def colour(arm: str) -> str:
    """Colour of an arm or of an update."""
    return COLOURS[arm]


def label(arm: str) -> str:
    """What readers call an arm or an update."""
    return LABELS[arm]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
