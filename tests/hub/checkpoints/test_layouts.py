"""Every published list of names maps completely; what is whole nowhere is refused with the nearest layout."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from insloc_hub.checkpoints.families import detectron2, insloc, mmdet, moco, trainers
from insloc_hub.checkpoints.families import torchvision as tv
from insloc_hub.checkpoints.layouts import OURS, recognise
from insloc_hub.checkpoints.names import COUNTER, Layout, all_shapes
from insloc_hub.errors import BadCheckpoint

Tensors = dict[str, Tensor]
Rows = Callable[[str], list[dict[str, str]]]
Empty = Callable[[str], Tensors]

# Column of the key maps -> the layout that spells it, and what DataParallel puts before the names.
COLUMNS: dict[str, tuple[Layout, str]] = {
    "timm": (OURS, ""),
    "torchvision": (tv.BARE, ""),
    "detectron2": (detectron2.BARE, ""),
    "mmdet": (mmdet.FPN, ""),
    "insloc_c4": (insloc.C4, ""),
    "insloc_fpn": (insloc.FPN, ""),
    "moco_v2": (moco.MOCO, "module."),
    "detectron2_suffix": (detectron2.BARE, ""),
    "detectron2_c4": (detectron2.C4, ""),
    "detectron2_fpn": (detectron2.FPN, ""),
    "mmdet_fpn": (mmdet.FPN, ""),
    "mmdet_c4": (mmdet.C4, ""),
    "densecl": (tv.BARE, ""),
    "soco_raw": (moco.SOCO, "module."),
    "torchvision_detector": (tv.DETECTOR, ""),
}
NOTES = {"shape", "dtype", "in_frozenbn_file"}


@pytest.mark.parametrize("table", ["resnet50_key_map", "resnet50_key_map_full"])
def test_each_trunk_name_is_spelled_as_the_key_map_has_it(layout_rows: Rows, table: str) -> None:
    rows = [row for row in layout_rows(table) if not row["timm"].startswith("fc.")]
    assert len(rows) == 318
    for column in rows[0].keys() - NOTES:
        layout, wrapper = COLUMNS[column]
        assert [wrapper + str(layout.spell(row["timm"])) for row in rows] == [row[column] for row in rows], column


def test_each_name_of_pyramid_and_head_is_spelled_as_the_key_map_has_it(layout_rows: Rows) -> None:
    checked = 0
    for row in layout_rows("fpn_head_key_map"):
        ours = row["insloc_fpn_raw"].replace("roi_head.bbox_head.", "head.")
        if "fc_cls" in ours:
            continue
        for column, layout in (
            ("torchvision_fpn_v2", tv.DETECTOR),
            ("detectron2_fpn", detectron2.FPN),
            ("insloc_fpn_raw", insloc.FPN),
        ):
            if row[column] != "-":
                assert layout.spell(ours) == row[column]
                checked += 1
    assert checked == 3 * 74 + 2


@pytest.mark.parametrize(
    ("list_name", "layout", "parts", "dropped"),
    [
        ("insloc_fpn_state_dict", "InsLoc-FPN", (318, 48, 28), {"momentum twin": 394, "projection head": 4, "queue": 3}),
        ("insloc_c4_state_dict", "InsLoc-C4", (318, 0, 0), {"momentum twin": 318, "projection head": 8, "queue": 3}),
        ("moco_v2_state_dict", "MoCo", (318, 0, 0), {"momentum twin": 318, "projection head": 8, "queue": 2}),
        ("detectron2_r50_c4", "detectron2 C4", (318, 0, 0), {"RPN and mask head": 10, "box predictors": 4}),
        ("mmdet_r50_c4", "mmdet C4", (318, 0, 0), {"RPN and mask head": 10, "box predictors": 4}),
    ],
)
def test_a_file_with_the_names_and_shapes_of_a_list_maps_completely(
    empty: Empty, list_name: str, layout: str, parts: tuple[int, int, int], dropped: dict[str, int]
) -> None:
    tensors = empty(list_name)
    found = recognise("f", tensors)
    assert (found.layout.name, found.arch, found.encoder, found.unknown, found.absent) == (layout, "resnet50", "query", (), ())
    assert tuple(found.count(part)[0] for part in ("trunk", "fpn", "head")) == parts
    assert {rule: len(names) for rule, names in found.dropped.items()} == dropped
    accounted = [*found.used.values(), *(name for names in found.dropped.values() for name in names)]
    assert sorted(accounted) == sorted(tensors)  # each exactly once
    assert all(tensors[theirs].shape == all_shapes("resnet50")[ours] for ours, theirs in found.used.items())


# The lists of FPN detectors hold all variants of norm and head at once; one file has one of them.
NORMED = {
    "detectron2_r50_fpn": ("empty", "2fc head only", "fc_extra_norm"),
    "mmdet_r50_fpn": ("without norm_cfg", "Shared2FC head only"),
}
PLAIN = {
    "detectron2_r50_fpn": ("NORM is BN", "4conv1fc", "NORM set", "fc_extra_norm"),
    "mmdet_r50_fpn": ("with norm_cfg", "Shared4Conv1FC"),
}


def variant(rows: list[dict[str, str]], tensors: Tensors, without: tuple[str, ...]) -> Tensors:
    notes = {row["name"]: row["name"] + " " + row.get("note", "") for row in rows}
    return {name: tensor for name, tensor in tensors.items() if not any(words in notes[name] for words in without)}


@pytest.mark.parametrize("list_name", NORMED)
def test_an_fpn_detector_with_norms_gives_pyramid_and_head_one_without_gives_the_trunk(
    layout_rows: Rows, empty: Empty, list_name: str
) -> None:
    rows = layout_rows(list_name)
    normed = recognise("f", variant(rows, empty(list_name), NORMED[list_name]))
    assert normed.parts == ("trunk", "fpn", "head") and normed.unknown == ()
    plain = recognise("f", variant(rows, empty(list_name), PLAIN[list_name]))
    assert plain.parts == ("trunk",) and plain.unknown == ()
    assert len(plain.dropped["neck or box head of another kind"]) == 16 + 4


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn"])
def test_torchvisions_detectors_are_accounted_for(name: str) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
    found = recognise("f", model.state_dict())
    assert found.layout.name == "torchvision detector" and found.unknown == ()
    assert found.parts == (("trunk", "fpn", "head") if name.endswith("v2") else ("trunk",))


def test_a_frozen_file_has_no_counters_and_is_whole(layout_rows: Rows) -> None:
    rows = [row for row in layout_rows("resnet50_key_map_full") if row["in_frozenbn_file"] == "yes"]
    shapes = all_shapes("resnet50")
    found = recognise("f", {row["detectron2_suffix"]: torch.empty(shapes[row["timm"]], device="meta") for row in rows})
    assert found.layout.name == "detectron2" and found.count("trunk") == (265, 318)
    assert len(found.absent) == 53 and all(name.endswith(COUNTER) for name in found.absent)


def named(
    layout: Layout, arch: str = "resnet18", wrapper: str = "", encoder: str = "query", trunk_only: bool = True
) -> Tensors:
    spelled = {
        layout.spell(n, encoder): s
        for n, s in all_shapes(arch).items()
        if not (trunk_only and n.startswith(("neck.", "head.")))
    }  # type: ignore[arg-type]
    return {f"{wrapper}{name}": torch.empty(shape, device="meta") for name, shape in spelled.items() if name}


EXTRA = {
    "solo-learn": ["projector.0.weight", "classifier.weight", "classifier.bias", "predictor.0.weight", "queue"],
    "solo-learn (before 1.0.4)": ["projector.0.weight", "encoder.fc.weight", "momentum_projector.0.weight"],
    "lightly": ["projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight", "criterion.memory_bank.bank"],
    "VISSL": ["heads.0.clf.0.weight"],
    "VISSL trunk": [],
    "DenseCL (training)": ["backbone.conv1.weight", "encoder_q.1.mlp.0.weight", "queue", "queue2", "queue2_ptr"],
    "SoCo": ["projector.0.weight", "predictor.0.weight"],
}


@pytest.mark.parametrize(
    "layout",
    [trainers.SOLO, trainers.SOLO_OLD, trainers.LIGHTLY, trainers.VISSL, trainers.VISSL_TRUNK, moco.DENSECL, moco.SOCO],
    ids=lambda x: x.name,
)
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_files_of_trainers_are_known_with_their_twin_and_their_heads(layout: Layout, wrapper: str) -> None:
    more = {wrapper + name: torch.empty(1, device="meta") for name in EXTRA[layout.name]}
    twin = named(layout, wrapper=wrapper, encoder="key") if layout.twin else {}
    tensors = named(layout, wrapper=wrapper) | twin | more
    found = recognise("f", tensors)
    assert (found.layout.name, found.arch, found.unknown) == (layout.name, "resnet18", ())
    assert sum(len(names) for names in found.dropped.values()) == len(twin) + len(more)
    if layout.twin:
        key = recognise("f", tensors, "key")
        assert key.encoder == "key" and set(key.used.values()) == set(twin) and key.unknown == ()


def test_the_key_encoder_is_never_taken_for_the_query(empty: Empty) -> None:
    for name in ("insloc_fpn_state_dict", "insloc_c4_state_dict", "moco_v2_state_dict"):
        query, key = recognise("f", empty(name)), recognise("f", empty(name), "key")
        assert not set(query.used.values()) & set(key.used.values())
        assert not any("_k." in name for name in query.used.values())
        assert all("_k." in name for name in key.used.values())


def test_torchvisions_names_after_an_unknown_prefix_are_found_if_there_is_one_such_prefix() -> None:
    found = recognise("f", named(tv.BARE, wrapper="net.encoder.") | {"net.top": torch.empty(1, device="meta")})
    assert found.layout.name == "torchvision's names after 'net.encoder.'" and found.unknown == ("net.top",)
    with pytest.raises(BadCheckpoint, match="none of a known layout"):
        recognise("f", named(tv.BARE, wrapper="student.") | named(tv.BARE, wrapper="teacher."))


def test_the_authors_converted_file_is_whole_with_its_leftover() -> None:
    tensors = named(detectron2.FPN, "resnet50", trunk_only=False)
    assert len(tensors) == 394 and "roi_head.bbox_head.shared_fcs.1.weight" in tensors
    found = recognise("f", tensors)
    assert found.layout.name == "detectron2 FPN" and len(found.used) == 394 and not found.dropped


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def test_a_part_of_a_file_is_refused_with_the_nearest_layout_and_what_is_missing(empty: Empty) -> None:
    whole = empty("insloc_fpn_state_dict")
    with pytest.raises(BadCheckpoint, match=r"1 of 40 tensors of its fpn are missing, e\.g\. neck\.fpn_convs\.2\.bn\.bias"):
        recognise("f", without(whole, "neck.fpn_convs.2.bn.bias"))
    with pytest.raises(BadCheckpoint, match=r"query encoder is not whole; say --encoder key"):
        recognise("f", without(whole, "backbone.layer3.1.conv2.weight"))
    lacking = without(whole, "backbone.layer3.1.conv2.weight", "backbone_k.layer3.1.conv2.weight")
    with pytest.raises(
        BadCheckpoint, match=r"nearest is .* with a resnet50, of which 1 trunk tensors are missing, e\.g\. backbone"
    ):
        recognise("f", lacking)
    d2 = without(named(detectron2.FPN, "resnet50", trunk_only=False), "backbone.fpn_output3.norm.running_var")
    with pytest.raises(BadCheckpoint, match="cut short or edited"):
        recognise("f", d2)


def test_what_is_no_resnet_is_refused(empty: Empty) -> None:
    import timm

    with torch.device("meta"):
        others = {arch: timm.create_model(arch).state_dict() for arch in ("convnext_atto", "resnet50d", "resnet26")}
    with pytest.raises(BadCheckpoint, match=r"f: \d+ tensors, none of a known layout \(e\.g\. stem"):
        recognise("f", others["convnext_atto"])
    with pytest.raises(BadCheckpoint, match="trunk tensors are missing"):
        recognise("f", others["resnet50d"])
    with pytest.raises(BadCheckpoint, match="not the shapes"):  # the names of a resnet18 and some more
        recognise("f", others["resnet26"])
    wide = named(tv.BARE, "resnet50") | {"layer1.0.conv1.weight": torch.empty(96, 64, 1, 1, device="meta")}
    with pytest.raises(BadCheckpoint, match=r"layer1\.0\.conv1\.weight is 96x64x1x1, where a resnet50 has 64x64x1x1"):
        recognise("f", wide)
    with pytest.raises(BadCheckpoint, match="0 tensors, none of a known layout"):
        recognise("f", {})


@pytest.mark.parametrize("layout", [tv.BARE, detectron2.C4, insloc.FPN], ids=lambda layout: layout.name)
def test_a_deeper_network_cut_short_is_not_taken_for_a_shallower_one(layout: Layout) -> None:
    missing = str(layout.spell("layer3.5.conv2.weight"))
    with pytest.raises(BadCheckpoint, match="with the blocks of a resnet18 and more"):
        recognise("f", without(named(layout, "resnet34") | named(layout, "resnet34", encoder="key"), missing))


def test_a_key_encoder_that_does_not_exist_is_refused() -> None:
    with pytest.raises(BadCheckpoint, match="has one encoder"):
        recognise("f", named(tv.BARE), "key")


@pytest.mark.parametrize(
    "arch", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"]
)
def test_the_architecture_is_told_by_names_and_shapes(arch: str) -> None:
    for layout in (tv.BARE, detectron2.BARE, trainers.LIGHTLY):
        assert recognise("f", named(layout, arch)).arch == arch


def test_what_no_rule_knows_is_listed() -> None:
    found = recognise(
        "f", named(tv.BARE) | {"odd.weight": torch.empty(2, device="meta"), "fc.weight": torch.empty(2, device="meta")}
    )
    assert found.unknown == ("odd.weight",) and found.dropped == {"classifier": ("fc.weight",)}
