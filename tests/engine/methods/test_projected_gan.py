"""Projected GAN: the network against a slow one, what stays frozen, and who may judge it."""

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.engine.tiny import COMPANIONS, gate_of, tiny_config, tiny_images, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods import projected_gan
from topk_plugin.engine.methods.method import Fakes
from topk_plugin.engine.methods.projected_gan import multiply_adds, projected_critic
from topk_plugin.engine.methods.registry import unfit_extractors
from topk_plugin.engine.networks.projected_critic import LOGITS, ProjectedCritic
from topk_plugin.engine.plan import describe_plan
from topk_plugin.engine.session import Session
from topk_plugin.evaluation import extractors
from topk_plugin.evaluation.efficientnet_lite0 import EfficientNetLite0
from topk_plugin.evaluation.extractors import choose_extractor
from topk_plugin.study.spec import Data
from topk_plugin.study.study import Arm, Gan, Study, runs_of

ON = COMPANIONS["projected GAN"]
NO_CLASSES = {"MODEL": {"d_cond_mtd": "W/O"}}


def on_meta(size: int, *changes: dict) -> ProjectedCritic:
    config = tiny_config(ON, {"MODEL": {"projected_size": size, "d_conv_dim": 64}}, *changes)
    with torch.device("meta"):
        return projected_critic(EfficientNetLite0(), config)


# --- the network ---------------------------------------------------------------------------


def test_channels_and_sizes_are_the_authors() -> None:
    critic = on_meta(224)
    with torch.device("meta"):
        maps = critic.features.maps(torch.empty(1, 3, 224, 224))
        mixed = critic.mixing(maps)
    assert [tuple(found.shape[1:]) for found in mixed] == [
        *((64, 112, 112), (64, 56, 56)),
        *((128, 28, 28), (256, 14, 14)),
    ]
    widths = [[c.weight_orig.shape[0] for c, _, _ in critic.blocks] for critic in critic.critics]
    assert widths == [[64, 128, 256, 512], [128, 256, 512], [256, 512], [512]]


@pytest.mark.parametrize(
    ("size", "logits"), [(64, 4), (96, 36), (128, 4), (160, 16), (192, 36), (224, 64), (256, 100)]
)
def test_logits_a_sample(size: int, logits: int) -> None:
    with torch.device("meta"):
        out = on_meta(size)(torch.empty(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64))
    assert out[LOGITS].shape == (2, logits)
    assert out["adv_output"].shape == (2,)
    assert out["h"].shape == (2, 4 * (512 if size >= 128 else 256))


def slow_critic(critic: ProjectedCritic, images: Tensor, labels: Tensor) -> Tensor:
    """All logits [N, L] in evaluation mode, as the paper's figures have it: sum, double, mix."""
    size = critic.size
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    maps = critic.features.maps(images)
    logits: list[Tensor] = []
    below: Tensor | None = None
    for depth in (3, 2, 1, 0):
        across = critic.mixing.channels[depth]
        mixed = torch.einsum("oc,nchw->nohw", across.weight[:, :, 0, 0], maps[depth])
        mixed = mixed + across.bias[:, None, None]
        if below is not None:
            mixed = mixed + below
        upsampled = F.interpolate(
            mixed,
            size=(2 * mixed.shape[2], 2 * mixed.shape[3]),
            mode="bilinear",
            align_corners=True,
        )
        scales = critic.mixing.scales[depth]
        below = torch.einsum("oc,nchw->nohw", scales.weight[:, :, 0, 0], upsampled)
        below = below + scales.bias[:, None, None]
        h, one = below, critic.critics[depth]
        for convolution, norm, _ in one.blocks:
            h = F.conv2d(h, convolution.weight, convolution.bias, stride=2, padding=1)
            h = (h - norm.running_mean[:, None, None]) / (
                norm.running_var[:, None, None] + 1e-5
            ).sqrt()
            h = h * norm.weight[:, None, None] + norm.bias[:, None, None]
            h = torch.where(h > 0, h, 0.2 * h)
        side = h.shape[2] - 3
        windows = []
        for row in range(side):
            for column in range(side):
                window = h[:, :, row : row + 4, column : column + 4]
                value = torch.einsum("nchw,ochw->no", window, one.score.weight)
                if one.embedding is not None:
                    linear = one.project[0]
                    code = one.embedding.weight[labels] @ linear.weight.T + linear.bias
                    value = value * torch.where(code > 0, code, 0.2 * code)
                    value = value.sum(1, keepdim=True) / 8
                windows.append(value[:, 0])
        logits.insert(0, torch.stack(windows, dim=1))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("changes", [NO_CLASSES, {}])
def test_against_the_slow_network_in_float64(changes: dict) -> None:
    trainer = tiny_trainer(ON, {"MODEL": {"projected_size": 96}}, changes)
    trainer.step()
    critic = trainer.critic.double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    labels = torch.tensor([1, 3])
    with torch.no_grad():
        out, expected = critic(images, labels), slow_critic(critic, images, labels)
    torch.testing.assert_close(out[LOGITS], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out["adv_output"], expected.mean(1), rtol=1e-9, atol=1e-9)
    assert expected.std(1).min() > 1e-3


def test_multiply_adds_by_hand() -> None:
    """Of the critics' convolutions at 224 pixels; of the network as published, 0.4 billion."""
    critics = 0
    for channels, side in (
        *(((64, 64, 128, 256, 512), 56), ((64, 128, 256, 512), 28)),
        *(((128, 256, 512), 14), ((256, 512), 7)),
    ):
        for fan_in, fan_out in pairwise(channels):
            critics += 16 * fan_in * fan_out * side**2
            side //= 2
        critics += 16 * 512 * 16  # sixteen windows
    sizes = {"projected_size": 224, "d_conv_dim": 64, **NO_CLASSES["MODEL"]}
    batch = {"batch_size": 8, "d_updates_per_step": 2}
    found = multiply_adds(tiny_config(ON, {"MODEL": sizes, "OPTIMIZATION": batch}))
    frozen = (found / 8 - (4 * 3 + 2) * critics) / (4 + 2)
    assert 0.36e9 < frozen < 0.55e9


# --- the training --------------------------------------------------------------------------


def test_features_and_projections_stay_frozen_and_in_evaluation_mode() -> None:
    trainer = tiny_trainer(ON)
    critic = trainer.critic
    before = [p.clone() for p in (*critic.features.parameters(), *critic.mixing.parameters())]
    trainer.step()
    after = [*critic.features.parameters(), *critic.mixing.parameters()]
    assert all(map(torch.equal, before, after))
    assert all(p.grad is None and not p.requires_grad for p in after)
    assert critic.training
    assert not any(m.training for m in critic.features.modules())
    critic.requires_grad_(True)
    assert not any(p.requires_grad for p in critic.features.parameters())
    optimised = {id(p) for group in trainer.d_optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in after}
    assert sum(p.numel() for p in critic.critics.parameters()) == sum(
        p.numel() for group in trainer.d_optimizer.param_groups for p in group["params"]
    )


def test_projections_are_the_seeds_and_the_checkpoints() -> None:
    first, again, other = (tiny_trainer(ON, seed=seed) for seed in (0, 0, 1))
    state = first.state_dict()["discriminator"]
    mixing = {name: value for name, value in state.items() if name.startswith("mixing.")}
    assert len(mixing) == 16
    assert not any("features" in name for name in state)
    for name, value in mixing.items():
        assert torch.equal(again.critic.state_dict()[name], value)
        assert not torch.equal(other.critic.state_dict()[name], value)
    other.load_state_dict(first.state_dict())
    assert all(torch.equal(other.critic.state_dict()[n], value) for n, value in mixing.items())


def test_the_hinge_is_averaged_over_all_logits() -> None:
    trainer = tiny_trainer(ON, {"MODEL": {"projected_size": 96}})
    trainer.terms["projected GAN"].view = lambda images: images  # type: ignore[method-assign]
    real = torch.rand(4, 3, 32, 32) * 2 - 1
    labels = torch.arange(4)
    loss = trainer.objectives.of_critic(Batch(real, labels, labels), Fakes(-real, labels), steps=0)[
        "loss/discriminator"
    ]
    critic = tiny_trainer(ON, {"MODEL": {"projected_size": 96}}).critic
    total = torch.zeros(())
    for images, sign in ((real, 1), (-real, -1)):
        logits = critic(images, labels)[LOGITS]  # each side with batch statistics of its own
        for value in logits.flatten():
            total = total + max(1 - sign * value, torch.zeros(())) / logits.numel()
    torch.testing.assert_close(loss, total)


def test_images_are_augmented_with_a_small_cutout() -> None:
    trainer = tiny_trainer(ON)
    seen: list[Tensor] = []
    trainer.critic.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images, labels = torch.full((64, 3, 32, 32), 0.7), torch.zeros(64, dtype=torch.int64)
    with torch.no_grad():
        trainer.objectives._look(images, labels)
        trainer.objectives.criticise(images, labels)
    hidden = (seen[0] == 0).all(1)  # shifted in, or cut out
    rows = hidden[:, 16, 4:28].sum(1)
    assert 0 < rows.max() <= 6
    assert not torch.equal(seen[0][0], seen[0][1])
    assert torch.equal(seen[1], images)


def test_rows_mix_and_no_gradient_reaches_a_dropped_sample() -> None:
    """The gate zeroes rows; dropped samples still stand in the statistics of the kept ones."""
    trainer = tiny_trainer(ON, {"LOSS": {"topk_every": 1}})
    for _ in range(2):
        trainer.step()
    view = torch.rand(8, 3, 32, 32) * 2 - 1
    labels = torch.arange(8) % 4
    trainer.terms["projected GAN"].view = lambda images: images  # type: ignore[method-assign]
    gate, gradients = gate_of(trainer), []
    state = copy.deepcopy(trainer.critic.state_dict())
    for gated in (True, False):
        trainer.critic.load_state_dict(state)  # the same power iteration again
        images = view.clone().requires_grad_()
        if gated:
            with gate.generator_step():
                trainer.objectives.of_generator(Fakes(images, labels), None).backward()
        else:
            trainer.objectives.of_generator(Fakes(images, labels), None).backward()
        gradients.append(images.grad)
    kept = gate.stats.mask
    assert kept.sum() == 2
    assert not gradients[0][~kept].any()
    assert gradients[1].flatten(1).any(1).all()
    # of the whole batch's loss, kept rows weigh 8 / 2
    torch.testing.assert_close(gradients[0][kept], 4 * gradients[1][kept], rtol=1e-3, atol=1e-7)
    images = view.clone().requires_grad_()
    trainer.critic(images, labels)["adv_output"][kept].mean().neg().backward()  # a slice
    assert images.grad[~kept].any()


def test_bf16_trains() -> None:
    trainer = tiny_trainer(ON, precision="bf16")
    losses = [trainer.step() for _ in range(2)][-1]
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.dtype == torch.float32 for p in trainer.critic.parameters())


# --- what is refused and said --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"MODEL": {"attn_d_loc": [1]}}, r"attn_d_loc is \[1\].*set it to \[\]"),
        ({"MODEL": {"d_act_fn": "ELU"}}, "d_act_fn is 'ELU'.*always leaky ReLU"),
        ({"MODEL": {"d_init": "N02"}}, "d_init is 'N02'.*always torch's"),
        ({"MODEL": {"projected_size": 100}}, "must be one of 64, 96, 128"),
        ({"DATA": {"img_size": 128}, "MODEL": {"z_dim": 12}}, "projected_size is 64, less than"),
        ({"LOSS": {"adv_loss": "relativistic"}}, "compares samples by one"),
        ({"LOSS": {"topk_mode": "slice"}}, "several logits a sample.*'gate'"),
        ({"AUG": {"apply_diffaug": True, "diffaug_type": "diffaug"}}, "DiffAugment of its own"),
        (COMPANIONS["masking"], "DiffAugment of its own"),
        (COMPANIONS["selective matching"], "class's part of the score"),
        (COMPANIONS["SAN"], "SAN changes the backbone's critic"),
        (COMPANIONS["NICE"], "NICE changes the backbone's critic"),
        (COMPANIONS["minibatch discrimination"], "minibatch discrimination changes the"),
        (
            {"MODEL": {"d_cond_mtd": "AC"}, "LOSS": {"cond_lambda": 1.0}},
            "d_cond_mtd is 'AC'; use 'PD' or 'W/O'",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused(change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_config(ON, change)


def test_without_the_weights_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projected_gan, "is_installed", lambda: False)
    with pytest.raises(UserError, match=r"not installed; get it with .*\[imagenet\]"):
        tiny_trainer(ON)


def test_the_plan_says_what_a_step_costs() -> None:
    plan = "\n".join(describe_plan(tiny_config(ON), images=40, steps_per_epoch=2))
    billions = multiply_adds(tiny_config(ON)) / 1e9
    assert f"four critics at 64 px, {billions:.0f} billion multiply-adds" in plan
    assert math.isclose(billions, 1.46, rel_tol=0.01)


def test_the_features_that_trained_it_do_not_judge_it(monkeypatch: pytest.MonkeyPatch) -> None:
    unfit = unfit_extractors(tiny_config(ON))
    assert unfit == {"imagenet": "projected GAN"}
    assert unfit_extractors(tiny_config()) == {}

    def choose(extractor: str) -> extractors.ExtractorChoice:
        return choose_extractor(extractor, data_name="x", inception_weights=None, unfit=unfit)

    with pytest.raises(UserError, match=r"the training itself uses.*'inception' or 'builtin'"):
        choose("imagenet")

    def fails() -> None:
        raise extractors.DownloadFailed("no network")

    monkeypatch.setattr(extractors, "hub_weights_path", lambda: Path("nowhere"))
    monkeypatch.setattr(extractors, "download_weights", fails)
    assert choose("auto").name == "builtin"
    assert "those of 'imagenet' are used in training (projected GAN)" in choose("auto").reason


def test_commands_and_studies_refuse_such_a_judge() -> None:
    cpu = torch.device("cpu")
    session = Session.open(tiny_config(ON), tiny_images(), cpu)
    with pytest.raises(UserError, match="the training itself uses"):
        session.evaluator(["fid"], extractor="imagenet", inception_weights=None)
    arms = (Arm("pixels", ("MODEL.apply_projected=false",)), Arm("features"))
    gan = Gan("GAN", Path(__file__).parents[3] / "configs/Methods/Projected.yaml", (), arms)
    study = Study(
        "x",
        "x",
        (gan,),
        baseline="pixels",
        precision="fp32",
        extractor="builtin",
        samples=10,
        looks=1,
    )

    def runs(**changes: str) -> int:
        given = {"images": None, "device": "cpu", "threads": 1, "inception_weights": None}
        data = Data("Digits", None, None)
        return len(runs_of(replace(study, **changes), data=data, precision="fp32", **given))

    assert runs() == 10
    for place in ("extractor", "final_extractor"):
        with pytest.raises(UserError, match="the training itself uses"):
            runs(**{place: "imagenet"})
