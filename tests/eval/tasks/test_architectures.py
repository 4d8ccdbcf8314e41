"""Networks of other families, nothing adapted: every frozen localization task runs, or says in words why it can't."""

from pathlib import Path

import pytest

from insloc_eval.protocols import find_protocols
from insloc_eval.run import evaluate
from insloc_hub.records import Result

CANNOT_C4 = "no single last stage"
LIMITS = {"patches": (6, 4), "boxes": (18, 22), "regions": (18, 22)}  # two mosaics need 18 images, two halves of them 22


def results_of(arch: str, world: Path, out: Path) -> dict[str, Result]:
    """The records of the random network of an architecture, by protocol."""
    found: list[Result] = []
    for family, (train, test) in LIMITS.items():
        limits = {"train_limit": train, "test_limit": test}
        found += evaluate([f"random:{arch}"], [family], world, out / family, cache=out / "cache", device="cpu", **limits)
    return {r.protocol: r for r in found if r.model.spec == f"random:{arch}"}


def check(results: dict[str, Result], c4: bool, other_map: bool) -> None:
    assert set(results) == {protocol.title for protocol in find_protocols(list(LIMITS))}
    for title, result in results.items():
        if title == "patches/linear-c4@1" and not c4:
            assert CANNOT_C4 in result.not_applicable and result.metrics == {}
        else:
            assert result.metrics and not result.not_applicable
            assert all(metric.low <= metric.value <= metric.high for metric in result.metrics.values())
    mosaic, relocate = results["regions/mosaic@1"], results["patches/relocate@1"]
    assert ("top1" in mosaic.metrics) is c4 and "top1_stride16" in mosaic.metrics
    assert c4 or any(note.startswith("no c4 row") and CANNOT_C4 in note for note in mosaic.notes)
    assert ("acc50_stride32" in relocate.metrics) is ("top1_stride32" in mosaic.metrics) is other_map
    assert any("never evidence alone" in note for note in results["patches/composite@1"].notes)


@pytest.mark.parametrize(("arch", "c4", "other_map"), [("test_efficientnet", True, True), ("test_vit", False, False)])
def test_two_small_networks_run_every_task(arch: str, c4: bool, other_map: bool, world: Path, tmp_path: Path) -> None:
    """timm's own small test networks: a CNN and a transformer."""
    check(results_of(arch, world, tmp_path), c4, other_map)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "c4", "other_map"),
    [
        ("resnet18", True, True),
        ("regnetx_002", True, True),
        ("convnext_atto", True, True),
        ("mobilenetv3_small_050", False, True),
        ("efficientnet_b0", False, True),
        ("vit_tiny_patch16_224", False, False),
    ],
)
def test_five_cnns_and_a_transformer_run_every_task(arch: str, c4: bool, other_map: bool, world: Path, tmp_path: Path) -> None:
    check(results_of(arch, world, tmp_path), c4, other_map)
