"""The shipped configs: readable here and by StudioGAN, paired, and annealed within the run."""

import math
import re
from pathlib import Path

import pytest
import yaml

from topk_plugin.engine.config.config import load_config
from topk_plugin.engine.config.table import table

STUDIOGAN_DEFAULTS = table().studiogan_defaults
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
DATA_SETS = {"Digits": 1797, "FashionMNIST": 60_000, "CIFAR10": 50_000}  # training images
IMAGES = DATA_SETS | {"ImageNet": 1_281_167}  # given with -data
METHODS = ("BigGAN", "ContraGAN", "BigGAN-ICR")
PAIRS = [
    *((data, method) for data in DATA_SETS for method in METHODS),
    *(("CIFAR10", method) for method in ("DCGAN", "SNGAN")),
    ("ImageNet", "BigGAN-2048"),
]
METHODS_FILES = sorted((CONFIGS / "Methods").glob("*.yaml"))
FILES = sorted(set(CONFIGS.glob("*/*.yaml")) - set(METHODS_FILES))
TOPK_KEYS = {"apply_topk", "topk_gamma", "topk_nu"}


def raw(path):
    return yaml.load(path.read_text(), Loader=yaml.FullLoader)  # as StudioGAN reads it


def test_every_data_set_has_every_method_with_and_without_topk():
    names = {f"{data}/{method}{end}.yaml" for data, method in PAIRS for end in ("", "-TopK")}
    assert names <= {f"{path.parent.name}/{path.name}" for path in FILES}


def test_every_topk_config_has_a_baseline():
    stems = {path.with_suffix("") for path in FILES}
    topk = {stem for stem in stems if stem.name.endswith("-TopK")}
    assert len(topk) >= len(PAIRS)
    assert {stem.with_name(stem.name.removesuffix("-TopK")) for stem in topk} <= stems


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_config_is_read_alike_by_studiogan_and_by_the_engine(path):
    written = load_config(path).to_dict()
    for section, keys in raw(path).items():
        for key, value in keys.items():
            assert key in STUDIOGAN_DEFAULTS[section]
            # StudioGAN converts nothing: 1e-4 would be text to it, and 1 no radius.
            assert type(value) is type(written[section][key]), f"{section}.{key}"
            assert value == written[section][key]
    assert load_config(path).DATA.name == path.parent.name


@pytest.mark.parametrize(("data", "method"), PAIRS)
def test_a_topk_config_differs_from_its_baseline_in_topk_only(data, method):
    baseline = load_config(CONFIGS / data / f"{method}.yaml").to_dict()
    topk = load_config(CONFIGS / data / f"{method}-TopK.yaml").to_dict()
    assert topk["LOSS"]["apply_topk"]
    assert not baseline["LOSS"]["apply_topk"]
    assert not TOPK_KEYS & set(raw(CONFIGS / data / f"{method}.yaml")["LOSS"])
    for config in (baseline, topk):
        for key in TOPK_KEYS:
            del config["LOSS"][key]
    assert topk == baseline


@pytest.mark.parametrize(("data", "method"), PAIRS)
def test_k_reaches_its_floor_within_the_run_as_the_comment_says(data, method):
    path = CONFIGS / data / f"{method}-TopK.yaml"
    config = load_config(path)
    optimization, loss = config.OPTIMIZATION, config.LOSS
    basket = optimization.batch_size * optimization.acml_steps * optimization.d_updates_per_step
    steps_per_epoch = IMAGES[data] // basket
    epochs = optimization.total_steps // steps_per_epoch
    factor, reached = 1.0, math.inf
    for epoch in range(epochs + 1):
        if factor <= loss.topk_nu:
            reached = epoch
            break
        factor *= loss.topk_gamma
    assert reached <= epochs
    assert math.floor(loss.topk_nu * optimization.batch_size) < optimization.batch_size
    comment = path.read_text()
    assert re.findall(r"\((\d+) steps here\)", comment) == [str(steps_per_epoch)]
    assert re.findall(r"reached after (\d+) epochs", comment) == [str(reached)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", ["", "-TopK"])
def test_cifar10_has_studiogans_full_size_settings(method, end):
    config = load_config(CONFIGS / "CIFAR10" / f"{method}{end}.yaml")
    model, loss, optimization = config.MODEL, config.LOSS, config.OPTIMIZATION
    assert (model.z_dim, model.g_shared_dim, model.g_conv_dim, model.d_conv_dim) == (
        80,
        128,
        96,
        96,
    )
    assert (model.g_ema_decay, model.g_ema_start) == (0.9999, 1000)
    assert (optimization.batch_size, optimization.d_updates_per_step) == (64, 5)
    assert (optimization.g_lr, optimization.d_lr) == (2e-4, 2e-4)
    assert (optimization.beta1, optimization.beta2) == (0.5, 0.999)
    assert optimization.total_steps == 100_000
    assert loss.adv_loss == "hinge"
    if method == "BigGAN-ICR":
        strengths = loss.real_lambda, loss.fake_lambda, loss.radius, loss.g_lambda, loss.d_lambda
        assert strengths == (10.0, 10.0, 0.05, 0.5, 20.0)


def test_imagenet_has_studiogans_settings_of_biggan_2048():
    config = load_config(CONFIGS / "ImageNet" / "BigGAN-2048.yaml")
    model, optimization = config.MODEL, config.OPTIMIZATION
    assert (model.z_dim, model.g_shared_dim, model.g_conv_dim, model.d_conv_dim) == (
        120,
        128,
        96,
        96,
    )
    assert (model.attn_g_loc, model.attn_d_loc) == ((4,), (1,))
    assert (model.g_ema_decay, model.g_ema_start) == (0.9999, 20_000)
    assert (optimization.batch_size, optimization.acml_steps) == (512, 4)
    assert optimization.d_updates_per_step == 2
    assert (optimization.g_lr, optimization.d_lr) == (5e-5, 2e-4)
    assert (optimization.beta1, optimization.beta2) == (0.0, 0.999)
    assert optimization.total_steps == 200_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_only_images_whose_mirror_image_belongs_to_the_class_are_flipped(path):
    assert load_config(path).PRE.apply_rflip is (path.parent.name in ("CIFAR10", "ImageNet"))


@pytest.mark.parametrize("path", METHODS_FILES, ids=lambda path: path.stem)
def test_a_methods_config_differs_from_its_base_in_the_method_only(path):
    base = load_config(CONFIGS / "Digits" / "BigGAN-TopK.yaml")
    changed = {change.split()[0] for change in base.changes_to(load_config(path))}
    allowed = {
        "SAN": {"LOSS.apply_san"},
        "R3GAN": {
            *("LOSS.adv_loss", "LOSS.apply_r1_reg", "LOSS.r1_place", "LOSS.r1_lambda"),
            *("LOSS.apply_r2_reg", "LOSS.r2_lambda"),
        },
        "NICE": {"LOSS.apply_nice"},
        "Masking": {"AUG.apply_masking"},
        "SFL": {"LOSS.apply_sfl"},
        "SemiSupervised": {
            *("DATA.labels_per_class", "MODEL.d_cond_mtd", "MODEL.g_cond_mtd"),
            *("LOSS.adv_loss", "LOSS.cond_lambda"),
            *("LOSS.apply_fm", "LOSS.fm_lambda"),
        },
        "SFLPlus": {"LOSS.apply_sfl", "LOSS.sfl_reals"},
        "Minibatch": {"LOSS.apply_minibatch", "LOSS.minibatch_kernels"},
        "Historical": {"LOSS.apply_historical", "LOSS.historical_lambda"},
        "Selection": {"DATA.keep"},
        "SelfDiagnosing": {"DATA.apply_diagan", "DATA.diagan_snapshots", "LOSS.adv_loss"},
        "Projected": {"MODEL.apply_projected", "MODEL.projected_size", "MODEL.attn_d_loc"},
        "VBN": {"MODEL.apply_g_vbn"},
        "TTUR": {"OPTIMIZATION.g_lr", "OPTIMIZATION.d_lr"},
    }
    assert changed == allowed[path.stem]
