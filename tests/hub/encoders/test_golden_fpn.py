"""The FPN encoder and a whole training step against arrays of the released model classes (tests/assets/README.md).

ResNet-50, 128 px, two images, one batch group. The weights are a function of the release's tensor names, so a wrong
place in our modules shows.
"""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from golden import error, fill, image
from torch import Tensor

from insloc_hub.boxes.anchors import anchor_grid
from insloc_hub.contrast.infonce import infonce
from insloc_hub.contrast.queue import Queue
from insloc_hub.contrast.twin import make_twin, update_twin
from insloc_hub.encoders.backbone import feature_maps
from insloc_hub.encoders.fpn import FPNEncoder
from insloc_hub.pretrain.schedule import make_optimizer
from insloc_hub.pretrain.state import State
from insloc_hub.pretrain.step import Batch, train_step
from insloc_hub.recipe import Recipe

Frozen = dict[str, np.ndarray]


def upstream(ours: str, side: str = "") -> str:
    """The release's name of one of our tensors; `side` is "" or "_k"."""
    for mine, theirs in (
        ("trunk.", f"backbone{side}."),
        ("neck.", f"neck{side}."),
        ("head.", f"roi_head{side}.bbox_head."),
        ("projection.", f"roi_head{side}.bbox_head.fc_cls."),
    ):
        if ours.startswith(mine):
            return theirs + ours.removeprefix(mine)
    raise AssertionError(ours)


def filled(encoder: FPNEncoder, side: str = "") -> FPNEncoder:
    state = {name: fill(upstream(name, side), tuple(tensor.shape)) for name, tensor in encoder.state_dict().items()}
    encoder.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return encoder


def on_levels(frozen: Frozen, name: str, last: str | None = None) -> Tensor:
    """[2 4 4]: a frozen box per image on every level, another one on P5 if named."""
    boxes = torch.from_numpy(frozen[f"boxes.{name}"])[:, None].repeat(1, 4, 1)
    if last is not None:
        boxes[:, 3] = torch.from_numpy(frozen[f"boxes.{last}"])
    return boxes


@pytest.fixture(scope="module")
def frozen(golden: Callable[[str], Frozen]) -> Frozen:
    return golden("reference_fpn")


@pytest.fixture(scope="module")
def filled_once() -> FPNEncoder:
    return filled(FPNEncoder(timm.create_model("resnet50", num_classes=0), "resnet50", 128))


@pytest.fixture
def encoder(filled_once: FPNEncoder) -> FPNEncoder:
    return copy.deepcopy(filled_once)


def test_every_tensor_of_the_release_has_its_place(filled_once: FPNEncoder) -> None:
    names = [upstream(name) for name in filled_once.state_dict()]
    assert len(names) == len(set(names)) == 318 + 8 * 6 + 4 * 6 + 6  # paper.md A.3: trunk, neck, convs, three fcs
    assert sum(p.numel() for p in filled_once.parameters()) == pytest.approx(43.24e6, abs=5e3)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_pyramid_and_embeddings_are_the_frozen_ones(frozen: Frozen, encoder: FPNEncoder, mode: str) -> None:
    encoder.double().train(mode == "train")
    x = image("input.q").double()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with torch.no_grad():
        found = feature_maps(encoder.trunk, x, (4, 8, 16, 32))
        pyramid = encoder.neck([found[stride] for stride in (4, 8, 16, 32)])
        encoder.load_state_dict(before)  # the pass above moved the running statistics
        raw = encoder.projection(encoder.vectors(x, on_levels(frozen, "gt_q").double()))
        after = {upstream(name): tensor.clone() for name, tensor in encoder.state_dict().items()}
        mixed = encoder.projection(encoder.vectors(x, on_levels(frozen, "gt_q", "aug_q").double()))
    for level, p in zip((2, 3, 4, 5), pyramid, strict=True):
        assert error(p[:, :8, :3, :3], frozen[f"fpn.{mode}.p{level}.slice"]) < 1e-11
        assert error(p.norm(), frozen[f"fpn.{mode}.p{level}.norm"]) < 1e-11
    assert error(raw, frozen[f"fpn.{mode}.embed_gt"]) < 1e-11
    assert error(mixed, frozen[f"fpn.{mode}.embed_query"]) < 1e-11
    checked = [key for key in frozen if key.startswith(f"fpn.{mode}.after.")]
    assert len(checked) == (12 if mode == "train" else 0)
    for key in checked:
        assert error(after[key.removeprefix("fpn.train.after.")], frozen[key]) < 1e-11


def test_one_step_in_double_precision_is_the_frozen_one_gradients_included(frozen: Frozen, encoder: FPNEncoder) -> None:
    """The step's parts, since `train_step` computes its loss in single precision."""
    encoder.double().train()
    twin = filled(make_twin(encoder), "_k")
    queue = Queue(4, 128, 64, torch.Generator()).double()
    queue.keys.copy_(torch.from_numpy(fill("queues", (4, 128, 64))))
    query = encoder(image("input.q").double(), on_levels(frozen, "gt_q", "aug_q").double())
    update_twin(twin, encoder, 0.999)
    with torch.no_grad():
        key = twin(image("input.k").double(), on_levels(frozen, "gt_k").double())
    losses, _ = infonce(query, key, queue.keys, 0.2)
    losses.sum().backward()
    queue.enqueue(key)
    assert error(query, frozen["step_fpn.q"]) < 1e-11
    assert error(key, frozen["step_fpn.k"]) < 1e-11
    assert error(losses, frozen["step_fpn.losses"]) < 1e-12
    assert error(queue.keys[:, :, :4], frozen["step_fpn.queue_after_first4"]) < 1e-11
    names = {upstream(name): parameter.grad for name, parameter in encoder.named_parameters()}
    checked = [key.split(".", 2)[2].removesuffix(".norm") for key in frozen if ".grad." in key and key.endswith(".norm")]
    assert len(checked) == 12
    for name in checked:
        gradient = names[name]
        assert gradient is not None
        assert error(gradient.norm(), frozen[f"step_fpn.grad.{name}.norm"]) < 1e-8
        assert error(gradient.flatten()[:8], frozen[f"step_fpn.grad.{name}.head"]) < 1e-8


def test_a_train_step_leaves_the_frozen_loss_queue_twin_and_running_buffers(
    frozen: Frozen, encoder: FPNEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The frozen augmented boxes stand in for the draw. A recipe asks for 4 images a group; the frozen step has 2.
    changes = {"canvas": 128, "foreground_bounds": (64, 126), "batch": 4, "bn_groups": 1, "queue": 64}
    levels = {"augment_levels": (False, False, False, True), "level_weights": (1.0,) * 4}
    recipe = Recipe(name="golden", arch="resnet50", variant="fpn", **levels, **changes)
    drawn = torch.from_numpy(frozen["boxes.aug_q"])
    monkeypatch.setattr("insloc_hub.pretrain.step.augment_boxes", lambda boxes, anchors, generator: drawn)
    queue = Queue(4, 128, 64, torch.Generator())
    queue.keys.copy_(torch.from_numpy(fill("queues", (4, 128, 64))))
    encoder.train()
    twin = filled(make_twin(encoder), "_k")
    optimizer = make_optimizer(encoder, recipe)
    state = State(recipe=recipe, encoder=encoder, twin=twin, queue=queue, optimizer=optimizer, anchors=anchor_grid(128))
    batch = Batch(
        query=image("input.q"),
        query_boxes=torch.from_numpy(frozen["boxes.gt_q"]),
        key=image("input.k"),
        key_boxes=torch.from_numpy(frozen["boxes.gt_k"]),
    )
    facts = train_step(state, batch, 0.03)
    assert error(facts.loss, frozen["step_fpn.total"]) < 1e-4
    assert error(queue.keys[:, :, :4], frozen["step_fpn.queue_after_first4"]) < 5e-4
    assert queue.pointer.tolist() == frozen["step_fpn.queue_ptr_after"].tolist()
    after = {upstream(name, "_k"): tensor for name, tensor in twin.state_dict().items()}
    after |= {upstream(name): tensor for name, tensor in encoder.state_dict().items()}
    heads = [key for key in frozen if ".key_after." in key and key.endswith(".head")]
    buffers = [key for key in frozen if ".bn_after." in key]
    assert (len(heads), len(buffers)) == (3, 18)
    for name in heads:
        tensor = after[name.removeprefix("step_fpn.key_after.").removesuffix(".head")]
        assert error(tensor.flatten()[:8], frozen[name]) < 1e-5
        assert error(tensor.norm(), frozen[name.replace(".head", ".norm")]) < 1e-5
    for name in buffers:
        tensor = after[name.removeprefix("step_fpn.bn_after.")]
        assert error(tensor.flatten()[:16] if tensor.ndim else tensor, frozen[name]) < 1e-4
