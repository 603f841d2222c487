"""Training steps, log and checkpoints."""

import numpy as np
import torch
import utils.losses as losses
import utils.misc as misc
import utils.sample as sample
import wandb


class WORKER:
    def __init__(
        self,
        cfgs,
        run_name,
        Gen,
        Dis,
        train_dataloader,
        global_rank,
        local_rank,
        logger,
        aa_p,
        best_step,
        best_fid,
    ):
        self.cfgs, self.run_name, self.Gen, self.Dis = cfgs, run_name, Gen, Dis
        self.train_dataloader, self.logger = train_dataloader, logger
        self.global_rank, self.local_rank = global_rank, local_rank
        self.aa_p, self.best_step, self.best_fid = aa_p, best_step, best_fid
        cfgs.define_losses()
        self.DATA, self.MODEL, self.LOSS = cfgs.DATA, cfgs.MODEL, cfgs.LOSS
        self.OPTIMIZATION, self.RUN = cfgs.OPTIMIZATION, cfgs.RUN
        self.DDP = self.RUN.distributed_data_parallel
        if global_rank == 0:
            wandb.init(
                project=self.RUN.project,
                entity=self.RUN.entity,
                name=run_name,
                dir=self.RUN.save_dir,
                resume=best_step > 0,
            )

    def prepare_train_iter(self, epoch_counter):
        self.epoch_counter = epoch_counter
        self.train_iter = iter(self.train_dataloader)

    def sample_data_basket(self):
        basket = next(self.train_iter, None)
        if basket is None:
            self.epoch_counter += 1
            self.train_iter = iter(self.train_dataloader)
            basket = next(self.train_iter)
        images, labels = basket
        size = self.OPTIMIZATION.batch_size
        return torch.split(images, size), torch.split(labels, size)

    def generate(self):
        return sample.generate_images(
            batch_size=self.OPTIMIZATION.batch_size,
            z_dim=self.MODEL.z_dim,
            num_classes=self.DATA.num_classes,
            generator=self.Gen,
            discriminator=self.Dis,
            LOSS=self.LOSS,
        )

    def train_discriminator(self, current_step):
        misc.toggle_grad(self.Gen, False)
        misc.toggle_grad(self.Dis, True)
        images, labels = self.sample_data_basket()
        for update in range(self.OPTIMIZATION.d_updates_per_step):
            self.OPTIMIZATION.d_optimizer.zero_grad()
            fake_images, fake_labels = self.generate()
            real_dict = self.Dis(images[update], labels[update])
            fake_dict = self.Dis(fake_images, fake_labels)
            real_cond_loss = torch.zeros(())
            if self.LOSS.adv_loss == "MH":
                rest = torch.full_like(fake_labels, self.DATA.num_classes)
                loss = self.LOSS.d_loss(DDP=self.DDP, **real_dict)
                loss = loss + self.LOSS.d_loss(DDP=self.DDP, **{**fake_dict, "label": rest})
            else:
                loss = self.LOSS.d_loss(
                    real_dict["adv_output"], fake_dict["adv_output"], DDP=self.DDP
                )
                real_cond_loss = losses.cross_entropy(real_dict["cls_output"], labels[update])
                loss = loss + self.LOSS.cond_lambda * real_cond_loss
            loss.backward()
            self.OPTIMIZATION.d_optimizer.step()
        return real_cond_loss, loss

    def train_generator(self, current_step):
        misc.toggle_grad(self.Dis, False)
        misc.toggle_grad(self.Gen, True)
        for _ in range(self.OPTIMIZATION.g_updates_per_step):
            self.OPTIMIZATION.g_optimizer.zero_grad()
            fake_images, fake_labels = self.generate()
            fake_dict = self.Dis(fake_images, fake_labels)
            if self.LOSS.apply_topk:
                kept = torch.topk(fake_dict["adv_output"], int(self.topk)).values
                fake_dict["adv_output"] = kept
            if self.LOSS.adv_loss == "MH":
                loss = self.LOSS.mh_lambda * self.LOSS.g_loss(DDP=self.DDP, **fake_dict)
            else:
                loss = self.LOSS.g_loss(fake_dict["adv_output"], DDP=self.DDP)
                cond_loss = losses.cross_entropy(fake_dict["cls_output"], fake_labels)
                loss = loss + self.LOSS.cond_lambda * cond_loss
            loss.backward()
            self.OPTIMIZATION.g_optimizer.step()
        return loss

    def log_train_statistics(self, current_step, real_cond_loss, gen_acml_loss, dis_acml_loss):
        self.wandb_step = current_step + 1
        k = int(self.topk) if self.LOSS.apply_topk else "N/A"
        self.logger.info(f"Step: {current_step + 1} Topk: {k}")
        values = {
            "gen_loss": gen_acml_loss.item(),
            "dis_loss": dis_acml_loss.item(),
            "cls_loss": real_cond_loss.item(),
        }
        wandb.log(values, step=self.wandb_step)

    def visualize_fake_images(self, num_cols, current_step):
        with torch.no_grad():
            fake_images, _ = self.generate()
        wandb.log({"generated_images": wandb.Image(fake_images)}, step=self.wandb_step)

    def evaluate(self, step, metrics, writing=True, training=False):
        raise NotImplementedError

    def save(self, step, is_best):
        when = "best" if is_best else "current"
        Gen, Dis = misc.peel_models(self.Gen, self.Dis)
        g_states = {
            "state_dict": Gen.state_dict(),
            "optimizer": self.OPTIMIZATION.g_optimizer.state_dict(),
        }
        d_states = {
            "state_dict": Dis.state_dict(),
            "optimizer": self.OPTIMIZATION.d_optimizer.state_dict(),
            "seed": self.RUN.seed,
            "run_name": self.run_name,
            "step": step,
            "epoch": self.epoch_counter,
            "topk": self.topk,
            "best_fid": np.float64(10.5),  # StudioGAN's are NumPy's numbers
        }
        for name, states in (("G", g_states), ("D", d_states)):
            misc.save_model(
                model=name, when=when, step=step, ckpt_dir=self.RUN.ckpt_dir, states=states
            )
