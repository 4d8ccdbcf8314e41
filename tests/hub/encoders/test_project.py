"""The projection: fc, ReLU, fc and no norm."""

import torch

from insloc_hub.encoders.project import Projection


def test_it_is_two_layers_with_a_relu_between() -> None:
    torch.manual_seed(0)
    projection = Projection(6, 5, 4)
    x = torch.randn(3, 6)
    hidden = x @ projection.fc1.weight.T + projection.fc1.bias
    slow = torch.where(hidden > 0, hidden, 0) @ projection.fc2.weight.T + projection.fc2.bias
    assert (hidden < 0).any() and (hidden > 0).any()
    assert torch.allclose(projection(x), slow, atol=1e-6)
    assert (projection.fc1.out_features, projection.fc2.out_features) == (5, 4)
