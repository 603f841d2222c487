"""Weight initialisation by StudioGAN's names."""

from collections.abc import Callable

from torch import Tensor, nn

INITIALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ortho": nn.init.orthogonal_,
    "N02": lambda weight: nn.init.normal_(weight, 0.0, 0.02),
    "glorot": nn.init.xavier_uniform_,
    "xavier": nn.init.xavier_uniform_,
}


def initialize(network: nn.Module, name: str) -> None:
    """Draw the weights of all convolutions, linear layers and embeddings; set biases to zero.

    A spectrally normalised layer is initialised at its unnormalised weight. Batch normalisation
    keeps its own start.

    Raises:
        ValueError: unknown name.
    """
    if name not in INITIALIZATIONS:
        raise ValueError(f"initialization is {name!r}; allowed: {', '.join(INITIALIZATIONS)}")
    draw = INITIALIZATIONS[name]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear | nn.Embedding):
            draw(getattr(module, "weight_orig", module.weight))
            bias = getattr(module, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
