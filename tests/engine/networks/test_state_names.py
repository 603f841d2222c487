"""Checkpoints of StudioGAN load into our networks and ours into StudioGAN's."""

import pytest


@pytest.mark.parametrize(("index", "key"), [(0, "generator_state"), (1, "discriminator_state")])
def test_names_shapes_and_order_are_studiogans(recorded, recorded_networks, index, key):
    state = recorded_networks[index].state_dict()
    ours = [(name, list(tensor.shape)) for name, tensor in state.items()]
    assert ours == list(recorded[key].items())
