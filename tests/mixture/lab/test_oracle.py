"""The oracle analysis against plain loops and against cases whose answer is known."""

import copy
import json
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies

from topk_plugin.mixture.lab import oracle
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.measures import HISTOGRAM_EDGES
from topk_plugin.mixture.lab.settings import Arm, Settings

ARMS = (Arm("full", gamma=1.0), Arm("top", gamma=0.5, nu=0.5, every=5))
BINS = len(HISTOGRAM_EDGES)


def small(**changes: Any) -> Settings:
    plain = {"arms": ARMS, "seeds": (4, 2), "width": 8, "layers": 2, "batch": 10, "modes": 4}
    # distances over all bins, long steps
    return Settings(**{**plain, "std": 0.3, "spacing": 2.0, "lr": 1e-2, "steps": 100, **changes})


def trained(settings: Settings, steps: int, dtype: torch.dtype = torch.float64) -> Ensemble:
    ensemble = Ensemble(settings, dtype=dtype)
    for _ in range(steps):
        ensemble.train_step()
    return ensemble


def plain_network(parameters: list[torch.Tensor], replica: int) -> torch.nn.Sequential:
    """One replica as anyone would write it."""
    modules: list[torch.nn.Module] = []
    for weight, bias in zip(parameters[0::2], parameters[1::2], strict=True):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[2], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight[replica].T)
            linear.bias.copy_(bias[replica, 0])
        modules += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def plain_optimizer(
    ensemble: Ensemble, network: torch.nn.Sequential, replica: int, kind: str
) -> torch.optim.Optimizer:
    lr = ensemble.settings.lr
    if kind == "gradient":
        return torch.optim.SGD(network.parameters(), lr=lr)
    betas = (ensemble.settings.beta1, ensemble.settings.beta2)
    adam = torch.optim.Adam(network.parameters(), lr=lr, betas=betas)
    for own, stacked in zip(network.parameters(), ensemble.generator, strict=True):
        saved = ensemble.generator_optimizer.state[stacked] if ensemble.step else {}
        adam.state[own] = {
            name: (value if name == "step" else value[replica].T.reshape(own.shape)).clone()
            for name, value in saved.items()
        }
    return adam


def plain_displacements(
    ensemble: Ensemble, latents: torch.Tensor, replica: int, kind: str, update: str
) -> torch.Tensor:
    generator = plain_network(ensemble.generator, replica)
    critic = plain_network(ensemble.critic, replica)
    optimizer = plain_optimizer(ensemble, generator, replica, kind)
    before = generator(latents)
    scores = critic(before).squeeze(-1)
    order = sorted(range(len(scores)), key=lambda i: scores[i].item())
    half = len(scores) // 2
    chosen = {"top": order[-half:], "bottom": order[:half], "full": order}[update]
    if ensemble.settings.loss == "non-saturating":
        loss = -torch.nn.functional.logsigmoid(scores[chosen]).mean()
    else:
        loss = -scores[chosen].mean()
    loss.backward()
    optimizer.step()
    return (generator(latents) - before).detach()


@pytest.mark.parametrize("loss", ["non-saturating", "hinge"])
@pytest.mark.parametrize("steps", [0, 7])
def test_steps_are_those_of_a_plain_loop(loss: str, steps: int) -> None:
    ensemble = trained(small(loss=loss), steps)
    latents = torch.randn(2, 11, 2, generator=torch.Generator().manual_seed(0))
    found = oracle.displacements(ensemble, latents)
    assert [int(found.kept[u][0].sum()) for u in oracle.UPDATES] == [5, 5, 11]
    for replica in range(4):
        for kind in oracle.KINDS:
            for update in oracle.UPDATES:
                expected = plain_displacements(
                    ensemble, latents[replica % 2].double(), replica, kind, update
                )
                own = found.moved[kind][update][replica]
                torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)
                assert expected.abs().max() > 1e-6


def plain_analysis(ensemble: Ensemble, replica: int, kind: str) -> list[dict[str, Any]]:
    """Each sample's numbers, one sample after the other."""
    s = ensemble.settings
    seed = s.seeds[replica % len(s.seeds)]
    generator_of_latents = torch.Generator().manual_seed(seed * 16 + 3)
    latents = torch.randn(8, s.batch, s.latent, generator=generator_of_latents).double()
    samples = []
    for batch in latents:
        points = plain_network(ensemble.generator, replica)(batch).detach()
        scores = plain_network(ensemble.critic, replica)(points).flatten().tolist()
        moved = {u: plain_displacements(ensemble, batch, replica, kind, u) for u in oracle.UPDATES}
        for i, (x, y) in enumerate(points.tolist()):
            offsets = [(m[0] - x, m[1] - y) for m in s.target.means(torch.arange(4)).tolist()]
            ox, oy = min(offsets, key=lambda o: math.hypot(*o))
            distance = math.hypot(ox, oy)
            sample: dict[str, Any] = {"std": distance / s.std}
            better = sum(other > scores[i] for other in scores)
            sample["row"] = "top" if better < s.batch // 2 else "bottom"
            for u in oracle.UPDATES:
                dx, dy = moved[u][i].tolist()
                length = math.hypot(dx, dy)
                sample[u] = {
                    "cosine": (dx * ox + dy * oy) / length / distance,
                    "change": math.hypot(ox - dx, oy - dy) - distance,
                    "length": length,
                }
            samples.append(sample)
    return samples


def assert_mean(own: float | None, values: list[float]) -> None:
    if values:
        assert own == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-9)
    else:
        assert own is None


def test_a_summary_is_that_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "DECIMALS", 12)
    monkeypatch.setattr(oracle, "BINNED_DECIMALS", 12)
    ensemble = trained(small(), 20)
    result = oracle.analyse(ensemble)
    assert (result["k"], result["samples"]) == (5, 80)
    histograms: dict[tuple[str, str, int], list[int]] = {}
    occupied = 0
    for kind in oracle.KINDS:
        for replica in range(4):
            samples = plain_analysis(ensemble, replica, kind)
            rows = {r: [x for x in samples if x["row"] == r] for r in ("top", "bottom")}
            rows["all"] = samples
            for name, members in rows.items():
                assert result[kind]["count"][name][replica] == len(members)
            edges = [*HISTOGRAM_EDGES, math.inf]
            bins = [[x for x in samples if low < x["std"] <= high] for low, high in pairwise(edges)]
            occupied += sum(map(bool, bins))
            assert result[kind]["count_binned"][replica] == [len(b) for b in bins]
            yardstick = sum(x["full"]["length"] for x in samples) / len(samples)
            for update in oracle.UPDATES:
                found = result[kind][update]
                for measure, unit in (("cosine", 1.0), ("change", yardstick)):

                    def values(members: list[dict], update=update, measure=measure, unit=unit):
                        return [x[update][measure] / unit for x in members]

                    for name, members in rows.items():
                        assert_mean(found[measure][name][replica], values(members))
                    for own, members in zip(found[f"{measure}_binned"][replica], bins, strict=True):
                        assert_mean(own, values(members))
                histogram = histograms.setdefault((kind, update, replica // 2), [0] * 20)
                for x in samples:
                    histogram[min(19, int((x[update]["cosine"] + 1) * 10))] += 1
    assert occupied > 2 * 4 * 4  # the bins were tested
    for (kind, update, arm), histogram in histograms.items():
        assert result[kind][update]["cosine_histogram"][arm] == histogram


def assert_identical(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("steps", [0, 7])
def test_the_ensemble_is_left_bit_identical(steps: int) -> None:
    ensemble = trained(small(), steps, torch.float32)
    before, global_random = copy.deepcopy(ensemble.state_dict()), torch.get_rng_state()
    gradients = [p.grad for p in ensemble.generator]
    first = oracle.analyse(ensemble)
    assert_identical(ensemble.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), global_random)
    assert all(p.grad is g for p, g in zip(ensemble.generator, gradients, strict=True))
    assert oracle.analyse(ensemble) == first
    undisturbed = trained(small(), steps, torch.float32)
    ensemble.train_step()
    undisturbed.train_step()
    assert_identical(ensemble.state_dict(), undisturbed.state_dict())


def test_a_seed_does_not_depend_on_what_is_analysed_beside_it() -> None:
    together = oracle.analyse(trained(small(), 5))
    alone = oracle.analyse(trained(small(seeds=(2,), arms=ARMS[1:]), 5))
    for update in oracle.UPDATES:
        for measure in ("cosine", "change"):
            many, one = (r["gradient"][update][f"{measure}_binned"] for r in (together, alone))
            assert many[3] == one[0]


def at_one_point(x: float, y: float, slopes: list[tuple[float, float]], **changes: Any) -> Ensemble:
    """Generators that give (x, y) for every latent and can only move it, and critics that are
    linear around it, one slope a replica."""
    ensemble = Ensemble(small(layers=1, **changes), dtype=torch.float64)
    assert len(slopes) == len(ensemble.generator[0])
    with torch.no_grad():
        for p in (*ensemble.generator, *ensemble.critic):
            p.zero_()
        ensemble.generator[1].fill_(-1.0)  # every hidden unit is off: only the last bias acts
        ensemble.generator[3].copy_(torch.tensor([x, y]))
        for replica, slope in enumerate(slopes):
            ensemble.critic[0][replica, :, 0] = torch.tensor(slope)
        ensemble.critic[1].fill_(100.0)
        ensemble.critic[2][:, 0] = 1.0
        ensemble.critic[3].fill_(-100.0)
    return ensemble


def test_known_answers() -> None:
    # 0.3 * sqrt(2) = 1.41 std from the mode at (1, 1), each critic pulls another way
    slopes = [(1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-3.0, -3.0)]
    result = oracle.analyse(at_one_point(0.7, 0.7, slopes, lr=1e-5))
    for kind in oracle.KINDS:
        assert result[kind]["count"] == {"all": [80] * 4, "top": [40] * 4, "bottom": [40] * 4}
        assert result[kind]["count_binned"] == [[0, 0, 80] + [0] * (BINS - 3)] * 4
        for update in oracle.UPDATES:  # all samples are alike, so all updates are
            found = result[kind][update]
            for row in ("all", "top", "bottom"):
                assert found["cosine"][row] == [1.0, -1.0, 0.0, -1.0]
                assert found["change"][row] == [-1.0, 1.0, 0.0, 1.0]
            assert [b[2] for b in found["cosine_binned"]] == [1.0, -1.0, 0.0, -1.0]
            assert found["change_binned"][1] == [None, None, 1.0] + [None] * (BINS - 3)
            full, top = found["cosine_histogram"]
            assert (full[0], full[19], sum(full)) == (80, 80, 160)
            assert (top[0], sum(top[9:11]), sum(top)) == (80, 80, 160)


def test_the_change_is_in_lengths_of_the_full_batch_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = at_one_point(0.7, 0.7, [(1.0, 1.0)] * 4)
    long, short = torch.full((4, 10, 2), 0.02), torch.full((4, 10, 2), -0.005)
    moved = {"top": long.double(), "bottom": short.double(), "full": 2 * short.double()}
    half = torch.arange(10).expand(4, 10) < 5
    made = oracle.Displacements(
        samples=torch.full((4, 10, 2), 0.7).double(),
        kept={"top": half, "bottom": ~half, "full": torch.ones_like(half)},
        moved={"gradient": moved, "optimizer": moved},
    )
    monkeypatch.setattr(oracle, "displacements", lambda ensemble, latents: made)
    result = oracle.analyse(ensemble)
    assert [result["gradient"][u]["change"]["all"][0] for u in oracle.UPDATES] == [-2.0, 0.5, 1.0]


def assert_nothing(summary: dict[str, Any], replica: int) -> None:
    assert summary["count"]["all"][replica] == 0
    assert summary["count_binned"][replica] == [0] * BINS
    for update in oracle.UPDATES:
        for measure in ("cosine", "change"):
            assert summary[update][measure]["all"][replica] is None
            assert summary[update][f"{measure}_binned"][replica] == [None] * BINS


def test_samples_without_a_direction_are_left_out() -> None:
    ensemble = at_one_point(1.0, 1.0, [(1.0, 1.0)] * 4)  # exactly on a mean
    result = oracle.analyse(ensemble)
    for kind in oracle.KINDS:
        for replica in range(4):
            assert_nothing(result[kind], replica)
        assert result[kind]["full"]["cosine_histogram"] == [[0] * 20] * 2


def test_samples_that_do_not_move_or_are_not_finite_are_left_out() -> None:
    ensemble = at_one_point(0.7, 0.7, [(1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (1.0, 1.0)])
    with torch.no_grad():
        ensemble.generator[3][2] = torch.nan
    result = oracle.analyse(ensemble)
    for kind in oracle.KINDS:
        assert [result[kind]["count"]["all"][e] for e in (0, 3)] == [80, 80]
        assert_nothing(result[kind], 1)
        assert_nothing(result[kind], 2)
        assert sum(map(sum, result[kind]["top"]["cosine_histogram"])) == 160
    json.dumps(result, allow_nan=False)


@settings(max_examples=10, deadline=None)
@given(
    steps=strategies.integers(0, 6),
    batch=strategies.integers(1, 9),
    std=strategies.floats(0.05, 1.0),
)
def test_counts_add_up(steps: int, batch: int, std: float) -> None:
    result = oracle.analyse(trained(small(batch=batch, std=std), steps, torch.float32))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["samples"] == 8 * batch
    assert result["k"] == max(1, batch // 2)
    for kind in oracle.KINDS:
        count, binned = result[kind]["count"], result[kind]["count_binned"]
        assert [sum(row) for row in binned] == count["all"]
        assert all(n <= 8 * batch for n in count["all"])
        if batch % 2 == 0:
            pairs = zip(count["top"], count["bottom"], strict=True)
            assert [top + bottom for top, bottom in pairs] == count["all"]
        for update in oracle.UPDATES:
            found = result[kind][update]
            per_arm = [sum(count["all"][:2]), sum(count["all"][2:])]
            assert [sum(row) for row in found["cosine_histogram"]] == per_arm
            for measure in ("cosine", "change"):
                for row, numbers in zip(found[f"{measure}_binned"], binned, strict=True):
                    assert [v is None for v in row] == [n == 0 for n in numbers]
                for e, total in enumerate(count["all"]):
                    if total == 0:
                        assert found[measure]["all"][e] is None
                        continue
                    weighed = sum(
                        v * n
                        for v, n in zip(found[f"{measure}_binned"][e], binned[e], strict=True)
                        if n
                    )
                    assert weighed / total == pytest.approx(found[measure]["all"][e], abs=0.006)


def test_an_analysis_of_20_replicas_is_below_30_kb() -> None:
    arms = tuple(Arm(name) for name in ("full", "top", "bottom", "random"))
    ensemble = trained(small(arms=arms, seeds=(0, 1, 2, 3, 4), batch=256), 10, torch.float32)
    assert len(json.dumps(oracle.analyse(ensemble))) < 30_000
