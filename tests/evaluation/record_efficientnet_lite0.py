"""Writes efficientnet_lite0.json: what timm's tf_efficientnet_lite0 gives for the same weights.

    pip install timm && python -m tests.evaluation.record_efficientnet_lite0

Recorded, so that the tests need no timm.
"""

import json
from pathlib import Path

import torch

from topk_plugin.evaluation.efficientnet_lite0 import STAGES, published_weights

RECORDED = Path(__file__).with_name("efficientnet_lite0.json")
SIZES = (32, 75, 128)


def picture(size: int) -> torch.Tensor:
    """Two textured images, float [2, 3, size, size] in [-1, 1], the same everywhere."""
    n, c, y, x = torch.meshgrid(
        torch.arange(2), torch.arange(3), torch.arange(size), torch.arange(size), indexing="ij"
    )
    values = (3 * y * y + 5 * x * x + 7 * x * y + 40 * c + 90 * n) % 256
    return values.float() / 127.5 - 1


def timms_names() -> dict[str, str]:
    """Prefix of our names -> timm's."""
    names = {
        "stem.conv": "conv_stem",
        "stem.norm": "bn1",
        "head.conv": "conv_head",
        "head.norm": "bn2",
        "classifier": "classifier",
    }
    block = 0
    for stage, (expansion, _, count, _, _) in enumerate(STAGES):
        parts = ("depthwise", "project") if expansion == 1 else ("expand", "depthwise", "project")
        theirs = ("conv_dw", "conv_pw") if expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        for index in range(count):
            for number, (part, their) in enumerate(zip(parts, theirs, strict=True), start=1):
                names[f"blocks.{block}.{part}.conv"] = f"blocks.{stage}.{index}.{their}"
                names[f"blocks.{block}.{part}.norm"] = f"blocks.{stage}.{index}.bn{number}"
            block += 1
    return names


def main() -> None:
    import timm

    names = timms_names()
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    ours = published_weights()
    network.load_state_dict(
        {
            f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": v
            for name, v in ours.items()
        }
    )
    recorded: dict[str, object] = {"timm": timm.__version__, "torch": torch.__version__}
    with torch.no_grad():
        for size in SIZES:
            maps = network.forward_features(picture(size))
            features = network.forward_head(maps, pre_logits=True)
            recorded[str(size)] = {
                "features": features[:, ::64].tolist(),
                "length": features.norm(dim=1).tolist(),
                "logits": network(picture(size))[:, ::50].tolist(),
            }
    RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    main()
