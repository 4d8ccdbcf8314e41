"""create_model: the named weights or an error, never random ones in their place."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from insloc_hub.errors import BadSpec, InslocError, UnknownName
from insloc_hub.files import sha256_file
from insloc_hub.models.create import check_folder, create_model, model_arch, weights_digest

Edit = Callable[[Path], None]


def same(one: nn.Module, two: nn.Module) -> bool:
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def export(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of an exported resnet18 that a test may spoil."""
    return Path(shutil.copytree(finished_run / "model", tmp_path / "model"))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite the weights and drop the promise of their bytes, as a stranger's folder has none."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, lambda config: config["insloc"].pop("sha256"))


def test_a_random_model_is_timms_own_start_of_that_seed_in_eval_mode() -> None:
    model = create_model("random:resnet18@3")
    torch.manual_seed(3)
    assert same(model, timm.create_model("resnet18", num_classes=0))
    assert not model.training and isinstance(model.fc, nn.Identity)


def test_random_models_differ_by_seed_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    assert same(create_model("random:resnet10t@1"), create_model("random:resnet10t@1"))
    assert not same(create_model("random:resnet10t@1"), create_model("random:resnet10t@2"))
    assert torch.equal(torch.get_rng_state(), before)


def test_arguments_go_to_timm() -> None:
    assert create_model("random:resnet10t", num_classes=7)(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    maps = create_model("random:resnet10t", features_only=True, out_indices=(3, 4), in_chans=1)(torch.zeros(1, 1, 64, 64))
    assert [m.shape[-1] for m in maps] == [4, 2]


@pytest.mark.parametrize("spec", ["random:resnet5O", "resnet5O", "resnet5O.a1_in1k"])
def test_an_unknown_architecture_is_refused_with_the_nearest(spec: str) -> None:
    with pytest.raises(UnknownName, match="did you mean") as refusal:
        create_model(spec)
    assert any(name.startswith("resnet50") for name in refusal.value.near)


def test_an_unknown_tag_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="pretrained tag") as refusal:
        create_model("resnet18.a1_in1")
    assert "resnet18.a1_in1k" in refusal.value.near


def test_an_architecture_without_pretrained_weights_is_refused_with_the_way_to_random_ones() -> None:
    bare = next(name for name in timm.list_models("resnet*") if not timm.list_pretrained(f"{name}.*"))
    with pytest.raises(BadSpec, match=f"no pretrained weights for {bare}; for random ones say random:{bare}"):
        create_model(bare)


@pytest.mark.parametrize("spec", ["resnet18.a1_in1k", "resnet18", "hf-hub:timm/resnet18.a1_in1k", "hf-hub:nobody/nothing"])
def test_weights_that_cannot_be_had_offline_are_an_error_and_never_random(spec: str) -> None:
    with pytest.raises(BadSpec, match=re.escape(repr(spec)) + ".*can't be had") as refusal:
        create_model(spec)
    assert "weights_only" not in str(refusal.value)


def test_an_unknown_card_is_refused_with_where_cards_are_looked_for() -> None:
    with pytest.raises(UnknownName, match="insloc models"):
        create_model("insloc_resnet18.nowhere")


def test_an_export_is_loaded_tensor_by_tensor(export: Path) -> None:
    file = load_file(export / "model.safetensors")
    for spec in (str(export), f"local-dir:{export}", str(export / "model.safetensors")):
        model = create_model(spec)
        assert not model.training and model.num_classes == 0
        state = model.state_dict()
        assert state.keys() == file.keys() and all(torch.equal(state[name], file[name]) for name in file)
    assert not torch.equal(create_model("random:resnet18").conv1.weight, file["conv1.weight"])


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-100] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(data))


def cut_stranger(folder: Path) -> None:
    cut(folder)
    edit_config(folder, lambda config: config.pop("insloc"))


def rename(tensors: dict[str, Any]) -> None:
    tensors["conv1_weight"] = tensors.pop("conv1.weight")


SPOILED: list[tuple[str, Edit, str]] = [
    ("no weights", lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing.*insloc export"),
    ("no config", lambda f: (f / "config.json").unlink(), "no config.json"),
    ("cut short", cut, "sha256 is not the one in config.json"),
    ("a byte swapped", flip_a_byte, "sha256 is not the one in config.json"),
    ("a stranger's, cut short", cut_stranger, "not a whole safetensors file"),
    ("empty weights", lambda f: (cut_stranger(f), (f / "model.safetensors").write_bytes(b""))[0], "not a whole safetensors"),
    ("a tensor renamed", lambda f: edit_tensors(f, rename), "1 tensors are missing for resnet18, e.g. conv1.weight"),
    ("a tensor gone", lambda f: edit_tensors(f, lambda t: t.pop("bn1.bias")), "missing for resnet18, e.g. bn1.bias"),
    ("a tensor more", lambda f: edit_tensors(f, lambda t: t.update(x=torch.zeros(1))), "unexpected for resnet18, e.g. x"),
    ("a head", lambda f: edit_tensors(f, lambda t: t.update({"fc.bias": torch.zeros(9)})), "unexpected for resnet18, e.g. fc"),
    (
        "another shape",
        lambda f: edit_tensors(f, lambda t: t.update({"bn1.bias": torch.zeros(63)})),
        "of another shape for resnet18, e.g. bn1.bias",
    ),
    ("another network", lambda f: edit_config(f, lambda c: c.update(architecture="resnet34")), "missing for resnet34"),
    ("an unknown network", lambda f: edit_config(f, lambda c: c.update(architecture="resnet1x")), "unknown timm architecture"),
    ("no architecture", lambda f: edit_config(f, lambda c: c.pop("architecture")), "names no architecture"),
    ("no JSON", lambda f: (f / "config.json").write_text("{"), "not JSON"),
    ("a list", lambda f: (f / "config.json").write_text("[1]"), "names no architecture"),
    ("our key is no object", lambda f: edit_config(f, lambda c: c.update(insloc=None)), "insloc"),
    ("a class count that is none", lambda f: edit_config(f, lambda c: c.update(num_classes="many")), "num_classes"),
    ("an unknown key", lambda f: edit_config(f, lambda c: c["pretrained_cfg"].update(mine=1)), "mine"),
]


@pytest.mark.parametrize(("spoil", "problem"), [row[1:] for row in SPOILED], ids=[row[0] for row in SPOILED])
@pytest.mark.parametrize("num_classes", [0, 7])
def test_a_spoiled_export_is_refused_whatever_the_class_count(
    export: Path, spoil: Edit, problem: str, num_classes: int
) -> None:
    """timm stops being strict as soon as the class count differs from the file's; we don't."""
    spoil(export)
    with pytest.raises(InslocError, match=problem):
        create_model(str(export), num_classes=num_classes)


def test_counters_of_batches_may_be_absent_as_for_timm(export: Path) -> None:
    def drop(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.endswith("num_batches_tracked")]:
            del tensors[name]

    edit_tensors(export, drop)
    assert create_model(str(export)).conv1.weight.shape == (64, 3, 7, 7)


def test_an_argument_that_the_model_does_not_take_is_refused(export: Path) -> None:
    with pytest.raises(BadSpec, match="no_such_argument"):
        create_model(str(export), no_such_argument=1)


@pytest.fixture
def hub_repository() -> Iterator[Callable[[dict[str, Any]], str]]:
    """Puts a resnet10t with 10 classes into the cache as huggingface_hub lays it out; gives its spec."""
    from huggingface_hub import constants

    repo = Path(constants.HF_HUB_CACHE) / "models--someone--something"
    snapshot = repo / "snapshots" / ("a" * 40)

    def put(tensors: dict[str, Any]) -> str:
        snapshot.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("a" * 40)
        save_file(tensors, snapshot / "model.safetensors")
        pretrained = {"num_classes": 10, "first_conv": "conv1.0", "classifier": "fc", "input_size": [3, 64, 64]}
        config = {"architecture": "resnet10t", "num_classes": 10, "pretrained_cfg": pretrained}
        (snapshot / "config.json").write_text(json.dumps(config))
        return "hf-hub:someone/something"

    yield put
    shutil.rmtree(repo)


def test_a_hub_repository_is_loaded_headless_or_with_a_fresh_head(hub_repository: Callable[[dict[str, Any]], str]) -> None:
    stored = timm.create_model("resnet10t", num_classes=10).state_dict()
    spec = hub_repository(stored)
    for model, outputs in ((create_model(spec), 512), (create_model(spec, num_classes=7), 7)):
        assert all(torch.equal(tensor, stored[n]) for n, tensor in model.state_dict().items() if not n.startswith("fc."))
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, outputs) and not model.training
    maps = create_model(spec, features_only=True)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in maps.state_dict().items())


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 7}, {"features_only": True}])
def test_a_misnamed_tensor_in_a_hub_repository_is_refused_too(
    hub_repository: Callable[[dict[str, Any]], str], kwargs: dict[str, Any]
) -> None:
    tensors = timm.create_model("resnet10t", num_classes=10).state_dict()
    tensors["conv1.0.wait"] = tensors.pop("conv1.0.weight")
    with pytest.raises(BadSpec, match=r"conv1\.0"):
        create_model(hub_repository(tensors), **kwargs)


def test_other_bytes_than_the_promised_ones_in_a_hub_repository_are_refused(
    hub_repository: Callable[[dict[str, Any]], str],
) -> None:
    from huggingface_hub import try_to_load_from_cache

    spec = hub_repository(timm.create_model("resnet10t", num_classes=10).state_dict())
    weights, config = (try_to_load_from_cache("someone/something", n) for n in ("model.safetensors", "config.json"))
    assert isinstance(weights, str) and isinstance(config, str)
    facts = json.loads(Path(config).read_text())
    for promised, right in ((sha256_file(Path(weights)), True), ("0" * 64, False)):
        Path(config).write_text(json.dumps({**facts, "insloc": {"sha256": promised}}))
        if right:
            create_model(spec)
        else:
            with pytest.raises(BadSpec, match="its sha256 is not the one in config"):
                create_model(spec)


def test_the_architecture_is_known_without_loading_weights(export: Path) -> None:
    (export / "model.safetensors").unlink()
    assert model_arch(str(export)) == "resnet18"
    assert model_arch("random:convnext_atto@2") == "convnext_atto"
    assert model_arch("resnet50.a1_in1k") == "resnet50"


def test_the_digest_of_weights_knows_every_value_and_no_head() -> None:
    one = weights_digest(create_model("random:resnet10t@1"))
    assert one == weights_digest(create_model("random:resnet10t@1")) and len(one) == 64
    assert one != weights_digest(create_model("random:resnet10t@2"))
    model = create_model("random:resnet10t@1")
    model.bn1.running_mean[3] += 1e-6
    assert one != weights_digest(model)
    headed = create_model("random:resnet10t@1", num_classes=5)
    headed.load_state_dict(create_model("random:resnet10t@1").state_dict(), strict=False)
    assert one == weights_digest(headed)


def test_checking_a_good_export_says_nothing_and_loads_nothing(export: Path) -> None:
    before = torch.get_rng_state()
    check_folder(export)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_folder_as_it_is_gives_the_module_that_timm_gives(export: Path) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        del tensors["bn1.num_batches_tracked"]
        tensors["conv1.weight"] = tensors["conv1.weight"].half()

    edit_tensors(export, spoil)
    ours, theirs = create_model(str(export)), timm.create_model(f"local-dir:{export}", pretrained=True).eval()
    assert same(ours, theirs) and repr(ours) == repr(theirs) and ours.pretrained_cfg == theirs.pretrained_cfg
    assert all(a.dtype == b.dtype for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert [(n, p.requires_grad) for n, p in ours.named_parameters()] == [
        (n, p.requires_grad) for n, p in theirs.named_parameters()
    ]
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(ours(x), theirs(x))


def test_a_loaded_model_is_apart_from_its_file(export: Path) -> None:
    model, before = create_model(str(export)), sha256_file(export / "model.safetensors")
    weight = model.conv1.weight.detach().clone()
    (export / "model.safetensors").write_bytes(b"")
    assert torch.equal(model.conv1.weight, weight) and before != sha256_file(export / "model.safetensors")


def test_settings_of_a_config_that_timm_does_not_take_are_refused(export: Path) -> None:
    edit_config(export, lambda config: config.update(model_args={"colour": "red"}))
    with pytest.raises(BadSpec, match="timm makes no resnet18 of it"):
        create_model(str(export))
