"""Two files are one network or not, with numbers a stage and names of what differs; one file is what it says or not."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from insloc_hub.checkpoints import names, verify
from insloc_hub.checkpoints.families import detectron2, insloc, moco, trainers
from insloc_hub.checkpoints.families import torchvision as tv
from insloc_hub.checkpoints.names import Layout
from insloc_hub.checkpoints.read import Checkpoint
from insloc_hub.checkpoints.report import account, as_json, as_text, proof_line
from insloc_hub.checkpoints.verify import compare, load, verify_one, verify_two
from insloc_hub.errors import BadCheckpoint

Tensors = dict[str, Tensor]
Spell = Callable[..., Tensors]
AsFile = Callable[..., Checkpoint]


def test_the_numbers_of_a_stage_are_what_they_say() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0])
    (row,) = compare({"c2": a, "only": a}, {"c2": b})
    assert (row.stage, row.max_abs, row.largest, row.agrees) == ("c2", 1.0, 4.0, False)
    assert row.cosine == pytest.approx(24 / 25)
    (row,) = compare({"c2": a}, {"c2": a})
    assert (row.max_abs, row.agrees) == (0.0, True) and row.cosine == pytest.approx(1)
    (row,) = compare({"c2": a}, {"c2": torch.zeros(3)})
    assert not row.agrees and as_json_number(row.max_abs) is None
    (row,) = compare({"c2": a}, {"c2": torch.tensor([3.0, float("nan")])})
    assert not row.agrees
    (row,) = compare({"c2": torch.zeros(2)}, {"c2": torch.zeros(2)})
    assert row.agrees and row.cosine == 1


def as_json_number(value: float) -> float | None:
    return value if value < float("inf") else None


@pytest.mark.parametrize(
    "layout", [tv.BARE, detectron2.BARE, detectron2.C4, insloc.C4, moco.MOCO, trainers.LIGHTLY], ids=lambda x: x.name
)
def test_one_file_of_each_layout_loads_as_what_it_says(
    small: Tensors, sound: Callable[..., Tensors], spell: Spell, as_file: AsFile, layout: Layout
) -> None:
    twin = sound("resnet18", 5) if layout.twin else None
    for encoder in ("query", "key") if twin else ("query",):
        verdict = verify_one(as_file(spell(small, layout, "", twin)), encoder)  # type: ignore[arg-type]
        assert verdict.agrees and verdict.suspicions == ()
        assert verdict.doubtful == (layout.convention.order == "unknown")
        assert [row.stage for row in verdict.agreements] == ["stem", "c2", "c3", "c4", "c5"]
        meant = small if encoder == "query" else twin
        assert meant and all(torch.equal(verdict.files[0].tensors[name], meant[name]) for name in meant)


def test_the_same_network_in_two_layouts_is_the_same_whatever_the_counters_say(
    small: Tensors, spell: Spell, as_file: AsFile
) -> None:
    uncounted = {name: tensor for name, tensor in small.items() if not name.endswith("num_batches_tracked")}
    verdict = verify_two(as_file(spell(small, insloc.C4, "", small)), as_file(spell(uncounted, detectron2.BARE)))
    assert verdict.agrees and verdict.unshared == () and verdict.differences == {}
    assert as_text(verdict).endswith("\nthe same network")


def test_two_networks_are_not_the_same(small: Tensors, sound: Callable[..., Tensors], as_file: AsFile) -> None:
    verdict = verify_two(as_file(small), as_file(sound("resnet18", 8)))
    assert not verdict.agrees and not any(row.agrees for row in verdict.agreements)
    assert as_text(verdict).endswith("NOT the same network")
    other = verify_two(as_file(small), as_file(sound("resnet34", 8)))
    assert not other.agrees and other.unshared


def test_a_wrong_table_does_not_pass_its_own_proof(
    small: Tensors, spell: Spell, as_file: AsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables that swap two norms agree with themselves, both ways; the oracle does not."""
    swapped = (("bn1.", "stem.conv1.norm."), *detectron2.BARE.starts)
    wrong = Layout(
        name="detectron2",
        starts=swapped,
        inside=((".bn1.", ".conv2.norm."), (".bn2.", ".conv1.norm."), *detectron2.BLOCK[2:]),
        convention=detectron2.UNKNOWN,
    )
    file = as_file(spell(small, detectron2.BARE))
    assert verify_one(file).agrees
    monkeypatch.setattr("insloc_hub.checkpoints.layouts.LAYOUTS", (wrong,))
    verdict = verify_one(file)
    assert [row.agrees for row in verdict.agreements] == [True, False, False, False, False]


def test_half_precision_is_computed_and_compared_as_it_is(small: Tensors, as_file: AsFile) -> None:
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in small.items()}
    assert verify_one(as_file(half)).agrees
    verdict = verify_two(as_file(small), as_file(half))
    assert list(verdict.differences) == ["float16 instead of float32"] and not verdict.agrees
    assert max(row.max_abs / row.largest for row in verdict.agreements) < 0.02


def test_names_without_a_network_behind_them_are_refused(small: Tensors, as_file: AsFile) -> None:
    odd = small | {"bn1.bias": torch.zeros(64)[None].expand(1, 64)[0]}
    assert verify_one(as_file(odd))
    with pytest.raises(BadCheckpoint, match="not the shapes"):
        verify_one(as_file(small | {"layer3.0.conv1.weight": torch.zeros(256, 128, 1, 1)}))


def test_the_account_is_one_breath(small: Tensors, spell: Spell, as_file: AsFile) -> None:
    tensors = spell(small, insloc.C4, "", small) | {"queue": torch.zeros(1), "odd": torch.zeros(1), "more": torch.zeros(1)}
    assert account(load(as_file(tensors))) == (
        "120 of 120 trunk tensors used, 120 dropped by rule 'momentum twin', 1 dropped by rule 'queue', 2 unknown (odd, more), "
        "layout InsLoc-C4 (query), resnet18"
    )


def test_the_report_says_what_the_file_is_wants_and_hides(small: Tensors, as_file: AsFile) -> None:
    file = as_file({**small, "fc.weight": torch.zeros(1)}, author="somebody", others=("optimizer",))
    verdict = verify_one(file)
    text = as_text(verdict)
    for words in (
        "layout torchvision or timm, resnet18",
        "by 'somebody'",
        "input RGB",
        "left alone: optimizer",
        "can't be known",
        "c5",
    ):
        assert words in text
    found = json.loads(json.dumps(as_json(verdict), allow_nan=False))
    assert found["agrees"] is True and found["files"][0]["parts"] == {"trunk": {"used": 120, "of": 120}}
    assert found["files"][0]["dropped"] == {"classifier": 1} and len(found["stages"]) == 5
    assert found["files"][0]["input"]["order"] == "RGB" and found["files"][0]["cannot_know"]
    assert proof_line(verdict.agreements).startswith("proved: stem, c2, c3, c4, c5 agree on a probe")


def test_unknown_tensors_are_a_doubt(small: Tensors, as_file: AsFile) -> None:
    assert verify_one(as_file(small | {"odd": torch.zeros(1)})).doubtful
    assert not verify_one(as_file(small)).doubtful


def test_the_trunk_that_timm_builds_is_strict(small: Tensors) -> None:
    with pytest.raises(RuntimeError, match=r"layer2\.0\.bn1\.bias"):
        verify.timm_trunk("resnet18", {n: t for n, t in small.items() if n != "layer2.0.bn1.bias"})
    assert set(names.trunk_shapes("resnet18")) == set(verify.timm_trunk("resnet18", small).state_dict())
