"""Every family through a run and out: the trunk bit for bit in plain timm, parts for detectors, what was not trained."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from insloc_hub import create_model, load
from insloc_hub.files import sha256_file
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.resume import read_checkpoint
from insloc_hub.pretrain.run import pretrain
from insloc_hub.recipe import Recipe
from insloc_hub.release.export import export_run

Tiny = Callable[..., Recipe]
FPN = {"variant": "fpn", "augment_levels": (False, False, False, True), "level_weights": (1.0,) * 4}
slow = pytest.mark.slow
RUNS = [
    ("resnet18", FPN),
    pytest.param("resnet50", FPN, marks=slow),
    pytest.param("convnext_atto", FPN, marks=slow),
    ("mobilenetv3_small_100", FPN),
    pytest.param("regnetx_002", FPN, marks=slow),
    pytest.param("resnet50", {}, marks=slow),
    ("regnetx_002", {}),
    ("convnext_atto", {}),
]


def exported(tiny: Tiny, photos: Path, run: Path, **changes: Any) -> Path:
    """RUN/model after one step."""
    pretrain(tiny(**changes), RunOptions(data=photos, run=run, steps=1))
    return export_run(run)


@pytest.mark.parametrize(("arch", "changes"), RUNS, ids=str)
def test_the_exported_trunk_is_the_trained_one_bit_for_bit_in_plain_timm(
    tiny: Tiny, photos: Path, tmp_path: Path, arch: str, changes: dict[str, Any]
) -> None:
    folder = exported(tiny, photos, tmp_path / "run", arch=arch, **changes)
    encoder = read_checkpoint(tmp_path / "run")["encoder"]
    state = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    trained = {name.removeprefix("trunk."): tensor for name, tensor in encoder.items() if name.startswith("trunk.")}
    assert state.keys() == trained.keys() and all(torch.equal(state[name], trained[name]) for name in state)
    fresh = timm.create_model(arch, num_classes=0).state_dict()
    assert any(not torch.equal(state[name], fresh[name]) for name in state)
    facts = json.loads((folder / "config.json").read_text())["insloc"]
    if changes:
        part = folder / facts["parts"]["fpn_head"]["file"]
        tensors = load_file(part)
        assert facts["parts"]["fpn_head"]["sha256"] == sha256_file(part) and len(tensors) == 8 * 6 + 4 * 6 + 4
        assert all(torch.equal(tensor, encoder[name]) for name, tensor in tensors.items())
        assert "parts/fpn_head.safetensors" in (folder / "README.md").read_text()
    else:
        assert facts["parts"] == {} and not (folder / "parts").exists()


def test_without_its_weights_a_folder_with_parts_loads_nothing_in_silence(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    folder = exported(tiny, photos, tmp_path / "run", **FPN)
    (folder / "model.safetensors").unlink()
    with pytest.raises((FileNotFoundError, RuntimeError, OSError)):
        timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)


def test_layers_behind_the_last_map_are_listed_and_pooled_features_do_not_go_through_them(
    tiny: Tiny, photos: Path, tmp_path: Path
) -> None:
    folder = exported(tiny, photos, tmp_path / "run", arch="mobilenetv3_small_050", **FPN)
    facts = json.loads((folder / "config.json").read_text())["insloc"]
    assert facts["untrained"] == ["conv_head.weight", "conv_head.bias"]
    assert "Pool the last map" in (folder / "README.md").read_text()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = load(str(folder))
    pooled = extractor([image], transform="whole").pooled
    both = extractor([image], outputs=("pooled", "map"), transform="whole", stride=32)
    assert pooled.shape == (1, extractor.channels[32])
    assert torch.allclose(pooled, both.map[0].mean(dim=(1, 2))[None], atol=1e-5) and torch.equal(pooled, both.pooled)
    ordinary = load("random:mobilenetv3_small_050")([image], transform="whole").pooled
    assert ordinary.shape[1] == 1024  # timm's own pooling, through its conv_head


def test_a_run_can_start_from_weights_and_takes_their_convention(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    first = exported(tiny, photos, tmp_path / "first", arch="regnetx_002", pixel_mean=(0.5, 0.5, 0.5))
    recipe = tiny(init=f"local-dir:{first}", learning_rate=0.0, weight_decay=0.0)
    options = RunOptions(data=photos, run=tmp_path / "second", steps=1, follow=("arch",))
    pretrain(recipe, options)
    facts = json.loads((tmp_path / "second" / "run.json").read_text())["recipe"]
    assert (facts["arch"], facts["pixel_mean"], facts["canvas"]) == ("regnetx_002", [0.5, 0.5, 0.5], 64)
    again = create_model(str(export_run(tmp_path / "second"))).state_dict()
    for name, tensor in create_model(str(first)).state_dict().items():
        assert "running" in name or "num_batches" in name or torch.equal(tensor, again[name]), name


def test_weights_of_another_architecture_than_the_named_one_are_refused(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    from insloc_hub.errors import BadRun, BadSpec

    first = exported(tiny, photos, tmp_path / "first")
    with pytest.raises(BadRun, match="holds a resnet10t, and the run trains a resnet18"):
        pretrain(tiny(init=f"local-dir:{first}", arch="resnet18"), RunOptions(data=photos, run=tmp_path / "second"))
    with pytest.raises(BadSpec, match="nowhere"):
        pretrain(tiny(init="local-dir:nowhere"), RunOptions(data=photos, run=tmp_path / "second"))
    assert not (tmp_path / "second").exists()


def test_the_row_with_labels_trains_on_class_folders_and_exports(world: Path, tiny: Tiny, tmp_path: Path) -> None:
    levels = {"variant": "whole", "augment_levels": (False,), "objective": "labels", "views": "crops"}
    pretrain(tiny(**levels), RunOptions(data=world, run=tmp_path / "run", steps=2))
    config = json.loads((export_run(tmp_path / "run") / "config.json").read_text())
    assert config["pretrained_cfg"]["tag"] == "supervised" and config["insloc"]["data"]["name"] == world.name
    assert read_checkpoint(tmp_path / "run")["encoder"]["fc.weight"].shape[0] >= 12


def test_norms_can_be_left_undecayed(tiny: Tiny) -> None:
    from insloc_hub.encoders.build import build_encoder
    from insloc_hub.pretrain.schedule import make_optimizer

    encoder = build_encoder(tiny())
    plain, spared = (make_optimizer(encoder, dataclasses.replace(tiny(), decay_norms=yes)) for yes in (True, False))
    assert [group["weight_decay"] for group in plain.param_groups] == [1e-4]
    assert [group["weight_decay"] for group in spared.param_groups] == [1e-4, 0.0]
    assert all(p.ndim > 1 for p in spared.param_groups[0]["params"]) and all(
        p.ndim <= 1 for p in spared.param_groups[1]["params"]
    )
    assert sum(len(group["params"]) for group in spared.param_groups) == len(list(encoder.parameters()))
