"""What all figures of the laboratory share."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from topk_plugin.base.files import atomic_write
from topk_plugin.mixture.lab.settings import Arm

DPI = 110
# Okabe and Ito's colours, which colour-blind readers can tell apart; one a policy everywhere
FULL_BATCH = "#4d4d4d"
POLICIES = {"top": "#0072B2", "bottom": "#D55E00", "random": "#009E73"}
OTHERS = ("#CC79A7", "#E69F00", "#56B4E9")
"""Of policies without a colour of their own, in the order in which they come."""
PALEST = 0.6
"""How far to white the last of several arms of one policy goes."""
LABELS = {
    "full": "full batch",
    "top": "top-k",
    "bottom": "bottom-k",
    "random": "random-k",
    "released": "top-k, released",
}
TITLES = {
    "high_quality": "high-quality samples",
    "recovered": "recovered modes",
    "recovered_strictly": "strictly recovered modes",
    "kl": "KL of mode shares (nats)",
    "steps_to_half": "steps until half of the samples are of high quality",
}


def colours(arms: Sequence[Arm]) -> list[str]:
    """A colour an arm: grey for the full batch, else its policy's, paler from arm to arm."""
    kinds = [None if arm.drops_nothing else arm.policy for arm in arms]
    others = [kind for kind in dict.fromkeys(kinds) if kind is not None and kind not in POLICIES]
    chosen = []
    for i, kind in enumerate(kinds):
        if kind is None:
            base = FULL_BATCH
        elif kind in POLICIES:
            base = POLICIES[kind]
        else:
            base = OTHERS[others.index(kind) % len(OTHERS)]
        before, alike = kinds[:i].count(kind), kinds.count(kind)
        pale = PALEST * before / max(1, alike - 1)
        red, green, blue = (c + (1 - c) * pale for c in to_rgb(base))
        chosen.append(to_hex((red, green, blue)))
    return chosen


def update_colour(update: str) -> str:
    """Colour of a step on the full batch, or on the samples that a policy keeps."""
    return FULL_BATCH if update == "full" else POLICIES[update]


def label(arm: str) -> str:
    """What readers call an arm or an update: its own name, if it is none of the usual ones."""
    return LABELS.get(arm, arm)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, atomically."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
