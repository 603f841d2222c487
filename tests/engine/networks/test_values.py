"""With equal weights our networks compute what StudioGAN's compute."""

import pytest
import torch


def _gradient_norm(network):
    gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(gradients).norm()


@pytest.mark.parametrize("modes", [["train"], ["train", "eval"]])
def test_outputs_and_gradients_are_studiogans(recorded, recorded_networks, modes):
    generator, discriminator = recorded_networks
    z_dim, size = recorded["model"]["z_dim"], recorded["img_size"]
    z = torch.cos(0.9 * torch.arange(3 * z_dim, dtype=torch.float64)).view(3, z_dim)
    labels = torch.tensor([1, 4, 1])
    # Evaluation follows training: it sees the batch norm and spectral norm buffers that the
    # forward pass in training mode has moved.
    for mode in modes:
        for network in recorded_networks:
            network.train(mode == "train")
            network.zero_grad()
        images = generator(z, labels)
        outputs = discriminator(images, labels)
        loss = outputs["adv_output"].square().mean()
        computed = {
            "pixels": images[:, :, size // 2, 3].flatten(),
            "adv_output": outputs["adv_output"],
        }
        if "embed" in outputs:
            product = (outputs["embed"] * outputs["proxy"]).sum(1)
            loss = loss + product.square().mean()
            computed["embed_times_proxy"] = product
        if "cls_output" in outputs:
            loss = loss + outputs["cls_output"].square().mean()
            computed["cls_output"] = outputs["cls_output"].flatten()
        loss.backward()
        computed["generator_gradient_norm"] = _gradient_norm(generator)
        computed["discriminator_gradient_norm"] = _gradient_norm(discriminator)
        assert computed.keys() == recorded[mode].keys()
        for name, value in computed.items():
            expected = torch.tensor(recorded[mode][name], dtype=torch.float64)
            torch.testing.assert_close(value.detach(), expected, rtol=1e-9, atol=1e-11)
