"""A step of the trainer: who is updated, when, with which gradient, and exact resumption."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import (
    CLASSES,
    COMPANIONS,
    CONTRASTIVE,
    ICR,
    REGULARIZERS,
    gate_of,
    tiny_config,
    tiny_images,
    tiny_trainer,
)
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods.method import Fakes
from topk_plugin.engine.methods.topk import k_of, topk_of
from topk_plugin.engine.networks.self_attention import SelfAttention
from topk_plugin.engine.replicas import AveragedLoss
from topk_plugin.engine.trainer import Trainer

METHODS = REGULARIZERS | COMPANIONS
GANS = {"BigGAN": (), "ContraGAN": (CONTRASTIVE,), "BigGAN-ICR": (ICR,)}
OFF = {"LOSS": {"apply_topk": False, "topk_gamma": "N/A", "topk_nu": "N/A"}}


def whole_state(trainer: Trainer) -> dict[str, Tensor]:
    """Every tensor of the state by its path."""
    found: dict[str, Tensor] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, Tensor):
            found[path] = value.detach().clone()
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}/{name}")
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                walk(inner, f"{path}/{i}")
        elif isinstance(value, int | float):
            found[path] = torch.tensor(value)

    walk(trainer.state_dict(), "")
    return found


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert different == []


def reloaded(trainer: Trainer, *changes: dict, seed: int = 0) -> Trainer:
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    buffer.seek(0)
    fresh = tiny_trainer(*changes, seed=seed)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    return fresh


@pytest.mark.parametrize("gan", GANS)
def test_resuming_at_any_step_changes_nothing_bit_for_bit(gan: str) -> None:
    steps = 6  # two baskets an epoch: three epochs, k falls 8, 4, 2
    uninterrupted = tiny_trainer(*GANS[gan])
    states = [copy.deepcopy(whole_state(uninterrupted))]
    ks = []
    for _ in range(steps):
        uninterrupted.step()
        ks.append(k_of(uninterrupted.terms))
        states.append(whole_state(uninterrupted))
    assert ks == [8, 4, 4, 2, 2, 2]
    for stop in range(steps):
        trainer = tiny_trainer(*GANS[gan])
        for _ in range(stop):
            trainer.step()
        torch.manual_seed(1234 + stop)  # the global generator plays no part
        resumed = reloaded(trainer, *GANS[gan])
        assert_same(whole_state(resumed), states[stop])
        for _ in range(steps - stop):
            resumed.step()
        assert_same(whole_state(resumed), states[steps])


@pytest.mark.parametrize("policy", ["random", "balanced", "bottom"])
def test_resuming_with_other_policies(policy: str) -> None:
    change = {"LOSS": {"topk_policy": policy}}
    uninterrupted = tiny_trainer(change)
    for _ in range(5):
        uninterrupted.step()
    resumed = tiny_trainer(change)
    for _ in range(3):
        resumed.step()
    resumed = reloaded(resumed, change)
    for _ in range(2):
        resumed.step()
    assert_same(whole_state(resumed), whole_state(uninterrupted))


def test_seeds_make_different_runs_and_equal_seeds_equal_ones() -> None:
    runs = []
    for seed in (3, 3, 4):
        trainer = tiny_trainer(seed=seed)
        trainer.step()
        runs.append(whole_state(trainer))
    assert_same(runs[0], runs[1])
    assert not torch.equal(
        runs[0]["/generator/linear0.weight_orig"], runs[2]["/generator/linear0.weight_orig"]
    )


def test_top_k_on_and_off_see_the_same_weights_data_and_latents() -> None:
    """Paired runs: until k first drops there is no difference at all."""
    on, off = tiny_trainer(), tiny_trainer(OFF)
    assert not off.terms.get("top-k")
    for _ in range(2):
        on.step()
        off.step()
    for name, value in off.generator.state_dict().items():
        assert torch.equal(on.generator.state_dict()[name], value)
    on.step()
    off.step()
    assert on.stream.state_dict() == off.stream.state_dict()
    assert torch.equal(on.latents.generator.get_state(), off.latents.generator.get_state())
    different = [
        not torch.equal(on.generator.state_dict()[n], v)
        for n, v in off.generator.state_dict().items()
    ]
    assert any(different)


@pytest.mark.parametrize("name", METHODS)
def test_resuming_with_a_regulariser_changes_nothing(name: str) -> None:
    change = METHODS[name]
    uninterrupted = tiny_trainer(change)
    resumed = tiny_trainer(change)
    for _ in range(5):
        uninterrupted.step()
    for _ in range(3):
        resumed.step()
    resumed = reloaded(resumed, change)
    for _ in range(2):
        resumed.step()
    assert_same(whole_state(resumed), whole_state(uninterrupted))


@pytest.mark.parametrize("name", METHODS)
def test_a_regulariser_changes_the_training(name: str) -> None:
    """Switched off, with all else as it was, the weights differ after four steps."""
    change = METHODS[name]
    off = {
        section: {key: False for key, value in values.items() if value is True}
        for section, values in change.items()
    }
    if name == "label smoothing":
        off = {"LOSS": {"real_label": 1.0}}
    if "adv_loss" in change.get("LOSS", {}):
        off = {"LOSS": {"adv_loss": "hinge", "apply_gp": False, "real_label": 1.0}}
    runs = []
    for trainer in (tiny_trainer(change), tiny_trainer(change, off)):
        for _ in range(4):
            losses = trainer.step()
        assert all(torch.isfinite(loss) for loss in losses.values())
        runs.append(trainer.generator.linear0.weight_orig)
    assert not torch.equal(*runs)


@pytest.mark.parametrize("name", ["WGAN-GP", "R1"])
@pytest.mark.parametrize("spectral", [True, False])
def test_a_penaltys_gradient_is_its_finite_difference(name: str, spectral: bool) -> None:
    """Through spectral or batch norm, self-attention and folded convolutions, to each weight."""
    smooth = {"MODEL": {"d_act_fn": "GELU", "d_conv_dim": 8, "apply_d_sn": spectral}}
    trainer = tiny_trainer(REGULARIZERS[name], smooth, {"LOSS": {"adv_loss": "wasserstein"}})
    critic = trainer.critic.double()
    torch.manual_seed(0)
    for parameter in critic.parameters():
        if not parameter.any():  # self-attention's own weight
            nn.init.constant_(parameter, 0.3)
    real = torch.rand(4, 3, 32, 32, dtype=torch.float64) * 2 - 1
    labels = torch.tensor([0, 1, 2, 3])
    batch = Batch(real, labels, labels)
    fakes = Fakes(-real.flip(0), labels, None)
    for _ in range(10):  # power iterations; before them layers may be enlarged beyond measure
        critic(real, labels)
    critic.eval()

    def loss() -> Tensor:
        trainer.augmentation.manual_seed(3)
        losses = trainer.objectives.of_critic(batch, fakes, steps=0)
        return losses["loss/discriminator"]

    loss().backward()
    step = 1e-6
    for weight, parameter in critic.named_parameters():
        direction = torch.randn_like(parameter)
        expected = torch.zeros((), dtype=torch.float64)
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
            expected += sign * loss().detach() / (2 * step)
            with torch.no_grad():
                parameter.sub_(direction, alpha=sign * step)
        computed = (parameter.grad * direction).sum()
        torch.testing.assert_close(computed, expected, rtol=1e-5, atol=1e-6, msg=weight)


def test_a_critic_whose_gradient_is_penalised_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr("topk_plugin.engine.trainer.compile_forward", compiled.append)
    for change in ({}, REGULARIZERS["WGAN-GP"], REGULARIZERS["R1"]):
        compiled.clear()
        trainer = Trainer(
            tiny_config(change), tiny_images(), seed=0, device=torch.device("cpu"), compiled=True
        )
        expected = {trainer.generator} if change else {trainer.generator, trainer.critic}
        assert set(compiled) == expected
        twice = [
            m.twice_differentiable for m in trainer.critic.modules() if isinstance(m, SelfAttention)
        ]
        assert twice == [bool(change)]


def test_feature_matching_takes_a_basket_a_batch_of_the_generator_as_studiogan_does() -> None:
    trainer = tiny_trainer(REGULARIZERS["feature matching"])
    assert trainer.stream.steps_per_epoch == 2
    assert trainer.steps_per_epoch == 1
    # the critic looks at 2 batches of 8 in its updates and at 1 in the generator's
    assert trainer.images_per_step == 24
    shown: list[Tensor] = []
    trainer.critic.register_forward_pre_hook(lambda critic, args: shown.append(args[0]))
    trainer.step()
    assert trainer.stream.state_dict() == tiny_trainer().stream.state_dict() | {"epoch": 1}
    again = tiny_trainer().stream
    again.next_step()
    assert torch.equal(shown[-1], again.next_step()[0][0])


def test_too_few_images_for_feature_matching_are_refused() -> None:
    change = REGULARIZERS["feature matching"]
    with pytest.raises(UserError, match=r"40 images, enough for 2.*feature matching.* 3 times"):
        tiny_trainer(change, {"OPTIMIZATION": {"g_updates_per_step": 2}})


def test_lecams_averages_are_of_the_scores_and_travel_in_the_state() -> None:
    trainer = tiny_trainer(REGULARIZERS["LeCam"])
    trainer.step()
    saved = trainer.state_dict()["methods"]["LeCam"]
    assert saved["real"].dtype == torch.float64
    off = tiny_trainer({"LOSS": {"apply_lecam": False}})
    off.load_state_dict(trainer.state_dict())
    assert "LeCam" not in off.state_dict()["methods"]
    other = tiny_trainer(REGULARIZERS["LeCam"])
    other.load_state_dict(off.state_dict())
    assert other.state_dict()["methods"]["LeCam"] == {"real": None, "fake": None}
    other.step()


def test_two_learning_rates_are_the_two_networks() -> None:
    """TTUR: the first step of Adam is as long as its learning rate."""
    change = {"OPTIMIZATION": {"g_lr": 1e-4, "d_lr": 4e-4, "d_updates_per_step": 1}}
    trainer = tiny_trainer(change)
    networks = (trainer.generator, trainer.critic)
    before = [
        network.linear0.bias.clone()
        if network is trainer.generator
        else network.linear1.weight_orig.clone()
        for network in networks
    ]
    trainer.step()
    moved = [
        (trainer.generator.linear0.bias - before[0]).abs().max().item(),
        (trainer.critic.linear1.weight_orig - before[1]).abs().max().item(),
    ]
    assert moved == pytest.approx([1e-4, 4e-4], rel=0.05)


def test_slice_mode_gives_the_gates_gradient_without_a_conditional_loss() -> None:
    gated = tiny_trainer()
    sliced = tiny_trainer({"LOSS": {"topk_mode": "slice"}})
    assert gate_of(sliced) is None
    for _ in range(4):
        gated.step()
    sliced.load_state_dict(gated.state_dict())
    assert k_of(gated.terms) == k_of(sliced.terms) == 2
    gradients, losses = [], []
    for trainer in (gated, sliced):
        losses.append(trainer._train_generator()["loss/generator"])
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.generator.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
    # the slice logs the loss of the kept samples only, which is lower
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"OPTIMIZATION": {"d_first": False}},
        {"OPTIMIZATION": {"d_updates_per_step": 5}},  # one step an epoch
        {"LOSS": {"topk_every": 1}, "OPTIMIZATION": {"g_updates_per_step": 2}},
        {"LOSS": {"topk_every": 3, "topk_gamma": 0.8}},
    ],
)
def test_gate_and_slice_use_the_same_k_in_every_update(
    change: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: dict[str, list[int]] = {"gate": [], "slice": []}
    real_topk = torch.topk

    def watched(scores: Tensor, k: int) -> object:
        used["slice"].append(k)
        return real_topk(scores, k)

    gated = tiny_trainer(change)
    sliced = tiny_trainer(change, {"LOSS": {"topk_mode": "slice"}})
    term = topk_of(gated.terms)
    update = term.after_generator_update

    def noting(steps: int) -> None:
        used["gate"].append(int(gate_of(gated).stats.mask.sum()))
        update(steps)

    monkeypatch.setattr(term, "after_generator_update", noting)
    for _ in range(6):
        gated.step()
    monkeypatch.setattr(torch, "topk", watched)
    for _ in range(6):
        sliced.step()
    assert used["gate"] == used["slice"]
    assert used["gate"][0] == 8
    assert len(set(used["gate"])) >= 2
    assert k_of(gated.terms) == k_of(sliced.terms) == gate_of(gated).k


def test_a_baseline_resumed_with_the_gate_has_made_progress() -> None:
    baseline = tiny_trainer(OFF)
    for _ in range(4):
        baseline.step()
    gated = tiny_trainer()
    gated.load_state_dict(baseline.state_dict())
    gated.step()
    assert gate_of(gated).stats.k == 2  # two epochs are over


def test_the_configs_learning_rate_wins_over_the_checkpoints() -> None:
    trainer = tiny_trainer()
    trainer.step()
    lower = tiny_trainer({"OPTIMIZATION": {"g_lr": 1e-6, "beta1": 0.0}})
    lower.load_state_dict(trainer.state_dict())
    group = lower.g_optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-6, (0.0, 0.999))
    assert lower.d_optimizer.param_groups[0]["lr"] == 2e-4
    moments = [
        [o.state[p]["exp_avg"] for p in o.param_groups[0]["params"]]
        for o in (trainer.g_optimizer, lower.g_optimizer)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    other = tiny_trainer({"OPTIMIZATION": {"type_": "RMSprop", "momentum": 0.0, "alpha": 0.9}})
    with pytest.raises(ValueError, match=r"OPTIMIZATION\.type_"):
        other.load_state_dict(trainer.state_dict())


def test_random_states_of_another_kind_of_device_are_replaced() -> None:
    trainer = tiny_trainer({"LOSS": {"topk_policy": "random"}})
    for _ in range(3):
        trainer.step()
    state = trainer.state_dict()
    gpu_like = torch.zeros(16, dtype=torch.uint8)  # a CUDA generator's state has 16 bytes
    state["latents"] = state["augmentation"] = gpu_like
    state["methods"]["top-k"]["generator_state"] = gpu_like
    resumed = tiny_trainer({"LOSS": {"topk_policy": "random"}})
    resumed.load_state_dict(state)
    assert not resumed.exact
    resumed.step()
    assert resumed.step_count == 4
    exact = tiny_trainer()
    exact.load_state_dict(tiny_trainer().state_dict())
    assert exact.exact


def test_the_gate_acts_on_every_accumulated_batch() -> None:
    trainer = tiny_trainer({"OPTIMIZATION": {"acml_steps": 2, "batch_size": 4}})
    for _ in range(4):
        trainer.step()
    gradients: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, output: Tensor) -> None:
        output.register_hook(gradients.append)

    handle = trainer.generator.register_forward_hook(watch)
    trainer._train_generator()
    handle.remove()
    kept = [int((g != 0).flatten(1).any(1).sum()) for g in gradients]
    assert kept == [k_of(trainer.terms)] * 2 == [1, 1]


def test_one_step_moves_both_networks_and_their_statistics_as_studiogan_does() -> None:
    trainer = tiny_trainer(
        {"OPTIMIZATION": {"acml_steps": 2, "g_updates_per_step": 3, "batch_size": 4}}
    )
    before = {n: v.clone() for n, v in trainer.generator.state_dict().items()}
    d_before = {n: v.clone() for n, v in trainer.critic.state_dict().items()}
    trainer.step()
    after, d_after = trainer.generator.state_dict(), trainer.critic.state_dict()
    # batch statistics move in the generator's updates only: 3 updates x 2 accumulated batches
    assert after["bn4.num_batches_tracked"] == 6
    # spectral norm iterates in every forward pass
    assert not torch.equal(before["linear0.weight_u"], after["linear0.weight_u"])
    for name in ("linear0.weight_orig", "shared.weight", "conv2d5.bias"):
        assert not torch.equal(before[name], after[name])
    for name in ("linear1.weight_orig", "embedding.weight_orig", "blocks.0.0.conv2d1.bias"):
        assert not torch.equal(d_before[name], d_after[name])
    assert trainer.step_count == 1
    assert trainer.stream.state_dict()["images"] == 16  # 2 critic updates x 2 x 4
    assert trainer.progress.steps == 3


def test_the_generator_loss_gives_the_critic_no_gradient() -> None:
    trainer = tiny_trainer()
    trainer.d_optimizer.zero_grad()
    trainer._train_generator()
    assert all(p.grad is None for p in trainer.critic.parameters())


def test_accumulated_gradient_is_the_mean_over_the_micro_batches() -> None:
    for acml_steps in (1, 2):
        trainer = tiny_trainer(OFF, {"OPTIMIZATION": {"acml_steps": acml_steps}})
        probe = nn.Parameter(torch.zeros(()))

        def loss(given: object, probe: nn.Parameter = probe) -> Tensor:
            return probe * 5

        trainer._generator_loss = AveragedLoss(nn.Identity(), loss)
        trainer.g_optimizer = torch.optim.SGD([probe], lr=1.0)
        trainer._train_generator()
        assert probe.item() == -5.0


def test_order_of_updates() -> None:
    for d_first, expected in ((True, ["D", "G"]), (False, ["G", "D"])):
        trainer = tiny_trainer({"OPTIMIZATION": {"d_first": d_first}})
        order: list[str] = []
        trainer.d_optimizer.register_step_pre_hook(lambda *_, order=order: order.append("D"))
        trainer.g_optimizer.register_step_pre_hook(lambda *_, order=order: order.append("G"))
        trainer.step()
        assert list(dict.fromkeys(order)) == expected
        assert order.count("D") == 2


def test_ema_follows_studiogans_rule() -> None:
    trainer = tiny_trainer()  # decay 0.9, from step 2
    for _ in range(2):
        trainer.step()
    weight, average = trainer.generator.linear0.bias, trainer.averaged_generator().linear0.bias
    assert torch.equal(average, weight)
    previous = average.detach().clone()
    trainer.step()
    assert torch.allclose(average, 0.9 * previous + 0.1 * weight.detach(), atol=1e-7)


def test_k_by_generator_steps() -> None:
    trainer = tiny_trainer({"LOSS": {"topk_every": 3}, "OPTIMIZATION": {"g_updates_per_step": 2}})
    ks = []
    for _ in range(4):
        trainer.step()
        ks.append((k_of(trainer.terms), gate_of(trainer).k))
    # 2, 4, 6, 8 updates are over: 0, 1, 2, 2 blocks of 3
    assert ks == [(8, 8), (4, 4), (2, 2), (2, 2)]


def test_bf16_trains_and_keeps_master_weights_in_fp32() -> None:
    trainer = tiny_trainer(CONTRASTIVE, ICR, precision="bf16")
    losses = trainer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.dtype == torch.float32 for p in trainer.generator.parameters())


@pytest.mark.parametrize("name", ["WGAN-GP", "R1"])
def test_penalised_gradients_are_not_taken_in_bf16_on_a_cpu(name: str) -> None:
    """oneDNN's second derivatives are wrong there for small batches, and look right in the loss."""
    plain, autocast = (tiny_trainer(REGULARIZERS[name], precision=p) for p in ("fp32", "bf16"))
    for trainer in (plain, autocast):
        trainer._train_critic()
    for expected, found in zip(
        plain.critic.parameters(), autocast.critic.parameters(), strict=True
    ):
        assert torch.equal(expected, found)


def test_a_generator_without_classes_has_no_keep_rates_of_them() -> None:
    for g_cond, d_cond, expected in (("W/O", "W/O", False), ("cBN", "PD", True)):
        model = {"g_cond_mtd": g_cond, "d_cond_mtd": d_cond}
        trainer = tiny_trainer({"MODEL": model})
        trainer.step()
        assert (gate_of(trainer).stats.labels is not None) == expected


def test_seeds_stay_apart_when_a_run_changes_its_kind_of_device() -> None:
    first, second = tiny_trainer(seed=1), tiny_trainer(seed=2)
    for trainer in (first, second):
        state = trainer.state_dict()
        for stream in ("latents", "augmentation"):
            state[stream] = state[stream][:16]  # as long as a GPU's
        trainer.load_state_dict(state)
        assert not trainer.exact
    assert not torch.equal(first.latents.latents(4), second.latents.latents(4))
    assert not torch.equal(first.augmentation.get_state(), second.augmentation.get_state())


@pytest.mark.parametrize(
    "adv_loss", ["hinge", "logistic", "vanilla", "least_square", "wasserstein"]
)
@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "RMSprop"])
def test_every_loss_and_optimiser_runs(adv_loss: str, optimizer: str) -> None:
    settings: dict = {"type_": optimizer}
    if optimizer != "Adam":
        settings["momentum"] = 0.5
    if optimizer == "SGD":
        settings["nesterov"] = True
    if optimizer == "RMSprop":
        settings["alpha"] = 0.9
    trainer = tiny_trainer({"LOSS": {"adv_loss": adv_loss}, "OPTIMIZATION": settings})
    losses = trainer.step()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert type(trainer.g_optimizer).__name__ == optimizer


def test_adam_has_studiogans_settings() -> None:
    trainer = tiny_trainer()
    group = trainer.g_optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (2e-4, (0.5, 0.999), 1e-6)


@pytest.mark.parametrize("size", [64, 128])
def test_larger_images(size: int) -> None:
    images = ImageSet(
        torch.zeros(8, 3, size, size, dtype=torch.uint8),
        torch.arange(8) % CLASSES,
        ("a", "b", "c", "d"),
        "blank",
        "made for the tests",
    )
    config = tiny_config(
        {
            "DATA": {"img_size": size},
            "MODEL": {"z_dim": 30, "apply_attn": False, "g_conv_dim": 1, "d_conv_dim": 1},
            "OPTIMIZATION": {"batch_size": 2, "d_updates_per_step": 1},
        }
    )
    trainer = Trainer(config, images, seed=0, device=torch.device("cpu"))
    losses = trainer.step()
    assert torch.isfinite(losses["loss/generator"])
    assert trainer.last_fakes.shape == (2, 3, size, size)
