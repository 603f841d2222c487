"""Settings."""

import torch
import utils.losses as losses
import utils.misc as misc
import yaml

BASE = {
    "DATA": {"name": "noise", "num_classes": 3, "img_size": 4},
    "MODEL": {
        "backbone": "linear",
        "g_cond_mtd": "cBN",
        "d_cond_mtd": "AC",
        "z_dim": 5,
        "info_type": "N/A",
        "apply_g_ema": False,
    },
    "LOSS": {
        "adv_loss": "hinge",
        "cond_lambda": 0.5,
        "mh_lambda": 1.0,
        "apply_lo": False,
        "apply_fm": False,
        "apply_topk": False,
        "topk_gamma": "N/A",
        "topk_nu": "N/A",
    },
    "OPTIMIZATION": {
        "batch_size": 8,
        "acml_steps": 1,
        "g_updates_per_step": 1,
        "d_updates_per_step": 1,
        "d_first": True,
        "total_steps": 5,
        "lr": 0.2,
    },
    "AUG": {"apply_ada": False, "apply_apa": False},
    "STYLEGAN": {"apply_pl_reg": False},
    "RUN": {},
}


class Configurations:
    def __init__(self, cfg_file):
        self.load_base_cfgs()
        self._overwrite_cfgs(cfg_file)

    def _overwrite_cfgs(self, cfg_file):
        with open(cfg_file) as file:
            for section, values in yaml.safe_load(file).items():
                for name, value in values.items():
                    if not hasattr(self.super_cfgs[section], name):
                        raise AttributeError(f"no setting '{section}.{name}'")
                    setattr(self.super_cfgs[section], name, value)

    def load_base_cfgs(self):
        self.super_cfgs = {}
        for section, values in BASE.items():
            held = misc.make_empty_object()
            held.__dict__.update(values)
            setattr(self, section, held)
            self.super_cfgs[section] = held

    def update_cfgs(self, cfgs, super="RUN"):
        self.super_cfgs[super].__dict__.update(cfgs)

    def check_compatability(self):
        multi_hinge = "MH" in (self.MODEL.d_cond_mtd, self.LOSS.adv_loss)
        assert not (multi_hinge and self.LOSS.apply_topk), "no top-k for a multi-hinge critic here"

    def define_optimizer(self, Gen, Dis):
        lr = self.OPTIMIZATION.lr
        self.OPTIMIZATION.g_optimizer = torch.optim.SGD(Gen.parameters(), lr=lr)
        self.OPTIMIZATION.d_optimizer = torch.optim.SGD(Dis.parameters(), lr=lr)

    def define_losses(self):
        if self.LOSS.adv_loss == "MH":
            self.LOSS.g_loss, self.LOSS.d_loss = losses.multi_hinge, losses.multi_hinge
        else:
            self.LOSS.g_loss, self.LOSS.d_loss = losses.g_hinge, losses.d_hinge
