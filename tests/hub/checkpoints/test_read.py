"""Every form of file is told by its first bytes; what is no weights file is refused by a sentence that names it."""

import argparse
import collections
import datetime
import io
import pickle
import struct
import sys
import tarfile
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from insloc_hub.checkpoints.read import read_checkpoint
from insloc_hub.checkpoints.unpickle import HostilePickle
from insloc_hub.errors import BadCheckpoint

TENSORS = {"conv1.weight": torch.arange(6.0).reshape(2, 3), "bn1.num_batches_tracked": torch.tensor(5)}
Save = Callable[[object], bytes]


def legacy(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def same(found: dict[str, Tensor], meant: dict[str, Tensor]) -> bool:
    return found.keys() == meant.keys() and all(
        torch.equal(found[n], meant[n]) and found[n].dtype == meant[n].dtype for n in meant
    )


def forms() -> dict[str, tuple[Callable[[Save], bytes], str, str]]:
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    deep = {"classy_state_dict": {"base_model": {"model": TENSORS}}}
    return {
        "safetensors": (lambda _: save(TENSORS), "safetensors", ""),
        "bare torch": (lambda s: s(TENSORS), "torch", ""),
        "torch with an optimizer": (
            lambda s: s({"epoch": 3, "state_dict": TENSORS, "optimizer": {"state": {}}}),
            "torch",
            "state_dict",
        ),
        "torch under model": (lambda s: s({"model": collections.OrderedDict(TENSORS)}), "torch", "model"),
        "VISSL": (lambda s: s(deep), "torch", "classy_state_dict.base_model.model"),
        "legacy torch": (lambda _: legacy({"state_dict": TENSORS}), "torch (legacy)", "state_dict"),
        "detectron2": (lambda _: pickle.dumps({"model": arrays, "__author__": "A"}), "pickle", "model"),
        "bare pickle": (lambda _: pickle.dumps(arrays, protocol=0), "pickle", ""),
    }


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "weights.safetensors", "weights"])
@pytest.mark.parametrize("form", forms())
def test_the_form_is_told_from_the_content_whatever_the_name(tmp_path: Path, torch_bytes: Save, form: str, name: str) -> None:
    make, kind, container = forms()[form]
    (tmp_path / name).write_bytes(make(torch_bytes))
    found = read_checkpoint(tmp_path / name)
    assert (found.form, found.container) == (kind, container)
    assert same(dict(found.tensors), TENSORS)


def test_the_author_the_config_and_further_tensors_are_told(tmp_path: Path, torch_bytes: Save) -> None:
    file = tmp_path / "f"
    file.write_bytes(
        torch_bytes({"state_dict": TENSORS, "meta": {"config": "style='caffe'"}, "ema": TENSORS, "author": "DenseCL"})
    )
    found = read_checkpoint(file)
    assert (found.config, found.author, found.others) == ("style='caffe'", "DenseCL", ("ema",))
    file.write_bytes(pickle.dumps({"model": {"a": np.zeros(2)}, "__author__": "Ceyuan", "matching_heuristics": True}))
    assert read_checkpoint(file).author == "Ceyuan"


def test_metadata_of_trainers_are_read_past(tmp_path: Path, torch_bytes: Save) -> None:
    counts = collections.defaultdict(int, a=1)
    odd = {"opt": argparse.Namespace(lr=0.1), "when": datetime.date(2021, 1, 1), "place": Path("a"), "lr": np.float64(1)}
    odd["counts"] = counts
    (tmp_path / "f").write_bytes(torch_bytes({"model": TENSORS, **odd}))
    assert same(dict(read_checkpoint(tmp_path / "f").tensors), TENSORS)


@pytest.mark.parametrize(
    ("module", "name", "base"),
    [
        ("omegaconf.dictconfig", "DictConfig", object),
        ("mmengine.logging.history_buffer", "HistoryBuffer", object),
        ("pytorch_lightning.utilities.parsing", "AttributeDict", dict),
    ],
)
def test_objects_of_known_trainers_become_empty_stand_ins(
    tmp_path: Path, torch_bytes: Save, monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type
) -> None:
    with monkeypatch.context() as trainer:  # it is installed while the file is written, and nowhere else
        steps = module.split(".")
        for i in range(1, len(steps) + 1):
            trainer.setitem(sys.modules, ".".join(steps[:i]), types.ModuleType(".".join(steps[:i])))
        kind = type(name, (base,), {"__module__": module})
        setattr(sys.modules[module], name, kind)
        value = kind()
        value.__dict__["state"] = [1, 2]
        if base is dict:
            value["lr"] = 0.1
        (tmp_path / "f").write_bytes(torch_bytes({"state_dict": TENSORS, "hyper_parameters": value}))
    assert same(dict(read_checkpoint(tmp_path / "f").tensors), TENSORS)


class Marks:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.place,))


FORMS = {"zip": lambda c, s: s(c), "legacy": lambda c, s: legacy(c), "plain": lambda c, s: pickle.dumps(c)}


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_a_hostile_file_runs_whatever_its_form(tmp_path: Path, torch_bytes: Save, form: str) -> None:
    write = FORMS[form]
    (tmp_path / "f.pth").write_bytes(write({"state_dict": {}, "evil": Marks(tmp_path / "ran")}, torch_bytes))
    with pytest.raises(HostilePickle, match="Nothing of it was run"):
        read_checkpoint(tmp_path / "f.pth")
    assert not (tmp_path / "ran").exists()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    return buffer.getvalue()


WRONG = {
    "empty": (lambda s: b"", "an empty file"),
    "web page": (lambda s: b"<!DOCTYPE html>\n<html>no such file</html>", r"a text file \('<!DOCTYPE html>'\)"),
    "json": (lambda s: b'{"error": "quota exceeded"}', "a text file"),
    "json over lines": (lambda s: b'{\n  "error": "quota"\n}', "damaged pickle|a text file"),
    "list": (lambda s: b"[1, 2, 3]", "a text file"),
    "git lfs": (lambda s: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
    "photo": (lambda s: b"\xff\xd8\xff\xe0" + b"\0" * 300, "no weights file: it begins with ff d8 ff e0"),
    "tar": (lambda s: tar(), "a tar archive"),
    "half a zip": (lambda s: s(TENSORS)[:300], "cut short or damaged"),
    "half a safetensors": (lambda s: save(TENSORS)[:-5], "not a whole safetensors file"),
    "header of a safetensors": (lambda s: struct.pack("<Q", 10**9) + b'{"a":', "not a whole safetensors file"),
    "half a legacy file": (lambda s: legacy(TENSORS)[:200], "cut short or damaged"),
    "no mapping": (lambda s: s([1, 2]), "holds a list, not a mapping"),
    "no tensors": (lambda s: s({"epoch": 1, "state_dict": {"a": 1}}), "no tensors in it.*it holds epoch, state_dict"),
    "pickle of text": (lambda s: pickle.dumps("hello"), "holds a str, not a mapping"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_weights_file_is_refused_by_name(tmp_path: Path, torch_bytes: Save, wrong: str) -> None:
    make, said = WRONG[wrong]
    (tmp_path / "f.pth").write_bytes(make(torch_bytes))
    with pytest.raises(BadCheckpoint, match=said) as caught:
        read_checkpoint(tmp_path / "f.pth")
    assert str(tmp_path / "f.pth") in str(caught.value) and "weights_only" not in str(caught.value)


def test_a_missing_file_and_a_folder_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="no such file or folder"):
        read_checkpoint(tmp_path / "nothing")
    with pytest.raises(BadCheckpoint, match=r"no model\.safetensors in this folder"):
        read_checkpoint(tmp_path)


def test_a_folder_or_a_run_is_read_with_its_parts(tmp_path: Path) -> None:
    (tmp_path / "run" / "model" / "parts").mkdir(parents=True)
    save_file(TENSORS, tmp_path / "run" / "model" / "model.safetensors")
    save_file({"neck.x": torch.ones(1)}, tmp_path / "run" / "model" / "parts" / "fpn_head.safetensors")
    for place in ("run", "run/model"):
        assert read_checkpoint(tmp_path / place).tensors.keys() == {*TENSORS, "neck.x"}
