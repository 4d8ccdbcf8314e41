"""The C4 encoder and a whole training step against arrays of the released model classes (tests/assets/README.md).

ResNet-50, 128 px, two images, one batch group. The weights are a function of the release's tensor names, so a wrong
place in our modules shows. The C4 configuration itself is inferred (paper.md A.6).
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from golden import error, fill, image

from insloc_hub.boxes.anchors import anchor_grid
from insloc_hub.contrast.infonce import infonce
from insloc_hub.contrast.queue import Queue
from insloc_hub.contrast.twin import make_twin, update_twin
from insloc_hub.encoders.c4 import C4Encoder, c4_region_vectors
from insloc_hub.pretrain.schedule import make_optimizer
from insloc_hub.pretrain.state import State
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.recipe import Recipe

Frozen = dict[str, np.ndarray]


def upstream(ours: str, side: str = "") -> str:
    """The release's name of one of our tensors; `side` is "" or "_k"."""
    for mine, theirs in (
        ("trunk.layer4.", f"roi_head{side}.shared_head.layer4."),
        ("trunk.", f"backbone{side}."),
        ("projection.fc1.", f"roi_head{side}.bbox_head.shared_fcs.0."),
        ("projection.fc2.", f"roi_head{side}.bbox_head.fc_cls."),
    ):
        if ours.startswith(mine):
            return theirs + ours.removeprefix(mine)
    raise AssertionError(ours)


def filled(encoder: C4Encoder, side: str = "") -> C4Encoder:
    state = {name: fill(upstream(name, side), tuple(tensor.shape)) for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return encoder


@pytest.fixture(scope="module")
def frozen(golden: Callable[[str], Frozen]) -> Frozen:
    return golden("reference_c4")


@pytest.fixture(scope="module")
def filled_once() -> C4Encoder:
    return filled(C4Encoder(timm.create_model("resnet50", num_classes=0), "resnet50", 14, 128))


@pytest.fixture
def encoder(filled_once: C4Encoder) -> C4Encoder:
    return copy.deepcopy(filled_once)


def test_the_filler_gives_the_numbers_that_its_description_promises() -> None:
    first = fill("backbone.conv1.weight", (64, 3, 7, 7)).ravel()
    assert first[:4] == pytest.approx([0.14469224, -0.0680602, -0.11713432, 0.1474957], abs=1e-7)
    assert fill("input.q", (2, 3, 128, 128)).ravel()[:3] == pytest.approx([-0.10935161, -1.9977541, -0.9774719], abs=1e-6)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_region_vectors_and_embeddings_are_the_frozen_ones(frozen: Frozen, encoder: C4Encoder, mode: str) -> None:
    encoder.double().train(mode == "train")
    boxes = torch.from_numpy(frozen["boxes.gt_q"]).double()
    with torch.no_grad():
        vectors = c4_region_vectors(encoder.trunk, encoder.trunk.layer4, image("input.q").double(), boxes, 14)
        embeddings = encoder.projection(vectors)
    assert error(vectors, frozen[f"c4.{mode}.vector"]) < 1e-11
    assert error(embeddings, frozen[f"c4.{mode}.embed"]) < 1e-11


def test_one_step_in_double_precision_is_the_frozen_one_gradients_included(frozen: Frozen, encoder: C4Encoder) -> None:
    """The step's parts, since `train_step` computes its loss in single precision."""
    encoder.double().train()
    twin = filled(make_twin(encoder), "_k")
    queue = Queue(1, 128, 64, torch.Generator()).double()
    queue.keys.copy_(torch.from_numpy(fill("queues", (1, 128, 64))))
    query = encoder(image("input.q").double(), torch.from_numpy(frozen["boxes.aug_q"]).double()[:, None])
    update_twin(twin, encoder, 0.999)
    with torch.no_grad():
        key = twin(image("input.k").double(), torch.from_numpy(frozen["boxes.gt_k"]).double()[:, None])
    losses, _ = infonce(query, key, queue.keys, 0.2)
    losses.sum().backward()
    queue.enqueue(key)
    assert error(query, frozen["step_c4.q"]) < 1e-11
    assert error(key, frozen["step_c4.k"]) < 1e-11
    assert error(losses, frozen["step_c4.losses"]) < 1e-12
    assert error(queue.keys[:, :, :4], frozen["step_c4.queue_after_first4"]) < 1e-11
    names = {upstream(name): parameter.grad for name, parameter in encoder.named_parameters()}
    checked = [key.split(".", 2)[2].removesuffix(".norm") for key in frozen if ".grad." in key and key.endswith(".norm")]
    assert len(checked) == 5
    for name in checked:
        gradient = names[name]
        assert gradient is not None
        assert error(gradient.norm(), frozen[f"step_c4.grad.{name}.norm"]) < 1e-8
        assert error(gradient.flatten()[:8], frozen[f"step_c4.grad.{name}.head"]) < 1e-8


def test_a_train_step_leaves_the_frozen_loss_queue_twin_and_running_buffers(frozen: Frozen, encoder: C4Encoder) -> None:
    # The augmented boxes are given. A recipe asks for 4 images a group; the frozen step has 2.
    changes = {"canvas": 128, "foreground_bounds": (64, 126), "batch": 4, "bn_groups": 1, "queue": 64}
    recipe = Recipe(name="golden", arch="resnet50", augment_levels=(False,), **changes)
    queue = Queue(1, 128, 64, torch.Generator())
    queue.keys.copy_(torch.from_numpy(fill("queues", (1, 128, 64))))
    encoder.train()
    twin = filled(make_twin(encoder), "_k")
    optimizer = make_optimizer(encoder, recipe)
    state = State(recipe=recipe, encoder=encoder, twin=twin, queue=queue, optimizer=optimizer, anchors=anchor_grid(128))
    batch = Batch(
        query=image("input.q"),
        query_boxes=torch.from_numpy(frozen["boxes.aug_q"]),
        key=image("input.k"),
        key_boxes=torch.from_numpy(frozen["boxes.gt_k"]),
    )
    facts = train_step(state, batch, 0.03)
    assert error(facts.loss, frozen["step_c4.total"]) < 1e-4
    assert error(queue.keys[:, :, :4], frozen["step_c4.queue_after_first4"]) < 5e-4
    assert queue.pointer.tolist() == frozen["step_c4.queue_ptr_after"].tolist()
    after = {upstream(name, "_k"): tensor for name, tensor in twin.state_dict().items()}
    after |= {upstream(name): tensor for name, tensor in encoder.state_dict().items()}
    heads = [key for key in frozen if ".key_after." in key and key.endswith(".head")]
    buffers = [key for key in frozen if ".bn_after." in key]
    assert (len(heads), len(buffers)) == (2, 12)
    for name in heads:
        tensor = after[name.removeprefix("step_c4.key_after.").removesuffix(".head")]
        assert error(tensor.flatten()[:8], frozen[name]) < 1e-5
        assert error(tensor.norm(), frozen[name.replace(".head", ".norm")]) < 1e-5
    for name in buffers:
        tensor = after[name.removeprefix("step_c4.bn_after.")]
        assert error(tensor.flatten()[:16] if tensor.ndim else tensor, frozen[name]) < 1e-4
