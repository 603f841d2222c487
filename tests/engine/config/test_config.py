"""Reading StudioGAN's YAML schema: defaults, overrides, round trips, and every refusal."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.config.file import read_config_file
from topk_plugin.engine.config.table import table
from topk_plugin.engine.keys.studiogan import RUN_OPTIONS

KEYS = table()
STUDIOGAN_DEFAULTS = KEYS.studiogan_defaults
BASE = 'MODEL:\n  backbone: "big_resnet"\n'
STUDIOGAN = "PyTorch-StudioGAN (topk-plugin studiogan run CHECKOUT -- -t"


@pytest.fixture
def write(tmp_path):
    """Write text (or bytes) to a config file and return its path."""

    def write_file(content):
        path = tmp_path / "run.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def refusal(path, overrides=()):
    """The sentence that refuses a config."""
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def refused_override(*overrides, base=BASE, tmp_path):
    path = tmp_path / "base.yaml"
    path.write_text(base)
    return refusal(path, overrides)


# --- values and defaults ---------------------------------------------------------------------


def test_a_key_left_out_holds_its_default(write):
    config = load_config(write(BASE))
    for key in KEYS.keys:
        if key.name != "backbone":
            value = getattr(getattr(config, key.section), key.name)
            assert value == key.default, key.full_name
            assert type(value) is type(key.default), key.full_name


def test_the_plugins_own_keys_have_the_documented_defaults():
    loss = Config.unchecked().LOSS
    assert (loss.topk_mode, loss.topk_policy, loss.topk_normalize) == ("gate", "top", "kept")
    assert (loss.topk_scope, loss.topk_every) == (None, "epoch")
    assert loss.real_label == 1.0


def test_a_key_is_studiogans_or_the_plugins():
    recorded = json.loads(Path(__file__).with_name("studiogan_defaults.json").read_text())
    assert recorded == STUDIOGAN_DEFAULTS
    ours = {key.full_name for key in KEYS.keys if key.ours}
    assert not ours & {f"{s}.{key}" for s, keys in recorded.items() for key in keys}


def test_values_arrive_in_the_types_the_engine_works_with(write):
    config = load_config(
        write(
            "DATA: {num_classes: 5}\n"
            "MODEL: {backbone: big_resnet, apply_attn: yes, attn_g_loc: [2], attn_d_loc: [1, 3],\n"
            "        z_dim: 80.0, apply_g_ema: True, g_ema_decay: 0, g_ema_start: 1e3}\n"
            "LOSS: {adv_loss: hinge, apply_zcr: true, radius: 1, g_lambda: 5e-1, d_lambda: 20}\n"
            "OPTIMIZATION: {g_lr: 1e-4, d_lr: 2.E-4, total_steps: 2e5}\n"
        )
    )
    expected = [
        (config.MODEL.apply_attn, True),
        (config.MODEL.attn_g_loc, (2,)),
        (config.MODEL.attn_d_loc, (1, 3)),
        (config.MODEL.z_dim, 80),
        (config.MODEL.g_ema_decay, 0.0),
        (config.MODEL.g_ema_start, 1000),
        (config.LOSS.radius, 1.0),
        (config.LOSS.g_lambda, 0.5),
        (config.OPTIMIZATION.g_lr, 1e-4),
        (config.OPTIMIZATION.d_lr, 2e-4),
        (config.OPTIMIZATION.total_steps, 200_000),
    ]
    for value, want in expected:
        assert value == want
        assert type(value) is type(want)


def test_not_available_is_none_in_the_config(write):
    text = BASE + 'LOSS: {cond_lambda: "N/A", topk_scope: N/A}\n'
    config = load_config(write(text + "OPTIMIZATION: {nesterov: N/A}\n"))
    assert config.LOSS.cond_lambda is None
    assert config.LOSS.topk_scope is None
    assert config.OPTIMIZATION.nesterov is None


def test_what_only_studiogan_has_is_accepted_while_it_is_off(write):
    sections = {name: dict(keys) for name, keys in STUDIOGAN_DEFAULTS.items()}
    sections["MODEL"]["backbone"] = "big_resnet"
    assert load_config(write(yaml.safe_dump(sections))) == load_config(write(BASE))


def test_an_override_may_switch_off_what_the_engine_has_not(write):
    path = write(BASE + "AUG: {apply_ada: True}\n")
    assert "AUG.apply_ada is True" in refusal(path)
    load_config(path, ["AUG.apply_ada=False"])


# --- overrides -------------------------------------------------------------------------------


def test_overrides_win_over_the_file_and_later_ones_over_earlier_ones(write):
    path = write(BASE + "LOSS: {apply_topk: True, topk_gamma: 0.9, topk_nu: 0.5}\n")
    overrides = ["LOSS.topk_nu=0.6", " LOSS . topk_nu = 0.75 ", "OPTIMIZATION.g_lr=1e-4"]
    config = load_config(path, [*overrides, "MODEL.attn_g_loc=[2]", "MODEL.apply_attn=true"])
    assert (config.LOSS.topk_nu, config.LOSS.topk_gamma) == (0.75, 0.9)
    assert config.OPTIMIZATION.g_lr == 1e-4
    assert config.MODEL.attn_g_loc == (2,)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("LOSS.topk_nu", ["'LOSS.topk_nu'", "SECTION.key=value"]),
        ("topk_nu=0.5", ["'topk_nu=0.5'", "write LOSS.topk_nu=0.5"]),
        ("=3", ["SECTION.key=value"]),
        ("LOSS.=3", ["SECTION.key=value"]),
        ("", ["SECTION.key=value"]),
        ("LOSS.radius=", ["LOSS.radius has no value"]),
        ("MODEL.attn_g_loc=[2", ["'MODEL.attn_g_loc=[2'", "line 1"]),
        ("LOS.radius=1", ["section LOS", "nearest known section is LOSS"]),
        ("MODEL.attn_g_loc=2", ["MODEL.attn_g_loc is 2", "a list", "[2]"]),
    ],
)
def test_a_wrong_override_is_refused(override, parts, tmp_path):
    sentence = refused_override(override, tmp_path=tmp_path)
    for part in parts:
        assert part in sentence


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("LOSS: {topk_gama: 0.9}", ["LOSS.topk_gama", "StudioGAN would not", "LOSS.topk_gamma"]),
        ("LOSS: {APPLY_TOPK: True}", ["LOSS.APPLY_TOPK", "LOSS.apply_topk"]),
        ("MODEL: {adv_loss: hinge}", ["MODEL.adv_loss", "nearest known key is LOSS.adv_loss"]),
        ("MODEL: {topk_nu: 0.5}", ["MODEL.topk_nu", "nearest known key is LOSS.topk_nu"]),
        ("Optimization: {g_lr: 1}", ["Optimization", "OPTIMIZATION", "StudioGAN would not"]),
        ("batch_size: 64", ["batch_size stands outside", "OPTIMIZATION"]),
        ("MODEL: {1: 2}", ["MODEL.1"]),
        ("7: {a: 2}", ["section 7"]),
        ("RUN: {seed: 1}", ["RUN.seed", "command line", "--seed N"]),
        ("RUN: {mixed_precision: True}", ["RUN.mixed_precision", "--precision bf16"]),
        ("RUN: {freezeD: 2}", ["RUN.freezeD", "no such option"]),
        ("RUN: {print_freq: 2}", ["RUN.print_freq", "here it is --print_freq STEPS"]),
        ("RUN: {save_freq: 2}", ["RUN.save_freq", "here it is --save_freq STEPS"]),
        ("RUN: {load_best: True}", ["RUN.load_best", "-best of `topk-plugin evaluate`"]),
        ("RUN: {ref_dataset: test}", ["RUN.ref_dataset", "-ref SPLIT"]),
        ("RUN: {sed: 1}", ["RUN.sed", "command line"]),
        ("DATA: {data_dir: x}", ["DATA.data_dir", "command line", "-data PATH"]),
        ("LOSS:", ["Section LOSS", "is empty"]),
        ("LOSS: hinge", ["Section LOSS", "'hinge'"]),
        ("LOSS: [hinge]", ["Section LOSS", "['hinge']"]),
        ("LOSS: {adv_loss: }", ["LOSS.adv_loss has no value"]),
        ("LOSS: {apply_wc: True}", ["LOSS.apply_wc is True", "StudioGAN takes", STUDIOGAN]),
        ("STYLEGAN: {apply_pl_reg: 1}", ["STYLEGAN.apply_pl_reg", STUDIOGAN]),
        ("MODEL: {info_type: discrete}", ["MODEL.info_type", STUDIOGAN]),
    ],
)
def test_wrong_names_are_refused(text, parts, write):
    base = "" if text.startswith("MODEL") else BASE
    text = text.replace("MODEL: {", "MODEL: {backbone: big_resnet, ")
    sentence = refusal(write(base + text + "\n"))
    for part in parts:
        assert part in sentence


def test_a_left_out_backbone_is_studiogans_default(write):
    assert load_config(write("DATA: {img_size: 32}\n")).MODEL.backbone == "resnet"


def test_older_backbones_need_less(write):
    model = {"backbone": "resnet", "g_cond_mtd": "cBN", "z_dim": 99}
    assert Config.from_dict({"MODEL": model}).MODEL.g_shared_dim is None
    fixed = "MODEL: {backbone: deep_conv, g_cond_mtd: cBN, g_conv_dim: N/A, d_conv_dim: N/A}\n"
    assert load_config(write(fixed)).MODEL.g_conv_dim is None


def test_a_stylegan_file_is_refused_for_its_backbone_first(write):
    text = "MODEL: {backbone: stylegan2, w_dim: 512, g_act_fn: Auto}\nSTYLEGAN: {pl_weight: 2}\n"
    assert refusal(write(text)).startswith("MODEL.backbone is 'stylegan2'")


@pytest.mark.parametrize("option", sorted(RUN_OPTIONS))
def test_no_run_option_is_also_a_key(option):
    assert all(option not in keys for keys in STUDIOGAN_DEFAULTS.values())


# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("LOSS.adv_loss=hing", ["LOSS.adv_loss is 'hing'", "'wasserstein'", "mean 'hinge'?"]),
        ("LOSS.adv_loss=least_squere", ["did you mean 'least_square'?"]),
        ("LOSS.adv_loss=xyz", ["LOSS.adv_loss is 'xyz'; it must be one of"]),
        ("LOSS.adv_loss=MH", ["LOSS.adv_loss is 'MH'", "StudioGAN takes", STUDIOGAN]),
        ("LOSS.adv_loss=N/A", ["LOSS.adv_loss is 'N/A'"]),
        ("LOSS.adv_loss=3", ["LOSS.adv_loss is 3", "in quotes"]),
        ("MODEL.g_cond_mtd=cbn", ["did you mean 'cBN'?"]),
        ("MODEL.d_cond_mtd=MH", ["MODEL.d_cond_mtd is 'MH'", STUDIOGAN]),
        ("MODEL.g_cond_mtd=No", ["MODEL.g_cond_mtd is False", "in quotes"]),
        ("MODEL.backbone=big_resnet_deep_legacy", ["StudioGAN takes", "'big_resnet'"]),
        ("MODEL.apply_g_sn='True'", ["MODEL.apply_g_sn is 'True'", "without quotes"]),
        ("MODEL.apply_g_sn=1", ["MODEL.apply_g_sn is 1; it must be True or False"]),
        ("MODEL.apply_g_sn=Ture", ["MODEL.apply_g_sn is 'Ture'; it must be True or False"]),
        ("MODEL.z_dim=80.5", ["MODEL.z_dim is 80.5", "whole number of at least 1"]),
        ("MODEL.z_dim=True", ["MODEL.z_dim is True", "whole number"]),
        ("MODEL.z_dim='80'", ["MODEL.z_dim is '80'", "without quotes"]),
        ("MODEL.z_dim=1e12", ["MODEL.z_dim", "at most 2147483647"]),
        ("MODEL.attn_g_loc=[2.0]", ["MODEL.attn_g_loc is [2.0]", "such as [2]"]),
        ("MODEL.attn_g_loc=[0]", ["MODEL.attn_g_loc is [0]", "at least 1"]),
        ("MODEL.attn_g_loc=[2, 2]", ["MODEL.attn_g_loc is [2, 2]", "different"]),
        ("MODEL.attn_g_loc=[[1]]", ["MODEL.attn_g_loc is [[1]]"]),
        ("MODEL.g_ema_decay=1.0", ["MODEL.g_ema_decay is 1.0", "below 1"]),
        ("MODEL.g_ema_start=-1", ["MODEL.g_ema_start is -1", "at least 0"]),
        ("DATA.img_size=48", ["DATA.img_size is 48; it must be one of 32, 64, 128"]),
        ("DATA.img_size='32'", ["DATA.img_size is '32'", "without quotes"]),
        ("DATA.img_size=256", ["DATA.img_size is 256", STUDIOGAN]),
        ("DATA.img_size=True", ["DATA.img_size is True"]),
        ("DATA.img_channels=1", ["DATA.img_channels is 1; it must be 3: grey images load as RGB"]),
        ("DATA.num_classes=0", ["DATA.num_classes is 0", "at least 1"]),
        ("DATA.name=2024", ["DATA.name is 2024", "in quotes"]),
        ("DATA.name=2024-01-01", ["DATA.name is", "in quotes"]),
        ("DATA.name=''", ["DATA.name is ''", "not empty"]),
        ("OPTIMIZATION.batch_size=0", ["OPTIMIZATION.batch_size is 0", "at least 1"]),
        ("OPTIMIZATION.g_lr=0", ["OPTIMIZATION.g_lr is 0", "above 0"]),
        ("OPTIMIZATION.g_lr=.nan", ["OPTIMIZATION.g_lr is nan"]),
        ("OPTIMIZATION.g_lr=.inf", ["OPTIMIZATION.g_lr is inf"]),
        ("OPTIMIZATION.g_lr=1e999", ["OPTIMIZATION.g_lr is '1e999'"]),
        ("OPTIMIZATION.g_lr='0.1'", ["OPTIMIZATION.g_lr is '0.1'", "without quotes"]),
        ("OPTIMIZATION.g_lr=0,0002", ["OPTIMIZATION.g_lr is '0,0002'"]),
        ("OPTIMIZATION.beta2=1", ["OPTIMIZATION.beta2 is 1", "of at least 0 and below 1"]),
        ("OPTIMIZATION.type_=adam", ["did you mean 'Adam'?"]),
        ("LOSS.topk_gamma=0", ["LOSS.topk_gamma is 0", "above 0 and at most 1"]),
        ("LOSS.topk_nu=75", ["LOSS.topk_nu is 75", "above 0 and at most 1"]),
        ("LOSS.topk_every=0", ["LOSS.topk_every is 0", "'epoch'"]),
        ("LOSS.topk_every=step", ["LOSS.topk_every is 'step'", "'epoch'"]),
        ("LOSS.topk_policy=best", ["LOSS.topk_policy is 'best'", "'balanced'"]),
        ("LOSS.topk_release_from=half", ["LOSS.topk_release_from is 'half'", "such as '50%'"]),
        ("LOSS.topk_release_to=120%", ["LOSS.topk_release_to is '120%'", "0% to 100%"]),
        ("LOSS.topk_release_to=-1", ["LOSS.topk_release_to is -1", "at least 0"]),
        ("LOSS.topk_scope=world", ["LOSS.topk_scope is 'world'", "'rank', 'global'"]),
        ("AUG.bcr_aug_type=byol", ["AUG.bcr_aug_type is 'byol'", "'diffaug'", STUDIOGAN]),
        ("AUG.diffaug_type=bgc", ["AUG.diffaug_type is 'bgc'", "'diffaug'", STUDIOGAN]),
        ("AUG.cr_aug_type=bcr", ["AUG.cr_aug_type is 'bcr'", "'cr'"]),
        ("AUG.bcr_aug_type=BCR", ["did you mean 'bcr'?"]),
        ("LOSS.radius=0", ["LOSS.radius is 0", "above 0"]),
        ("LOSS.real_label=0", ["LOSS.real_label is 0", "above 0 and at most 1"]),
        ("LOSS.lecam_ema_start_iter=0", ["LOSS.lecam_ema_start_iter is 0", "at least 1"]),
        ("LOSS.r1_place=inside", ["LOSS.r1_place is 'inside'", "mean 'inside_loop'?"]),
        ("LOSS.temperature=-1", ["LOSS.temperature is -1", "above 0"]),
    ],
)
def test_wrong_values_are_refused(override, parts, tmp_path):
    sentence = refused_override(override, tmp_path=tmp_path)
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize("key", ["topk_gamma", "topk_nu"])
def test_fractions_include_one_and_exclude_zero(key, write):
    path = write(BASE + "LOSS: {apply_topk: True, topk_gamma: 0.9, topk_nu: 0.5}\n")
    assert getattr(load_config(path, [f"LOSS.{key}=1"]).LOSS, key) == 1.0
    assert f"LOSS.{key} is 0" in refusal(path, [f"LOSS.{key}=0"])


def test_a_step_interval_is_taken_for_topk_every(write):
    path = write(BASE + "LOSS: {apply_topk: True, topk_gamma: 0.9, topk_nu: 0.5}\n")
    assert load_config(path, ["LOSS.topk_every=2e3"]).LOSS.topk_every == 2000


# --- values that do not go together ----------------------------------------------------------

DCGAN = (
    *("MODEL.backbone=deep_conv", "MODEL.z_dim=100"),
    *("MODEL.g_conv_dim=N/A", "MODEL.d_conv_dim=N/A"),
)
CBN = "MODEL.g_cond_mtd=cBN", "MODEL.g_shared_dim=16"
CLASSIFIER = "MODEL.d_cond_mtd=AC", "LOSS.cond_lambda=1"
DATA_TO_DATA = (
    *("MODEL.d_cond_mtd=D2DCE", "MODEL.d_embed_dim=32", "LOSS.m_p=0.98"),
    *("LOSS.cond_lambda=1", "LOSS.temperature=0.5"),
)
CONTRASTIVE = (
    *("MODEL.d_cond_mtd=2C", "MODEL.d_embed_dim=32"),
    *("LOSS.cond_lambda=1", "LOSS.temperature=0.5"),
)
TOPK = "LOSS.apply_topk=true", "LOSS.topk_gamma=0.9", "LOSS.topk_nu=0.5"
BCR = (
    *("LOSS.apply_bcr=true", "LOSS.real_lambda=10", "LOSS.fake_lambda=10"),
    "AUG.bcr_aug_type=bcr",
)
CR = "LOSS.apply_cr=true", "LOSS.cr_lambda=10", "AUG.cr_aug_type=cr"
DIFFAUG = "AUG.apply_diffaug=true", "AUG.diffaug_type=diffaug"
PENALTY = "LOSS.apply_gp=true", "LOSS.gp_lambda=10"
R1 = "LOSS.apply_r1_reg=true", "LOSS.r1_lambda=1"
MATCHING = "LOSS.apply_fm=true", "LOSS.fm_lambda=1"
LECAM = (
    *("LOSS.apply_lecam=true", "LOSS.lecam_lambda=0.3"),
    *("LOSS.lecam_ema_start_iter=1000", "LOSS.lecam_ema_decay=0.99"),
)
ZCR = "LOSS.apply_zcr=true", "LOSS.radius=0.05", "LOSS.g_lambda=0.5", "LOSS.d_lambda=20"
EMA = "MODEL.apply_g_ema=true", "MODEL.g_ema_decay=0.99", "MODEL.g_ema_start=10"
SGD = "OPTIMIZATION.type_=SGD", "OPTIMIZATION.momentum=0.9", "OPTIMIZATION.nesterov=true"
RMSPROP = "OPTIMIZATION.type_=RMSprop", "OPTIMIZATION.momentum=0", "OPTIMIZATION.alpha=0.99"
ATTENTION = "MODEL.apply_attn=true", "MODEL.attn_g_loc=[2]"


@pytest.mark.parametrize(
    "group",
    [
        *(
            CBN,
            CLASSIFIER,
            DATA_TO_DATA,
            CONTRASTIVE,
            TOPK,
            CR,
            BCR,
            ZCR,
            DIFFAUG,
            PENALTY,
            R1,
            MATCHING,
            LECAM,
        ),
        *(EMA, SGD, RMSPROP, ATTENTION),
    ],
    ids=lambda g: g[0],
)
def test_a_feature_needs_each_of_its_settings(group, write):
    path = write(BASE)
    load_config(path, group)
    for left_out in group[1:]:
        sentence = refusal(path, [override for override in group if override != left_out])
        assert left_out.split("=")[0] in sentence
        assert group[0].split("=")[0] in sentence


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["DATA.img_size=64", "MODEL.z_dim=128"], ["z_dim is 128", "by 5", "125 or 130"]),
        (["MODEL.z_dim=2"], ["z_dim is 2", "by 4", "example 4"]),
        (["MODEL.apply_attn=true", "MODEL.attn_g_loc=[4]"], ["attn_g_loc is [4]", "1 to 3"]),
        (["MODEL.apply_attn=true", "MODEL.attn_d_loc=[5]"], ["attn_d_loc is [5]", "1 to 4"]),
        ([*CBN, "DATA.num_classes=1"], ["g_cond_mtd 'cBN'", "DATA.num_classes", "'W/O'"]),
        (["MODEL.d_cond_mtd=PD", "DATA.num_classes=1"], ["d_cond_mtd 'PD'", "num_classes"]),
        ([*CONTRASTIVE, "OPTIMIZATION.batch_size=1"], ["'2C'", "OPTIMIZATION.batch_size"]),
        ([*TOPK, "LOSS.topk_policy=balanced"], ["'balanced'", "MODEL.g_cond_mtd 'W/O'"]),
        (["LOSS.temperature=1"], ["LOSS.temperature is 1", "no effect", "'2C' and 'D2DCE'"]),
        (["MODEL.d_cond_mtd=PD", "LOSS.cond_lambda=1"], ["cond_lambda", "d_cond_mtd is 'PD'"]),
        ([*CONTRASTIVE, "LOSS.m_p=0.9"], ["LOSS.m_p is 0.9", "only 'D2DCE'"]),
        (["OPTIMIZATION.momentum=0.9"], ["OPTIMIZATION.momentum is 0.9", "type_ is 'Adam'"]),
        ([*TOPK, "LOSS.topk_mode=slice", "LOSS.topk_policy=random"], ["topk_policy", "'slice'"]),
        ([*TOPK, "LOSS.topk_mode=slice", "LOSS.topk_scope=global"], ["topk_scope", "'slice'"]),
        ([*TOPK, "LOSS.topk_mode=slice", "LOSS.topk_normalize=batch"], ["topk_normalize"]),
        ([*CR, *BCR], ["LOSS.apply_cr and LOSS.apply_bcr", "StudioGAN refuses"]),
        ([*CR, *ZCR], ["LOSS.apply_cr and LOSS.apply_zcr", "StudioGAN refuses"]),
        ([*R1, "LOSS.r1_place=outside_loop"], ["'outside_loop'", "use 'inside_loop'"]),
        (["MODEL.g_conv_dim=N/A"], ["MODEL.backbone 'big_resnet' needs MODEL.g_conv_dim"]),
        ([*DCGAN, "MODEL.d_conv_dim=32"], ["MODEL.d_conv_dim is 32", "are fixed", "'N/A'"]),
        (["MODEL.backbone=deep_conv"], ["MODEL.g_conv_dim is 64", "are fixed", "'N/A'"]),
        (["MODEL.backbone=resnet", "MODEL.g_shared_dim=8"], ["g_shared_dim is 8", "'resnet'"]),
        ([*TOPK, "LOSS.topk_release_from=1"], ["topk_release_from needs LOSS.topk_release_to"]),
        ([*TOPK, "LOSS.topk_release_to=50%"], ["topk_release_to needs LOSS.topk_release_from"]),
        (
            [*TOPK, "LOSS.topk_release_from=60%", "LOSS.topk_release_to=30%"],
            ["topk_release_from is 60%", "topk_release_to 30%", "later"],
        ),
        ([*DCGAN, "DATA.img_size=64"], ["DATA.img_size is 64", "images of 32 only"]),
        ([*DCGAN, "MODEL.apply_attn=true", "MODEL.attn_d_loc=[4]"], ["numbered from 1 to 3"]),
        (["LOSS.real_label=0.9", "LOSS.adv_loss=hinge"], ["real_label is 0.9", "use 'vanilla'"]),
        ([*SGD, "OPTIMIZATION.momentum=0"], ["OPTIMIZATION.nesterov", "momentum above 0"]),
    ],
)
def test_combinations_that_cannot_work_are_refused(overrides, parts, tmp_path):
    sentence = refused_override(*overrides, tmp_path=tmp_path)
    for part in parts:
        assert part in sentence


@pytest.mark.parametrize(("img_size", "chunks"), [(32, 4), (64, 5), (128, 6)])
def test_z_is_split_into_one_chunk_more_than_there_are_blocks(img_size, chunks, write):
    path = write(BASE)
    for z_dim in range(1, 31):
        overrides = [f"DATA.img_size={img_size}", f"MODEL.z_dim={z_dim}"]
        if z_dim % chunks == 0:
            assert load_config(path, overrides).MODEL.z_dim == z_dim
        else:
            assert f"divisible by {chunks}" in refusal(path, overrides)


def test_slice_mode_is_taken_as_studiogan_has_it(write):
    overrides = [*TOPK, "LOSS.topk_mode=slice", "LOSS.topk_scope=rank"]
    assert load_config(write(BASE), overrides).LOSS.topk_mode == "slice"


def test_settings_of_a_switch_that_was_forgotten_are_refused(write):
    forgotten = write(BASE + "LOSS: {topk_gamma: 0.9, topk_nu: 0.5}\n")
    sentence = refusal(forgotten)
    assert "LOSS.topk_gamma" in sentence
    assert "LOSS.apply_topk is left out" in sentence
    # Said aloud, in the file or after it, the settings may rest.
    off = load_config(forgotten, ["LOSS.apply_topk=false"])
    assert not off.LOSS.apply_topk
    assert load_config(forgotten, ["LOSS.apply_topk=true"]).LOSS.apply_topk


def test_an_override_that_would_have_no_effect_is_refused(write):
    path = write(BASE + "LOSS: {apply_topk: False, topk_gamma: 0.9, topk_nu: 0.5}\n")
    assert load_config(path).LOSS.topk_nu == 0.5
    sentence = refusal(path, ["LOSS.topk_nu=0.6"])
    assert "LOSS.topk_nu is 0.6" in sentence
    assert "--set LOSS.apply_topk=true" in sentence
    assert "AUG.bcr_aug_type" in refusal(path, ["AUG.bcr_aug_type=bcr"])
    for override in ("AUG.diffaug_type=cr", "LOSS.r1_place=outside_loop", "LOSS.gp_lambda=1"):
        assert "has no effect" in refusal(path, [override])
    load_config(path, ["LOSS.topk_nu=0.6", "LOSS.apply_topk=false"])
    load_config(path, ["LOSS.topk_nu=N/A"])


# --- files -----------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_its_nearest_neighbour(write):
    path = write(BASE)
    sentence = refusal(path.with_name("rum.yaml"))
    assert "rum.yaml does not exist" in sentence
    assert f"did you mean {path}?" in sentence
    assert "does not exist" in refusal(path.parent / "no" / "such.yaml")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["is empty"]),
        ("# only a comment\n", ["is empty"]),
        ("hello", ["'hello'", "not sections"]),
        ("- DATA\n", ["not sections"]),
        ("MODEL:\n\tz_dim: 80\n", ["line 2", "tabs"]),
        ("MODEL:\n  z_dim: 80\n  z_dim: 40\n", ["line 3", "'z_dim'", "first in line 2"]),
        ("LOSS: {}\nMODEL: {}\nLOSS: {}\n", ["line 3", "'LOSS'", "first in line 1"]),
        ("MODEL: {z_dim: 80\n", ["line 2"]),
        ("MODEL:\n  z_dim: 80\n z_prior: gaussian\n", ["line 3"]),
        ("MODEL:\n  z_dim 80\n  z_prior: gaussian\n", ["line 3"]),
        ("a: 1\n---\nb: 2\n", ["single document"]),
        (b"\xff\xfe\x00garbage", ["not UTF-8 text"]),
        (b"MODEL:\n  z_dim: \x00\n", ["not valid YAML"]),
        (b"x" * (1 << 20) + b"yz", ["larger than 1 MiB"]),
        ("MODEL: !!python/object/apply:os.getcwd []\n", ["line 1"]),
        ("MODEL: {z_dim: !!bool x}\n", ["not valid YAML"]),
        ("MODEL: {z_dim: !!int ''}\n", ["not valid YAML"]),
        ("DATA: {name: 2024-13-45}\n", ["not valid YAML"]),
        ("DATA: " + "[" * 5000, ["nested too deeply"]),
        ("DATA: " + "{a: " * 900, ["nested too deeply"]),
        ("".join(f"{' ' * depth}a:\n" for depth in range(900)), ["nested too deeply", "line 2"]),
        ("MODEL: {z_dim: *nowhere}\n", ["nowhere"]),
        ("MODEL: &m {backbone: big_resnet, z_dim: *m}\n", ["MODEL.z_dim"]),
        (BASE + "  z_dim: 0x" + "f" * 5000, ["MODEL.z_dim is a number of thousands of digits"]),
    ],
)
def test_a_file_that_is_no_config_is_refused(content, parts, write):
    sentence = refusal(write(content))
    assert len(sentence) < 600
    for part in parts:
        assert part in sentence


def test_aliases_that_multiply_are_cut_in_the_sentence(write):
    lines = ["DATA: {name: &a0 [x, x]}", "PRE: {apply_rflip: *a12}"]
    bomb = [f"k{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}, *a{i - 1}]" for i in range(1, 13)]
    assert len(refusal(write("\n".join([lines[0], *bomb, lines[1]])))) < 600


def test_a_long_override_is_cut_in_the_sentence(write):
    for override in ("a" * 5000, "MODEL.z_dim=[" + "b" * 5000, "a" * 5000 + ".b=1"):
        assert len(refusal(write(BASE), [override])) < 600


def test_a_folder_and_an_unusable_path_are_refused(tmp_path):
    assert "is a folder" in refusal(tmp_path)
    assert "can't be read" in refusal("a\0b.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_section(write):
    assert load_config(write(b"\xef\xbb\xbf" + BASE.encode())) == load_config(write(BASE))


def test_anchors_and_merges_still_work(write):
    text = 'MODEL: &m\n  backbone: big_resnet\n  z_dim: 80\nLOSS:\n  adv_loss: "hinge"\n'
    assert load_config(write(text)).MODEL.z_dim == 80
    merged = "PRE: &p {apply_rflip: False}\nMODEL: {backbone: big_resnet}\nAUG: {<<: {}}\n"
    assert load_config(write(merged)).PRE.apply_rflip is False


def value_or_refusal(call):
    """What ``call`` returns, or the UserError it raises; anything else fails the test."""
    try:
        return call()
    except UserError as error:
        return error


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [*STUDIOGAN_DEFAULTS, *STUDIOGAN_DEFAULTS["MODEL"], "apply_topk", "x", 3]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    )
)
@example({"MODEL": {"attn_g_loc": [{}]}})
@example({"LOSS": {"topk_every": math.inf}})
def test_any_tree_becomes_a_config_or_one_sentence(tree):
    outcome = value_or_refusal(lambda: Config.from_dict(tree))
    if isinstance(outcome, Config):
        assert Config.from_dict(outcome.to_dict()) == outcome
    else:
        assert str(outcome).strip()


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=":-[]{}&*!|>'\"#%@`, \n\tMODEL<a0.e1?", max_size=40))
@example("&a {<<: *a}")
@example("? [a]\n: b")
@example("!!timestamp x")
@example("!!binary é")
def test_any_text_becomes_data_or_one_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text)
    outcome = value_or_refusal(lambda: read_config_file(path))
    if isinstance(outcome, UserError):
        assert str(path) in str(outcome)


# --- writing ---------------------------------------------------------------------------------


def everything_set() -> Config:
    return Config.unchecked(
        MODEL={
            "backbone": "big_resnet",
            "g_cond_mtd": "cBN",
            "g_shared_dim": 128,
            "apply_attn": True,
            "attn_g_loc": (1, 2),
            "apply_g_ema": True,
            "g_ema_decay": 0.9999,
            "g_ema_start": 7,
        },
        LOSS={
            "apply_topk": True,
            "topk_gamma": 0.99,
            "topk_nu": 0.5,
            "topk_policy": "balanced",
            "topk_scope": "global",
            "topk_normalize": "batch",
            "topk_every": 2000,
            "topk_release_from": "30%",
            "topk_release_to": 12.5,
        },
        OPTIMIZATION={"g_lr": 5e-5, "d_lr": 1e-12},
    )


def test_a_config_survives_its_own_yaml(write):
    config = everything_set()
    assert load_config(write(config.to_yaml())) == config
    assert Config.from_dict(config.to_dict()) == config


def test_settings_of_a_method_rest_when_an_override_chooses_another(write):
    contrastive = load_config(write(BASE), CONTRASTIVE)
    assert contrastive.LOSS.temperature is not None
    other = load_config(write(contrastive.to_yaml()), ["MODEL.d_cond_mtd=PD"])
    assert (other.LOSS.temperature, other.LOSS.cond_lambda) == (None, None)
    assert load_config(write(other.to_yaml())) == other


def test_the_yaml_is_one_that_studiogan_reads(write):
    plain = load_config(write(BASE)).to_yaml()
    # StudioGAN reads with yaml.FullLoader and refuses keys that it does not know.
    tree = yaml.load(plain, Loader=yaml.FullLoader)
    for section, keys in tree.items():
        assert set(keys) <= set(STUDIOGAN_DEFAULTS[section])
    assert tree["MODEL"]["attn_g_loc"] == ["N/A"]
    assert tree["LOSS"]["cond_lambda"] == "N/A"


def test_numbers_stay_numbers_for_a_yaml_1_1_reader():
    tree = yaml.load(everything_set().to_yaml(), Loader=yaml.FullLoader)
    assert tree["OPTIMIZATION"]["g_lr"] == 5e-5
    assert tree["OPTIMIZATION"]["d_lr"] == 1e-12
    assert tree["MODEL"]["attn_g_loc"] == [1, 2]
    assert tree["LOSS"]["topk_every"] == 2000


@given(st.floats(min_value=0.0, exclude_min=True, allow_infinity=False))
def test_every_learning_rate_survives_yaml_1_1(rate):
    text = Config.unchecked(OPTIMIZATION={"g_lr": rate}).to_yaml()
    assert yaml.load(text, Loader=yaml.FullLoader)["OPTIMIZATION"]["g_lr"] == rate


def test_only_the_plugins_keys_that_differ_are_written():
    written = everything_set().to_dict()["LOSS"]
    assert "topk_mode" not in written
    assert written["topk_policy"] == "balanced"


def test_a_path_may_be_text(write):
    assert load_config(str(write(BASE))) == load_config(Path(write(BASE)))
