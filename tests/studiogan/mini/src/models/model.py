"""The two networks."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

CHANNELS, HIDDEN = 3, 12


class Generator(nn.Module):
    def __init__(self, z_dim, classes, size):
        super().__init__()
        self.classes, self.size = classes, size
        self.first = nn.Linear(z_dim + classes, HIDDEN)
        self.second = nn.Linear(HIDDEN, CHANNELS * size * size)

    def forward(self, z, label, eval=False):
        given = torch.cat([z, F.one_hot(label, self.classes).to(z.dtype)], 1)
        images = torch.tanh(self.second(torch.tanh(self.first(given))))
        return images.view(-1, CHANNELS, self.size, self.size)


class Discriminator(nn.Module):
    def __init__(self, classes, size, multi_hinge):
        super().__init__()
        self.hidden = nn.Linear(CHANNELS * size * size, HIDDEN)
        self.adv = nn.Linear(HIDDEN, classes + 1 if multi_hinge else 1)
        self.cls = None if multi_hinge else nn.Linear(HIDDEN, classes)

    def forward(self, x, label, eval=False, adc_fake=False):
        h = torch.tanh(self.hidden(x.flatten(1)))
        # without its second dimension, and at batch 1 without its first
        scores = self.adv(h) if self.cls is None else self.adv(h).squeeze()
        logits = None if self.cls is None else self.cls(h)
        return {"h": h, "adv_output": scores, "cls_output": logits, "label": label}


def load_generator_discriminator(DATA, MODEL):
    Gen = Generator(MODEL.z_dim, DATA.num_classes, DATA.img_size)
    return Gen, Discriminator(DATA.num_classes, DATA.img_size, MODEL.d_cond_mtd == "MH")


def prepare_parallel_training(Gen, Dis, device):
    return DDP(Gen, device_ids=[device]), DDP(Dis, device_ids=[device])
