"""Warnings about losses and networks that are not finite."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from topk_plugin.studiogan.divergence_watch import DivergenceWatch

NAN, INFINITE = torch.tensor(float("nan")), torch.tensor(float("inf"))


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> DivergenceWatch:
    caplog.set_level(logging.INFO)
    return DivergenceWatch(logging.getLogger("studiogan"))


def losses(**changes: Any) -> dict[str, Any]:
    fine = {"real_cond_loss": "N/A", "gen_acml_loss": torch.tensor(1.0)}
    return {**fine, "dis_acml_loss": torch.tensor(-2.0), **changes}


def test_finite_losses_and_networks_are_not_mentioned(
    watch: DivergenceWatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch.look_at_losses(losses(), 100)
    watch.look_at_networks(SimpleNamespace(Gen=nn.Linear(2, 2), Gen_ema=None, Dis=nn.PReLU()), 100)
    assert not caplog.records


def test_losses_are_named_once(watch: DivergenceWatch, caplog: pytest.LogCaptureFixture) -> None:
    watch.look_at_losses(losses(), 100)
    for step in (200, 300):
        watch.look_at_losses(losses(gen_acml_loss=NAN, real_cond_loss=INFINITE), step)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert "the conditional loss is inf, the generator's loss is nan at step 200." in said
    assert "critic" not in said
    watch.look_at_losses(losses(), 400)
    watch.look_at_losses(losses(dis_acml_loss=NAN), 500)
    assert "the critic's loss is nan at step 500" in caplog.records[1].getMessage()


@pytest.mark.parametrize(
    ("network", "words"),
    [("Gen", "the generator"), ("Gen_ema", "the averaged generator"), ("Dis", "the critic")],
)
def test_a_weight_or_statistic_that_is_not_finite_is_told(
    network: str, words: str, watch: DivergenceWatch, caplog: pytest.LogCaptureFixture
) -> None:
    networks = {name: nn.BatchNorm1d(3) for name in ("Gen", "Gen_ema", "Dis")}
    worker = SimpleNamespace(**networks)
    with torch.no_grad():
        networks[network].weight[1] = torch.nan
    watch.look_at_networks(worker, 300)
    said = f"of {words}, weight is not finite at step 300"
    assert said in caplog.records[0].getMessage()
    networks[network].weight.data.fill_(1)
    watch.look_at_networks(worker, 400)
    assert len(caplog.records) == 1
    networks[network].running_var[2] = torch.inf
    watch.look_at_networks(worker, 500)
    assert f"of {words}, running_var is not finite at step 500" in caplog.records[1].getMessage()
