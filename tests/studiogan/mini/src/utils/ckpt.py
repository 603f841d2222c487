"""Going on from a checkpoint."""

import glob
import os

import torch


def load_ckpt(model, optimizer, ckpt_path, load_opt):
    states = torch.load(ckpt_path, map_location="cpu")
    model.load_state_dict(states["state_dict"])
    if load_opt:
        optimizer.load_state_dict(states["optimizer"])
    return states


def load_StudioGAN_ckpts(
    ckpt_dir,
    load_best,
    Gen,
    Dis,
    g_optimizer,
    d_optimizer,
    run_name,
    apply_g_ema,
    Gen_ema,
    ema,
    is_train,
    RUN,
    logger,
    global_rank,
    device,
    cfg_file,
):
    when = "best" if load_best else "current"
    frozen = RUN.freezeD > -1
    start = os.path.join(ckpt_dir, "model={}-" + when + "-weights-step=*.pth")
    load_ckpt(Gen, g_optimizer, glob.glob(start.format("G"))[0], not frozen)
    states = load_ckpt(Dis, d_optimizer, glob.glob(start.format("D"))[0], not frozen)
    if frozen:
        return run_name, 0, 0, "initialize", None, 0, None, None, None, logger
    k = states.get("topk", "initialize")
    return states["run_name"], states["step"], states["epoch"], k, None, 0, None, None, None, logger


def load_best_model(ckpt_dir, Gen, Dis, apply_g_ema, Gen_ema, ema):
    return 0
