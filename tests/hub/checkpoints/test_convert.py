"""Conversions to every ecosystem and back, read by the ecosystem's own classes or rules; nothing is left of a failed one."""

import errno
import pickle
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor

from insloc_hub.checkpoints import write
from insloc_hub.checkpoints.convert import Disagreement, convert
from insloc_hub.checkpoints.families import detectron2, insloc
from insloc_hub.checkpoints.families import torchvision as tv
from insloc_hub.checkpoints.names import COUNTER, Layout, part_of, trunk_shapes
from insloc_hub.checkpoints.read import read_checkpoint
from insloc_hub.errors import BadCheckpoint, CannotWrite, InslocError

Tensors = dict[str, Tensor]
ENDS = {"timm": "", "torchvision": ".pth", "detectron2": ".pkl", "mmdet": ".pth"}
PARTS = ("trunk", "fpn", "head")


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


@pytest.fixture(scope="module")
def folder(small: Tensors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 as timm's plain file."""
    place = tmp_path_factory.mktemp("small")
    save_file(small, place / "small.safetensors")
    return place


@pytest.fixture(scope="module")
def whole(
    sound: Callable[..., Tensors], spell: Callable[..., Tensors], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Tensors]:
    """An InsLoc-FPN training file around a resnet18, and its query encoder under our names."""
    ours = sound("resnet18", 11, PARTS)
    raw = spell(ours, insloc.FPN, "", sound("resnet18", 12))
    raw["queue_ptr"] = torch.zeros(1, dtype=torch.int64)
    path = tmp_path_factory.mktemp("whole") / "epoch_200.pth"
    torch.save({"meta": {"epoch": 200}, "state_dict": raw, "optimizer": {}}, path)
    return path, ours


@pytest.fixture(scope="module")
def converted(whole: tuple[Path, Tensors], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The FPN file in each ecosystem's form."""
    place = tmp_path_factory.mktemp("converted")
    for to, end in ENDS.items():
        convert(whole[0], to, place / f"{to}{end}", strict=True)
    return {to: place / f"{to}{end}" for to, end in ENDS.items()}


def leftovers(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


@pytest.mark.parametrize("to", ["torchvision", "detectron2", "mmdet"])
def test_a_trunk_goes_round_bit_for_bit(folder: Path, small: Tensors, tmp_path: Path, to: str) -> None:
    done = convert(folder / "small.safetensors", to, tmp_path / f"there{ENDS[to]}", strict=True)
    assert done.parts == ("trunk",) and done.left_out == done.absent == done.fresh == done.doubts == ()
    convert(done.out, "timm", tmp_path / "back", strict=True)
    assert same(load_file(tmp_path / "back" / "model.safetensors"), small)
    assert leftovers(tmp_path) == ["back", f"there{ENDS[to]}"]


@pytest.mark.parametrize("to", ["torchvision", "detectron2", "mmdet"])
def test_pyramid_and_head_go_round_bit_for_bit(
    converted: dict[str, Path], whole: tuple[Path, Tensors], tmp_path: Path, to: str
) -> None:
    convert(converted[to], "timm", tmp_path / "back", strict=True)
    no_place = {"head.shared_fcs.1.weight", "head.shared_fcs.1.bias"} if to == "torchvision" else set()
    assert same(read_checkpoint(tmp_path / "back").tensors, {n: t for n, t in whole[1].items() if n not in no_place})


def test_counters_that_the_source_lacks_are_listed_not_invented(
    small: Tensors, spell: Callable[..., Tensors], tmp_path: Path
) -> None:
    frozen = {n: t for n, t in spell(small, detectron2.BARE).items() if not n.endswith(COUNTER)}
    arrays = {n: t.numpy() for n, t in frozen.items()}
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"model": arrays, "__author__": "Yue"}))
    done = convert(tmp_path / "f.pkl", "timm", tmp_path / "out", strict=True)
    assert len(done.absent) == 20 and all(name.endswith(COUNTER) for name in done.absent)
    assert any("20 absent from the source" in line for line in done.sentences())
    assert same(load_file(tmp_path / "out" / "model.safetensors"), {n: t for n, t in small.items() if not n.endswith(COUNTER)})
    assert timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)


def test_the_folder_is_an_export_that_timm_and_our_specs_read(converted: dict[str, Path], whole: tuple[Path, Tensors]) -> None:
    import insloc_hub

    place, ours = converted["timm"], whole[1]
    assert leftovers(place) == ["README.md", "config.json", "model.safetensors", "parts"]
    trunk = {n: t for n, t in ours.items() if part_of(n) == "trunk"}
    model = timm.create_model(f"local-dir:{place}", pretrained=True)
    assert same(model.state_dict(), trunk) and model.pretrained_cfg["mean"] == [0.485, 0.456, 0.406]
    assert same(insloc_hub.create_model(str(place)).state_dict(), trunk)
    assert same(load_file(place / "parts" / "fpn_head.safetensors"), {n: t for n, t in ours.items() if n not in trunk})
    assert timm.create_model(f"local-dir:{place}", pretrained=True, num_classes=7).num_classes == 7
    assert "layout InsLoc-FPN" in (place / "README.md").read_text()


def test_torchvisions_resnet_loads_a_trunk_with_nothing_missing_but_the_classifier(
    folder: Path, small: Tensors, tmp_path: Path
) -> None:
    for name, reader in (("a.pth", "torch.load("), ("a.safetensors", "safetensors.torch.load_file(")):
        assert reader in convert(folder / "small.safetensors", "torchvision", tmp_path / name).hint
    state = torch.load(tmp_path / "a.pth", weights_only=True)
    assert same(state, small) and same(load_file(tmp_path / "a.safetensors"), small)
    found = torchvision.models.resnet18().load_state_dict(state, strict=False)
    assert (found.missing_keys, found.unexpected_keys) == (["fc.weight", "fc.bias"], [])


@pytest.fixture(scope="module")
def whole50(sound: Callable[..., Tensors], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet50 with pyramid and head, as the detectors that are compared with have it."""
    path = tmp_path_factory.mktemp("whole50") / "fpn.safetensors"
    save_file(sound("resnet50", 13, PARTS), path)
    return path


def test_torchvisions_detectors_miss_what_is_listed_and_nothing_else(whole50: Path, tmp_path: Path) -> None:
    done = convert(whole50, "torchvision", tmp_path / "fpn.pth")
    state = torch.load(done.out, weights_only=True)
    for name in ("fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2"):
        with torch.device("meta"):
            model = getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None)
        found = model.load_state_dict(state, strict=False, assign=True)
        assert found.unexpected_keys == []
        # torch does not report counters.
        fresh = {n for n in model.state_dict() if n.startswith(done.fresh) and not n.endswith(COUNTER)}
        assert fresh == set(found.missing_keys) and len(fresh) == (12 if name.startswith("faster") else 12 + 24)
    assert done.left_out == ("head.shared_fcs.1.weight", "head.shared_fcs.1.bias")


def heuristics(model: list[str], file: list[str]) -> dict[str, str]:
    """detectron2's documented rule: a model's name takes the longest name of the file that is it, or its end after a dot."""
    found = {}
    for key in model:
        fitting = [name for name in file if key == name or key.endswith(f".{name}")]
        if fitting:
            found[key] = max(fitting, key=len)
    assert len(set(found.values())) == len(found)  # one name for two is an error there
    return found


Rows = Callable[[str], list[dict[str, str]]]


def test_detectron2s_documented_reader_finds_all_of_it(whole50: Path, layout_rows: Rows, tmp_path: Path) -> None:
    """The reader: a plain pickle in latin1; with `model` and `__author__` it is native; `matching_heuristics` as above."""
    done = convert(whole50, "detectron2", tmp_path / "fpn.pkl")
    data = done.out.read_bytes()
    assert b"numpy._core" not in data  # numpy 1 can't import that
    content = pickle.loads(data, encoding="latin1")
    assert set(content) == {"model", "__author__", "matching_heuristics"} and content["matching_heuristics"] is True
    rows = layout_rows("detectron2_r50_fpn")
    skip = ("FPN.NORM is empty", "2fc head only", "empty NORM")
    names = [r["name"] for r in rows if not any(words in r.get("note", "") for words in skip)]
    names = [n for n in names if not n.startswith(("roi_heads.mask_head", "(")) and "fc_extra_norm" not in n]
    shapes = {r["name"]: r["shape"] for r in rows}
    found = heuristics(names, list(content["model"]))
    assert set(content["model"]) - set(found.values()) == {f"roi_head.bbox_head.shared_fcs.1.{x}" for x in ("weight", "bias")}
    assert all(n.startswith(done.fresh) for n in set(names) - set(found))
    for name, theirs in found.items():
        assert "x".join(map(str, content["model"][theirs].shape)) == shapes[name].replace("scalar", "")


def test_a_bare_trunk_fits_both_of_detectron2s_detectors(layout_rows: Rows) -> None:
    trunk = {n: torch.empty(s, device="meta") for n, s in trunk_shapes("resnet50").items()}
    file, left_out = write.spell_all(trunk, write.TARGETS["detectron2"].trunk)
    assert len(file) == 318 and left_out == ()
    for detector in ("detectron2_r50_c4", "detectron2_r50_fpn"):
        assert len(heuristics([r["name"] for r in layout_rows(detector)], list(file))) == 318


def test_mmdets_file_has_the_names_of_its_detector(converted: dict[str, Path], layout_rows: Rows) -> None:
    content = torch.load(converted["mmdet"], weights_only=True)
    assert set(content) == {"meta", "state_dict"}
    names = {row["name"] for row in layout_rows("mmdet_r50_fpn")}
    parts = {n for n in content["state_dict"] if not n.startswith("backbone.")}
    assert len(parts) == 76 and parts <= names


@pytest.mark.parametrize(("parts", "count"), [("trunk", 120), ("fpn", 48), ("head", 26)])
def test_one_part_is_that_part(whole: tuple[Path, Tensors], tmp_path: Path, parts: Any, count: int) -> None:
    done = convert(whole[0], "torchvision", tmp_path / "part.pth", parts=parts)
    state = torch.load(done.out, weights_only=True)
    layout = tv.BARE if parts == "trunk" else tv.DETECTOR
    assert same(state, {layout.spell(n): t for n, t in whole[1].items() if part_of(n) == parts and layout.spell(n)})
    assert len(state) == count and done.parts == (parts,)


def test_the_key_encoder_is_taken_when_asked(
    whole: tuple[Path, Tensors], sound: Callable[..., Tensors], tmp_path: Path
) -> None:
    done = convert(whole[0], "timm", tmp_path / "key", encoder="key")
    assert same(load_file(tmp_path / "key" / "model.safetensors"), sound("resnet18", 12))
    assert "layout InsLoc-FPN (key)" in done.account and "dropped by rule 'query encoder'" in done.account


def test_it_says_in_one_breath_what_it_did(whole: tuple[Path, Tensors], tmp_path: Path) -> None:
    done = convert(whole[0], "torchvision", tmp_path / "a.pth")
    lines = done.sentences()
    assert lines[0] == (
        "120 of 120 trunk tensors used, 48 of 48 fpn tensors used, 28 of 28 head tensors used, 120 dropped by rule "
        "'momentum twin', 1 dropped by rule 'queue', layout InsLoc-FPN (query), resnet18; wrote trunk, fpn, head"
    )
    assert lines[1].startswith("proved: stem, c2, c3, c4, c5, p2, p3, p4, p5, fc1 agree")
    assert "no place for head.shared_fcs.1.weight" in lines
    assert any("rpn.head.*" in line for line in lines)
    facts = done.as_json()
    assert facts["parts"] == list(PARTS) and all(stage["agrees"] for stage in facts["stages"])


def test_a_doubt_is_a_warning_and_under_strict_a_refusal(small: Tensors, spell: Callable[..., Tensors], tmp_path: Path) -> None:
    arrays = {n: t.numpy() for n, t in spell(small, detectron2.BARE).items()}
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"model": {**arrays, "odd": arrays["stem.conv1.weight"]}, "__author__": "X"}))
    with pytest.raises(BadCheckpoint, match=r"refused under --strict: 1 tensors are unknown, e\.g\. odd.*; input unknown"):
        convert(tmp_path / "f.pkl", "timm", tmp_path / "out", strict=True)
    assert leftovers(tmp_path) == ["f.pkl"]
    done = convert(tmp_path / "f.pkl", "timm", tmp_path / "out")
    assert len(done.doubts) == 2 and sum(line.startswith("warning: ") for line in done.sentences()) == 2


def test_a_conversion_whose_proof_fails_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of the target that puts layer2's first two convolutions in each other's place."""
    swapped = Layout(
        name="wrong",
        starts=(
            ("neck.", None),
            ("head.", None),
            ("layer1.0.conv1.", "layer1.0.conv2."),
            ("layer1.0.conv2.", "layer1.0.conv1."),
            ("", ""),
        ),
        convention=tv.BARE.convention,
    )
    target = write.TARGETS["torchvision"]
    wrong = write.Target(trunk=swapped, detector=swapped, suffixes=target.suffixes, fresh=(), hint="")
    monkeypatch.setitem(write.TARGETS, "torchvision", wrong)
    with pytest.raises(Disagreement, match=r"computes something else than the source \(from c2 on\), so nothing was written"):
        convert(folder / "small.safetensors", "torchvision", tmp_path / "a.pth")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("to", ["timm", "torchvision", "detectron2"])
def test_a_file_that_reads_back_otherwise_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    real = write.to_bytes

    def spoilt(tensors: Any, ecosystem: str, suffix: str) -> bytes:
        first = next(iter(tensors))
        return real({**tensors, first: tensors[first] + 1}, ecosystem, suffix)

    for module in ("convert", "folder"):
        monkeypatch.setattr(f"insloc_hub.checkpoints.{module}.to_bytes", spoilt)
    with pytest.raises(InslocError, match=r"otherwise than they were written|read back, 1 tensors differ"):
        convert(folder / "small.safetensors", to, tmp_path / f"a{ENDS[to]}")
    assert leftovers(tmp_path) == []


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond a megabyte: what a full disk or a quota answers, at the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("to", ENDS)
def test_a_full_disk_is_said_and_leaves_nothing(folder: Path, tmp_path: Path, full_disk: None, to: str) -> None:
    with pytest.raises(CannotWrite, match=f"can't write .*{errno.errorcode[errno.EFBIG] and 'File too large'}"):
        convert(folder / "small.safetensors", to, tmp_path / f"a{ENDS[to]}")
    assert leftovers(tmp_path) == []


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"to": "detectron2", "out": "a.pth"}, r"a\.pth: detectron2 reads such a file only if its name ends in \.pkl"),
    ({"to": "torchvision", "out": "a"}, r"ends in \.pth or \.pt or \.safetensors"),
    ({"to": "mmdet", "out": "a.pkl"}, r"ends in \.pth"),
    ({"to": "onnx", "out": "a.pth"}, r"ends in \.onnx"),
    ({"to": "onnx", "out": "a.onnx", "parts": "fpn"}, "ONNX holds the trunk's maps"),
    ({"to": "timm", "out": "a", "parts": "fpn"}, "has no fpn, only trunk; leave --parts out"),
    ({"to": "torchvision", "out": "a.pth", "encoder": "key"}, "has one encoder"),
    ({"to": "timm", "out": "taken"}, "can't write taken: timm's form is a folder, and there is something"),
    ({"to": "torchvision", "out": "taken/b.pth"}, "can't write"),
]


@pytest.mark.parametrize(("asked", "said"), REFUSED, ids=[said[:30] for _, said in REFUSED])
def test_what_can_not_be_is_refused_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    asked = dict(asked)
    with pytest.raises(InslocError, match=said):
        convert(folder / "small.safetensors", asked.pop("to"), Path(asked.pop("out")), **asked)
    assert leftovers(tmp_path) == ["taken"] and (tmp_path / "taken").read_text() == "mine"


def test_a_part_alone_has_no_place_in_timms_folder(whole: tuple[Path, Tensors], tmp_path: Path) -> None:
    with pytest.raises(InslocError, match="timm's folder always holds the trunk"):
        convert(whole[0], "timm", tmp_path / "a", parts="head")
