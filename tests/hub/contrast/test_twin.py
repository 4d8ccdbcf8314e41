"""The momentum copy: parameters follow, buffers go their own way, no gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from insloc_hub.contrast.twin import make_twin, update_twin


def module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_three_updates_leave_the_frozen_parameters(golden: Callable[[str], dict[str, np.ndarray]]) -> None:
    frozen = golden("infonce")
    query, key = nn.Linear(5, 1, bias=False).double(), nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        key.weight.copy_(torch.from_numpy(frozen["momentum_key_start"])[None])
    for values, after in zip(frozen["momentum_query"], frozen["momentum_key_after"], strict=True):
        with torch.no_grad():
            query.weight.copy_(torch.from_numpy(values)[None])
        update_twin(key, query, float(frozen["momentum_m"]))
        assert np.abs(key.weight.detach().numpy()[0] - after).max() < 1e-15


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_every_parameter_is_the_weighted_mean_and_no_buffer_is(momentum: float) -> None:
    query = module()
    twin = make_twin(query)
    with torch.no_grad():
        for parameter in query.parameters():
            parameter.add_(torch.randn_like(parameter))
    query(torch.randn(16, 3) + 5)  # moves the running statistics of the query alone
    before = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    state = query.state_dict()
    update_twin(twin, query, momentum)
    parameters = {name for name, _ in query.named_parameters()}
    for name, tensor in twin.state_dict().items():
        expected = momentum * before[name] + (1 - momentum) * state[name] if name in parameters else before[name]
        assert torch.allclose(tensor, expected, atol=1e-6), name
    assert not torch.equal(state["1.running_mean"], twin.state_dict()["1.running_mean"])


def test_it_starts_equal_shares_no_memory_and_takes_no_gradient() -> None:
    query = module()
    twin = make_twin(query)
    for one, two in zip(query.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(one, two) and one.data_ptr() != two.data_ptr()
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert all(parameter.requires_grad for parameter in query.parameters())


def test_its_batch_statistics_come_from_its_own_forwards() -> None:
    query = module()
    twin = make_twin(query)
    twin(torch.randn(8, 3))
    assert twin.training
    assert int(twin[1].num_batches_tracked) == 1 and int(query[1].num_batches_tracked) == 0
