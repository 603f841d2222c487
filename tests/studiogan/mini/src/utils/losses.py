"""Losses, and the schedule of k."""

import torch
import torch.nn.functional as F


def g_hinge(d_logit_fake, DDP):
    return -d_logit_fake.mean()


def d_hinge(d_logit_real, d_logit_fake, DDP):
    return F.relu(1 - d_logit_real).mean() + F.relu(1 + d_logit_fake).mean()


def multi_hinge(adv_output, label, DDP, **_):
    """Crammer and Singer's loss: the own class's logit over every other one by 1."""
    own = F.one_hot(label, adv_output.shape[1]).bool()
    best_other = adv_output.masked_fill(own, -torch.inf).amax(1)
    return F.relu(1 + best_other - adv_output[own]).mean()


def cross_entropy(cls_output, label):
    return F.cross_entropy(cls_output, label)


def latent_optimise(zs, fake_labels, generator, discriminator):
    return zs


def adjust_k(current_k, topk_gamma, inf_k):
    return max(topk_gamma * current_k, inf_k)
