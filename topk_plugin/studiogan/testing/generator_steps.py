"""One generator step of the real StudioGAN in each of many configs, in float64.

    python -m topk_plugin.studiogan.testing.generator_steps bare|adapted CHECKOUT RESULT.pt

bare: StudioGAN as it is, with its own slice ("slice") and without top-k ("off").
adapted: the plugin's gate ("gate").

RESULT.pt: case -> mode -> what was recorded, see the attributes of ``Recorder``; the latents, the
classes and the weights are the same in every mode.
"""

import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from topk_plugin.studiogan.testing.in_process import (
    SMALL,
    Tree,
    make_worker,
    merged,
    start_adapted,
    start_bare,
)
from topk_plugin.studiogan.testing.step_recorder import Recorder

BATCH, KEPT = 16, 11
ADVERSARIAL = ("vanilla", "logistic", "least_square", "hinge", "wasserstein")


@dataclass(frozen=True)
class Case:
    """A config.

    Attributes:
        changes: on top of ``SMALL``.
        only_adversarial: nothing but the adversarial term depends on the critic, and no sample on
            another: StudioGAN's slice then has the right gradient.
        refused: StudioGAN refuses top-k here.
        data_parallel: with the networks in DataParallel.
    """

    changes: Tree
    only_adversarial: bool = False
    refused: bool = False
    data_parallel: bool = False


def _cases() -> dict[str, Case]:
    unconditional = {"MODEL": {"d_cond_mtd": "W/O"}}
    cases = {}
    for loss in ADVERSARIAL:
        adversarial = {"LOSS": {"adv_loss": loss}}
        cases[f"PD, {loss}"] = Case(adversarial, True)
        cases[f"W/O, {loss}"] = Case(merged(unconditional, adversarial), True)
    cases["MD"] = Case({"MODEL": {"d_cond_mtd": "MD"}}, True)
    cases["acml_steps 2"] = Case({"OPTIMIZATION": {"acml_steps": 2}}, True)
    cases["g_updates_per_step 2"] = Case({"OPTIMIZATION": {"g_updates_per_step": 2}}, True)
    cases["DiffAugment"] = Case({"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}}, True)
    cases["DataParallel"] = Case({}, True, data_parallel=True)
    latent = {"lo_alpha": 0.9, "lo_beta": 0.1, "lo_lambda": 0.1, "lo_rate": 0.8}
    latent |= {"lo_steps4train": 2, "lo_steps4eval": 2}
    cases["latent optimisation"] = Case({"LOSS": {"apply_lo": True, **latent}}, True)
    consistent = {"apply_zcr": True, "radius": 0.05, "g_lambda": 0.5, "d_lambda": 20.0}
    cases["zCR"] = Case({"LOSS": consistent}, True)
    conditional = {"cond_lambda": 1.0, "tac_gen_lambda": 0.5, "tac_dis_lambda": 0.5}
    conditional |= {"temperature": 0.5, "m_p": 0.98}
    for method in ("AC", "2C", "D2DCE"):
        for head in ("W/O", "TAC", "ADC"):
            model = {"d_cond_mtd": method, "aux_cls_type": head, "d_embed_dim": 32}
            model["normalize_d_embed"] = method != "AC"  # as in StudioGAN's own configs
            changes: Tree = {"MODEL": model, "LOSS": conditional}
            cases[method if head == "W/O" else f"{method}, {head}"] = Case(changes)
    hinge = {"adv_loss": "MH", "mh_lambda": 0.05}
    cases["MH"] = Case({"MODEL": {"d_cond_mtd": "MH"}, "LOSS": hinge}, refused=True)
    matching = {"apply_fm": True, "fm_lambda": 1.0}
    cases["feature matching"] = Case({"LOSS": matching})
    cases["MH, feature matching"] = Case(
        {"MODEL": {"d_cond_mtd": "MH"}, "LOSS": hinge | matching}, refused=True
    )
    discrete = {"info_num_discrete_c": 2, "info_dim_discrete_c": 3}
    continuous = {"info_num_conti_c": 2}
    weights = {
        "discrete": ["infoGAN_loss_discrete_lambda"],
        "continuous": ["infoGAN_loss_conti_lambda"],
    }
    weights["both"] = weights["discrete"] + weights["continuous"]
    for kind, codes in (
        ("discrete", discrete),
        ("continuous", continuous),
        ("both", discrete | continuous),
    ):
        model = {"info_type": kind, "g_info_injection": "cBN", **codes}
        cases[f"InfoGAN, {kind}"] = Case(
            {"MODEL": model, "LOSS": dict.fromkeys(weights[kind], 1.0)}
        )
    return cases


CASES = _cases()


def record(case: Case, mode: str) -> Recorder:
    """Take one generator step in this process.

    Args:
        mode: "gate" in an adapted process, "slice" or "off" in a bare one.
    """
    tree = merged(merged(SMALL, {"OPTIMIZATION": {"batch_size": BATCH}}), case.changes)
    if mode != "off":
        fraction = KEPT / BATCH
        topk = {"apply_topk": True, "topk_gamma": fraction, "topk_nu": fraction}
        tree = merged(tree, {"LOSS": topk})
    with tempfile.TemporaryDirectory() as folder:
        worker = make_worker(tree, Path(folder), data_parallel=case.data_parallel)
        for _ in range(2):  # the second batch is another epoch's, for which the gate lowers k
            worker.sample_data_basket()
        if mode == "slice":
            worker.topk = KEPT
        recorder = Recorder()
        recorder.watch(worker)
        torch.manual_seed(2)
        worker.train_generator(current_step=0)
    return recorder


def main() -> None:
    kind, checkout, result = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    source = Path(checkout).resolve() / "src"
    adapted = kind == "adapted"
    (start_adapted if adapted else start_bare)(source)
    results: dict[str, dict[str, Any]] = {}
    for name, case in CASES.items():
        modes = ["gate"] if adapted else ["off"] if case.refused else ["slice", "off"]
        for mode in modes:
            recorder = record(case, mode)
            results.setdefault(name, {})[mode] = {
                "scores": [batch.scores for batch in recorder.batches],
                "rows": [batch.rows for batch in recorder.batches],
                "updates": recorder.updates,
                "real_scores": recorder.real_scores,
                "other_calls": recorder.other_calls,
            }
    torch.save(results, result)


if __name__ == "__main__":
    main()
