"""A converted InsLoc file computes what the released classes computed (tests/assets/README.md).

The frozen arrays are of networks filled by upstream's tensor names, so a tensor in the wrong place shows. Tolerance 1e-4 of
the largest value, the one that was verified for float32.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import roi_align

from insloc_hub.checkpoints.families import torchvision as tv
from insloc_hub.checkpoints.read import Checkpoint
from insloc_hub.checkpoints.verify import Loaded, load, timm_trunk
from insloc_hub.checkpoints.write import spell_all

Filler = Callable[[str, tuple[int, ...]], np.ndarray]
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def loaded(released: Tensors) -> Loaded:
    return load(Checkpoint(path="epoch_200.pth", form="torch", tensors=released, container="state_dict"))


@pytest.fixture(scope="module")
def frozen(golden: Callable[[str], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return golden("reference_fpn_eval")


def error(ours: Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(ours.double().numpy() - wanted).max() / np.abs(wanted).max())


def check(frozen: dict[str, np.ndarray], key: str, found: Tensor) -> None:
    assert list(found.shape) == frozen[f"fpn.eval.{key}.shape"].tolist()
    assert error(found[:, :8, :3, :3], frozen[f"fpn.eval.{key}.slice"]) < 1e-4
    for name, number in (("mean", found.mean()), ("std", found.std(correction=0)), ("norm", found.double().norm())):
        assert float(number) == pytest.approx(float(frozen[f"fpn.eval.{key}.{name}"]), rel=1e-4)


def test_the_filler_gives_the_numbers_that_its_description_promises(filler: Filler) -> None:
    assert filler("backbone.conv1.weight", (64, 3, 7, 7)).ravel()[:4] == pytest.approx(
        [0.14469224, -0.0680602, -0.11713432, 0.1474957]
    )
    assert filler("input.q", (2, 3, 128, 128)).ravel()[:3] == pytest.approx([-0.10935161, -1.9977541, -0.9774719])


def test_the_whole_release_file_is_accounted_for(loaded: Loaded, released: Tensors) -> None:
    known = loaded.recognised
    assert (known.layout.name, known.count("trunk"), known.count("fpn"), known.count("head")) == (
        "InsLoc-FPN",
        (318, 318),
        (48, 48),
        (28, 28),
    )
    assert {rule: len(names) for rule, names in known.dropped.items()} == {
        "queue": 3,
        "momentum twin": 394,
        "projection head": 4,
    }
    assert len(known.used) + 401 == len(released) == 795


@torch.no_grad()
def test_the_converted_trunk_in_timm_gives_the_released_stages(
    loaded: Loaded, frozen: dict[str, np.ndarray], filler: Filler
) -> None:
    image = torch.from_numpy(filler("input.q", (2, 3, 128, 128)))
    maps = timm_trunk("resnet50", loaded.tensors).forward_intermediates(image, indices=[1, 2, 3, 4], intermediates_only=True)  # type: ignore[operator]
    for i, found in enumerate(maps):
        check(frozen, f"c{i + 2}", found)


@torch.no_grad()
def test_the_converted_pyramid_and_head_in_torchvisions_detector_give_the_released_embeddings(
    loaded: Loaded, released: Tensors, frozen: dict[str, np.ndarray], filler: Filler
) -> None:
    state, left_out = spell_all(loaded.tensors, tv.DETECTOR)
    with torch.device("meta"):
        model = torchvision.models.detection.maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    assert model.load_state_dict(state, strict=False, assign=True).unexpected_keys == []
    model.eval()
    maps = model.backbone(torch.from_numpy(filler("input.q", (2, 3, 128, 128))))
    boxes = torch.from_numpy(frozen["boxes.gt_q"]).float()
    rois = torch.cat([torch.arange(2.0)[:, None], boxes], 1)
    pooled = []
    for i in range(4):
        check(frozen, f"p{i + 2}", maps[str(i)])
        pooled.append(roi_align(maps[str(i)], rois, 7, 1 / 2 ** (i + 2), 0, aligned=True))
        check(frozen, f"roi{i + 2}", pooled[-1])
    vectors = model.roi_heads.box_head(torch.stack(pooled, 1).flatten(0, 1))  # image-major, level-minor
    # The last two layers have no place in a detector: the second fc travels with our parts, the projection does not.
    assert left_out == ("head.shared_fcs.1.weight", "head.shared_fcs.1.bias")
    vectors = nn.functional.linear(vectors, *(loaded.tensors[name] for name in left_out)).relu()
    projection = (released[f"roi_head.bbox_head.fc_cls.{x}"] for x in ("weight", "bias"))
    embeddings = nn.functional.linear(vectors, *projection).reshape(2, 4, 128)
    assert error(embeddings, frozen["fpn.eval.embed_gt"]) < 1e-4


@pytest.mark.slow
@torch.no_grad()
def test_a_converted_c4_file_gives_the_released_region_vectors(
    layout_rows: Callable[[str], list[dict[str, str]]],
    empty: Callable[[str], Tensors],
    filler: Filler,
    golden: Callable[[str], dict[str, np.ndarray]],
) -> None:
    frozen = golden("reference_c4")
    raw = {
        n: torch.from_numpy(filler(n, tuple(t.shape)))
        for n, t in empty("insloc_c4_state_dict").items()
        if not n.startswith("queue")
    }
    found = load(Checkpoint(path="c4.pth", form="torch", tensors=raw))
    model = timm_trunk("resnet50", found.tensors)
    image = torch.from_numpy(filler("input.q", (2, 3, 128, 128)))
    (stride16,) = model.forward_intermediates(image, indices=[3], intermediates_only=True)  # type: ignore[operator]
    rois = torch.cat([torch.arange(2.0)[:, None], torch.from_numpy(frozen["boxes.gt_q"]).float()], 1)
    vectors = model.layer4(roi_align(stride16, rois, 14, 1 / 16, 0, aligned=True)).mean((2, 3))  # type: ignore[operator]
    assert error(vectors, frozen["c4.eval.vector"]) < 1e-4
