"""What 12 training steps leave behind, as one digest a config.

For changes that must leave training bit-identical: `python -m tests.engine.digests` on the code
before writes digests.json, and with `--check` the code after is held against it. Digests hold for
one machine and one version of torch only, so no test of the suite asks for them.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from tests.engine.tiny import CONTRASTIVE, ICR, REGULARIZERS, tiny_trainer
from topk_plugin.engine.methods.topk import k_of

FILE = Path(__file__).with_name("digests.json")
STEPS = 12
AC = {"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 0.5}}
D2DCE = {
    "MODEL": {"d_cond_mtd": "D2DCE", "d_embed_dim": 8, "normalize_d_embed": True},
    "LOSS": {"cond_lambda": 1.0, "temperature": 0.5, "m_p": 0.98},
}
RESNET = {"MODEL": {"backbone": "resnet", "g_shared_dim": "N/A"}}
DEEP_CONV = {
    "MODEL": {
        "backbone": "deep_conv",
        "g_shared_dim": "N/A",
        "g_conv_dim": "N/A",
        "d_conv_dim": "N/A",
    }
}
UNCONDITIONAL = {"MODEL": {"g_cond_mtd": "W/O", "d_cond_mtd": "W/O"}}


def loss(**keys: object) -> dict:
    return {"LOSS": keys}


def optimization(**keys: object) -> dict:
    return {"OPTIMIZATION": keys}


CASES: dict[str, tuple[dict, ...]] = {
    "hinge": (),
    "off": (loss(apply_topk=False),),
    "vanilla": (loss(adv_loss="vanilla"),),
    "logistic": (loss(adv_loss="logistic"),),
    "least_square": (loss(adv_loss="least_square"),),
    "wasserstein": (loss(adv_loss="wasserstein"),),
    "AC": (AC,),
    "2C": (CONTRASTIVE,),
    "D2DCE": (D2DCE,),
    "ICR": (ICR,),
    "contrastive ICR": (CONTRASTIVE, ICR),
    **{name: (change,) for name, change in REGULARIZERS.items()},
    "DiffAugment with bCR": (REGULARIZERS["DiffAugment"], ICR),
    "cr as DiffAugment": ({"AUG": {"apply_diffaug": True, "diffaug_type": "cr"}},),
    "LeCam, R1 and feature matching": (
        REGULARIZERS["LeCam"],
        REGULARIZERS["R1"],
        REGULARIZERS["feature matching"],
    ),
    "feature matching, accumulated": (
        REGULARIZERS["feature matching"],
        optimization(acml_steps=2, batch_size=4, d_updates_per_step=1),
    ),
    "resnet": (RESNET,),
    "resnet, unconditional": (RESNET, UNCONDITIONAL),
    "deep_conv": (DEEP_CONV,),
    "deep_conv, AC": (DEEP_CONV, AC),
    "bottom": (loss(topk_policy="bottom"),),
    "random": (loss(topk_policy="random"),),
    "balanced": (loss(topk_policy="balanced"),),
    "batch": (loss(topk_normalize="batch"),),
    "slice": (loss(topk_mode="slice"),),
    "every 3": (loss(topk_every=3),),
    "slice every 3": (loss(topk_mode="slice", topk_every=3),),
    "accumulated": (optimization(acml_steps=2),),
    "two generator updates": (optimization(g_updates_per_step=2),),
    "generator first": (optimization(d_first=False),),
    "SGD": (optimization(type_="SGD", momentum=0.9, nesterov=True),),
    "RMSprop": (optimization(type_="RMSprop", momentum=0.0, alpha=0.9),),
    "uniform, no flip": ({"MODEL": {"z_prior": "uniform"}, "PRE": {"apply_rflip": False}},),
    "without spectral norm": ({"MODEL": {"apply_g_sn": False, "apply_d_sn": False}},),
    "no moving average": (
        {"MODEL": {"apply_g_ema": False, "g_ema_decay": "N/A", "g_ema_start": "N/A"}},
    ),
}
BF16 = ("hinge", "contrastive ICR", "WGAN-GP")


def digest(*changes: dict, precision: str = "fp32") -> str:
    """SHA-256 over weights, buffers, moving average, optimiser state, losses and every step's k."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = tiny_trainer(*changes, precision=precision)
        told = hashlib.sha256()
        for _ in range(STEPS):
            losses = trainer.step()
            told.update(repr(k_of(trainer.terms)).encode())
            told.update(json.dumps({n: v.item() for n, v in sorted(losses.items())}).encode())
    finally:
        torch.set_num_threads(threads)
    networks = [trainer.generator, trainer.critic]
    if trainer.averaged_generator() is not None:
        networks.append(trainer.averaged_generator())
    for network in networks:
        for name, tensor in network.state_dict().items():
            _add(told, name, tensor)
    for optimizer in (trainer.g_optimizer, trainer.d_optimizer):
        for index, memory in optimizer.state_dict()["state"].items():
            for name, value in sorted(memory.items()):
                _add(told, f"{index} {name}", torch.as_tensor(0.0 if value is None else value))
    return told.hexdigest()


def _add(told: "hashlib._Hash", name: str, tensor: torch.Tensor) -> None:
    told.update(name.encode())
    told.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def all_digests() -> dict[str, str]:
    digests = {name: digest(*changes) for name, changes in CASES.items()}
    digests |= {f"{name}, bf16": digest(*CASES[name], precision="bf16") for name in BF16}
    return digests


def main() -> None:
    digests = all_digests()
    if sys.argv[1:] != ["--check"]:
        FILE.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        return
    before = json.loads(FILE.read_text(encoding="utf-8"))
    changed = [name for name in digests if digests[name] != before.get(name)]
    print(f"{len(digests) - len(changed)} trainings as before, changed: {changed}")
    sys.exit(bool(changed))


if __name__ == "__main__":
    main()
