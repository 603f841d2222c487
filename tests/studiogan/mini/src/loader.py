"""One process's run, from its data to its last checkpoint."""

import logging
import os

import models.model as model
import torch
import utils.ckpt as ckpt
import utils.losses as losses
import utils.misc as misc
import wandb
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from worker import WORKER

BASKETS = 2  # an epoch


def load_worker(local_rank, cfgs, gpus_per_node, run_name, hdf5_path):
    torch.set_default_dtype(torch.float64)
    distributed, world = cfgs.RUN.distributed_data_parallel, cfgs.OPTIMIZATION.world_size
    if distributed:
        os.environ["MINI_STORE"] = f"file://{cfgs.RUN.save_dir}/rendezvous"
        misc.setup(local_rank, world, cfgs.RUN.backend)
    torch.manual_seed(cfgs.RUN.seed + local_rank)

    logger = None
    if local_rank == 0:
        folder = os.path.join(cfgs.RUN.save_dir, "logs")
        os.makedirs(folder, exist_ok=True)
        logger = logging.getLogger("mini")
        logger.setLevel("INFO")
        logger.addHandler(logging.FileHandler(os.path.join(folder, run_name + ".log")))

    count = BASKETS * cfgs.OPTIMIZATION.batch_size * cfgs.OPTIMIZATION.d_updates_per_step
    data = misc.noise(count, cfgs.DATA.img_size, cfgs.DATA.num_classes)
    sampler = None
    step, epoch, topk = 0, 0, cfgs.OPTIMIZATION.batch_size
    if distributed:
        cfgs.OPTIMIZATION.batch_size //= world
        topk = cfgs.OPTIMIZATION.batch_size
        sampler = DistributedSampler(data, world, local_rank, shuffle=False, drop_last=True)
    cfgs.OPTIMIZATION.basket_size = (
        cfgs.OPTIMIZATION.batch_size * cfgs.OPTIMIZATION.d_updates_per_step
    )
    train_dataloader = DataLoader(
        dataset=data,
        batch_size=cfgs.OPTIMIZATION.basket_size,
        sampler=sampler,
        drop_last=True,
        num_workers=cfgs.RUN.num_workers,
    )

    Gen, Dis = model.load_generator_discriminator(DATA=cfgs.DATA, MODEL=cfgs.MODEL)
    cfgs.define_optimizer(Gen, Dis)
    aa_p, best_step, best_fid = None, 0, None
    if cfgs.RUN.ckpt_dir is not None:
        (
            run_name,
            step,
            epoch,
            topk,
            aa_p,
            best_step,
            best_fid,
            _,
            _,
            logger,
        ) = ckpt.load_StudioGAN_ckpts(
            ckpt_dir=cfgs.RUN.ckpt_dir,
            load_best=cfgs.RUN.load_best,
            Gen=Gen,
            Dis=Dis,
            g_optimizer=cfgs.OPTIMIZATION.g_optimizer,
            d_optimizer=cfgs.OPTIMIZATION.d_optimizer,
            run_name=run_name,
            apply_g_ema=False,
            Gen_ema=None,
            ema=None,
            is_train=cfgs.RUN.train,
            RUN=cfgs.RUN,
            logger=logger,
            global_rank=local_rank,
            device=local_rank,
            cfg_file=cfgs.RUN.cfg_file,
        )
    if cfgs.RUN.ckpt_dir is None or cfgs.RUN.freezeD != -1:
        cfgs.RUN.ckpt_dir = os.path.join(cfgs.RUN.save_dir, "checkpoints", run_name)
        os.makedirs(cfgs.RUN.ckpt_dir, exist_ok=True)
    if distributed:
        Gen, Dis = model.prepare_parallel_training(Gen=Gen, Dis=Dis, device=local_rank)

    worker = WORKER(
        cfgs=cfgs,
        run_name=run_name,
        Gen=Gen,
        Dis=Dis,
        train_dataloader=train_dataloader,
        global_rank=local_rank,
        local_rank=local_rank,
        logger=logger,
        aa_p=aa_p,
        best_step=best_step,
        best_fid=best_fid,
    )
    worker.training, worker.topk = True, topk
    worker.prepare_train_iter(epoch_counter=epoch)
    while step <= cfgs.OPTIMIZATION.total_steps:
        real_cond_loss, dis_acml_loss = worker.train_discriminator(current_step=step)
        gen_acml_loss = worker.train_generator(current_step=step)
        if local_rank == 0 and (step + 1) % cfgs.RUN.print_freq == 0:
            worker.log_train_statistics(
                current_step=step,
                real_cond_loss=real_cond_loss,
                gen_acml_loss=gen_acml_loss,
                dis_acml_loss=dis_acml_loss,
            )
        step += 1
        if cfgs.LOSS.apply_topk and worker.epoch_counter == epoch + 1:
            epoch += 1
            floor = int(cfgs.LOSS.topk_nu * cfgs.OPTIMIZATION.batch_size)
            worker.topk = losses.adjust_k(
                current_k=worker.topk, topk_gamma=cfgs.LOSS.topk_gamma, inf_k=floor
            )
        if step % cfgs.RUN.save_freq == 0 and local_rank == 0:
            worker.visualize_fake_images(num_cols=4, current_step=step)
            worker.save(step=step, is_best=False)
    if local_rank == 0:
        ckpt.load_best_model(
            ckpt_dir=cfgs.RUN.ckpt_dir, Gen=Gen, Dis=Dis, apply_g_ema=False, Gen_ema=None, ema=None
        )
        wandb.finish()
    if distributed:
        misc.leave_together(cfgs.RUN.save_dir, local_rank, world)
