"""One optimizer step: its order, its loss written out, and that it learns."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

from insloc_hub.boxes.augment import augment_boxes
from insloc_hub.errors import BadRun, UnknownName
from insloc_hub.parallel.groupbn import draw_shuffle
from insloc_hub.pretrain.state import State, new_state
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.recipe import Recipe

Tiny = Callable[..., Recipe]
CPU = torch.device("cpu")


def batch(b: int = 8, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, b, 3, 64, 64, generator=generator)
    corner = torch.rand(b, 2, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + 25 + torch.rand(b, 2, 2, generator=generator) * 15], dim=2)
    return Batch(query=query, query_boxes=boxes[:, 0].contiguous(), key=key, key_boxes=boxes[:, 1].contiguous())


def test_a_step_is_the_released_order_written_out(tiny: Tiny) -> None:
    """Query, twin update with the query before its own update, shuffled keys, loss against the old queue, SGD, enqueue."""
    recipe = tiny(bn_groups=2, key_momentum=0.9)
    state, data = new_state(recipe, CPU), batch()
    with torch.no_grad():
        for parameter in state.twin.parameters():
            parameter.add_(0.01)  # apart from the query's, so that a mix-up shows
    encoder, twin = copy.deepcopy(state.encoder), copy.deepcopy(state.twin)
    queue = state.queue.keys.clone()
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003)
    facts = train_step(state, data, 0.05)

    boxes = augment_boxes(data.query_boxes, state.anchors, generator)[:, None]
    q = torch.cat([encoder(data.query[:4], boxes[:4]), encoder(data.query[4:], boxes[4:])])[:, 0]
    for k, p in zip(twin.parameters(), encoder.parameters(), strict=True):
        k.data = 0.9 * k.data + 0.1 * p.data
    order = draw_shuffle(8, generator).order
    with torch.no_grad():
        halves = [twin(data.key[part], data.key_boxes[part][:, None])[:, 0] for part in order.chunk(2)]
    key = torch.empty(8, recipe.embedding_dim)
    key[order] = torch.cat(halves)
    logits = torch.cat([(q * key).sum(dim=1, keepdim=True), q @ queue[0]], dim=1) / recipe.temperature
    loss = cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    loss.backward()
    assert float(facts.loss) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert facts.accuracy.tolist() == pytest.approx([float((logits.argmax(dim=1) == 0).float().mean())])
    for mine, slow in zip(state.twin.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(mine, slow, atol=1e-6)
    assert torch.allclose(state.queue.keys[0, :, :8], key.T, atol=1e-4) and torch.equal(
        state.queue.keys[0, :, 8:], queue[0, :, 8:]
    )
    for (name, mine), slow in zip(state.encoder.named_parameters(), encoder.parameters(), strict=True):
        assert slow.grad is not None, name
        decayed = slow.grad + recipe.weight_decay * slow.data
        expected = slow.data - 0.05 * (1 + recipe.sgd_momentum) * decayed  # Nesterov's first step
        assert (mine - expected).norm() <= 1e-3 * (mine - slow).norm() + 1e-7, name
    assert state.step == 1


def test_queries_get_augmented_boxes_and_keys_the_exact_ones(tiny: Tiny) -> None:
    seen: dict[str, list[torch.Tensor]] = {"query": [], "key": []}
    state, data = new_state(tiny(bn_groups=1), CPU), batch()
    for name, encoder in (("query", state.encoder), ("key", state.twin)):
        encoder.register_forward_pre_hook(lambda _, inputs, name=name: seen[name].append(inputs[1].clone()))
    train_step(state, data, 0.01)
    assert sorted(seen["key"][0][:, 0].tolist()) == sorted(data.key_boxes.tolist())
    assert not (seen["query"][0][:, 0] == data.query_boxes).all(dim=1).any()


def test_without_box_augmentation_queries_get_the_exact_boxes_too(tiny: Tiny) -> None:
    state, data = new_state(tiny(augment_levels=(False,), bn_groups=1), CPU), batch()
    seen: list[torch.Tensor] = []
    state.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    train_step(state, data, 0.01)
    assert torch.equal(seen[0][:, 0], data.query_boxes)


def test_the_twin_has_no_gradient_and_statistics_of_its_own(tiny: Tiny) -> None:
    state = new_state(tiny(), CPU)
    train_step(state, batch(), 0.01)
    assert all(p.grad is None and not p.requires_grad for p in state.twin.parameters())
    query, key = state.encoder.trunk.bn1, state.twin.trunk.bn1
    assert int(query.num_batches_tracked) == int(key.num_batches_tracked) == 2  # once per group
    assert not torch.equal(query.running_mean, key.running_mean)


def test_the_loss_falls_on_a_fixed_batch(tiny: Tiny) -> None:
    state, data = new_state(tiny(), CPU), batch()
    start = state.queue.keys.clone()
    losses = []
    for _ in range(25):
        state.queue.keys.copy_(start)  # the batch's own keys would be its negatives
        losses.append(float(train_step(state, data, 0.02).loss))
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


def state_of(recipe: Recipe) -> State:
    return new_state(recipe, CPU)


def test_a_state_is_a_function_of_the_recipe_alone(tiny: Tiny) -> None:
    torch.manual_seed(1)
    one = state_of(tiny())
    torch.manual_seed(2)
    two, other = state_of(tiny()), state_of(tiny(seed=1))
    for name, tensor in one.encoder.state_dict().items():
        assert torch.equal(tensor, two.encoder.state_dict()[name]), name
    assert torch.equal(one.queue.keys, two.queue.keys) and not torch.equal(one.queue.keys, other.queue.keys)
    assert not torch.equal(one.encoder.trunk.layer1[0].conv1.weight, other.encoder.trunk.layer1[0].conv1.weight)
    assert one.encoder.training and one.queue.keys.shape == (1, 128, 32)


def test_the_same_step_twice_gives_the_same_numbers(tiny: Tiny) -> None:
    one, two = (state_of(tiny()) for _ in range(2))
    for step in range(2):
        assert float(train_step(one, batch(seed=step), 0.01).loss) == float(train_step(two, batch(seed=step), 0.01).loss)
    assert all(torch.equal(a, b) for a, b in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True))


def test_half_precision_gives_nearly_the_same_loss_and_keeps_single_precision_weights(tiny: Tiny) -> None:
    full, half = (
        train_step(state_of(tiny()), batch(), 0.01),
        train_step(state := state_of(tiny(precision="bf16")), batch(), 0.01),
    )
    assert half.loss.dtype == torch.float32
    assert float(half.loss) == pytest.approx(float(full.loss), rel=0.05) and float(half.loss) != float(full.loss)
    assert {p.dtype for p in state.encoder.parameters()} == {torch.float32} and state.queue.keys.dtype == torch.float32


def test_an_architecture_that_cannot_carry_the_encoder_is_refused(tiny: Tiny) -> None:
    with pytest.raises(BadRun, match="mobilenetv3_small_050 has no single last stage"):
        state_of(tiny(arch="mobilenetv3_small_050"))
    with pytest.raises(UnknownName, match="did you mean"):
        state_of(tiny(arch="resnet10"))
