"""What becomes of a published model: pulled, mirrored, read by stock timm and by transformers; its parts; other sources."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from mirrors import client, mirror
from registry import Registry
from safetensors.torch import load_file

from insloc_hub.errors import BadSpec
from insloc_hub.files import sha256_file
from insloc_hub.pretrain.options import RunOptions
from insloc_hub.pretrain.run import pretrain
from insloc_hub.recipe import Recipe
from insloc_hub.release.card import block
from insloc_hub.release.export import export_run
from insloc_hub.release.mirror import pull

Push = Callable[..., list[str]]
FPN = {"variant": "fpn", "augment_levels": (False, False, False, True), "level_weights": (1.0,) * 4}
FPN_REPO = "lab/test_resnet.insloc_fpn_photos"


@pytest.fixture(scope="module")
def fpn_run(photos: Path, tiny: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one FPN step with its RUN/model and parts; read it, don't write."""
    run = tmp_path_factory.mktemp("publish-fpn") / "run"
    pretrain(tiny(arch="test_resnet", **FPN), RunOptions(data=photos, run=run, steps=1))
    export_run(run)
    return run


def test_published_pulled_mirrored_and_loaded_by_stock_timm_it_is_the_run_s_export_bit_for_bit(
    hub: Registry, push: Push, fpn_run: Path, tmp_path: Path
) -> None:
    push(fpn_run, repo="lab/exported")
    said: list[str] = []
    pull(tmp_path / "closed", ["lab/exported"], said.append)
    assert "4 files" in said[0]
    tensors = load_file(fpn_run / "model" / "model.safetensors")
    wanted = {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}
    with mirror(tmp_path / "closed") as (url, process):

        def stop() -> None:
            process.terminate()
            assert process.wait(20) == 0

        # A process of its own, in which an import of insloc_hub is an ImportError.
        assert client("stock", url, tmp_path / "home", talk=stop) == {"first": wanted, "by_commit": wanted, "later": wanted}


def test_parts_are_published_and_never_loaded_in_the_weights_place(push: Push, fpn_run: Path, tmp_path: Path) -> None:
    push(fpn_run, repo=FPN_REPO, dry_run=True)
    folder = tmp_path / "published" / FPN_REPO
    part = folder / "parts" / "fpn_head.safetensors"
    assert part.read_bytes() == (fpn_run / "model" / "parts" / "fpn_head.safetensors").read_bytes()
    stated = json.loads((folder / "config.json").read_text())["insloc"]["parts"]["fpn_head"]
    assert stated == {"file": "parts/fpn_head.safetensors", "sha256": sha256_file(part)}
    assert f"| parts/fpn_head.safetensors | `{sha256_file(part)}` |" in (folder / "README.md").read_text()
    seven = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    assert seven.num_classes == 7
    (folder / "model.safetensors").unlink()
    for kwargs in ({}, {"num_classes": 7}, {"features_only": True}):
        with pytest.raises(RuntimeError, match="No suitable checkpoints found"):
            timm.create_model(f"local-dir:{folder}", pretrained=True, **kwargs)


def test_a_part_that_is_not_the_stated_one_is_not_published(push: Push, fpn_run: Path, tmp_path: Path) -> None:
    altered = Path(shutil.copytree(fpn_run / "model", tmp_path / "altered"))
    part = altered / "parts" / "fpn_head.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(BadSpec, match=r"fpn_head\.safetensors: missing, or not the bytes"):
        push(altered, repo=FPN_REPO, dry_run=True)
    assert not (tmp_path / "published" / FPN_REPO).exists()


def test_parts_that_a_model_has_no_more_leave_the_hub(hub: Registry, push: Push, fpn_run: Path, small_run: Path) -> None:
    push(fpn_run, repo=FPN_REPO)
    assert "parts/fpn_head.safetensors" in hub.repos[FPN_REPO].files
    assert "  removed  parts/fpn_head.safetensors" in push(small_run, repo=FPN_REPO)
    assert set(hub.repos[FPN_REPO].files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}


def test_anybodys_weights_are_converted_proved_and_published(push: Push, tmp_path: Path) -> None:
    """torchvision's names in a bare file; the card says where it came from."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18().eval()
    file = tmp_path / "their_resnet18.pth"
    torch.save(theirs.state_dict(), file)
    repo = "lab/resnet18.theirs"
    said = push(file, repo=repo, dry_run=True, licence="bsd-3-clause")
    folder = tmp_path / "published" / repo
    state = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    wanted = theirs.state_dict()
    assert state and all(torch.equal(tensor, wanted[name]) for name, tensor in state.items())
    text = (folder / "README.md").read_text()
    assert "license: bsd-3-clause" in text and "converted from the layout" in text
    assert "insloc convert FILE --to timm --out FOLDER" in text and str(tmp_path) not in text
    assert any(line.startswith("read back through plain timm") for line in said)


def test_the_card_of_an_official_checkpoint_names_its_source(small_run: Path) -> None:
    config = json.loads((small_run / "model" / "config.json").read_text())
    ours = config["insloc"]
    official = {"name": "insloc_resnet50.c4_200ep_in1k", "source": "https://example.org/file", "source_sha256": "d" * 64}
    del ours["recipe"]
    ours |= {"converted_from": {"layout": "InsLoc-C4", "account": "318 tensors used"}, "official": official}
    text = block(config, "lab/x", "unknown", "")
    assert "the authors' file for insloc_resnet50.c4_200ep_in1k (https://example.org/file): 318 tensors used." in text
    assert f"| source file | `{'d' * 64}` |" in text


def test_a_run_without_its_model_is_told_how_to_export(push: Push, small_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    shutil.rmtree(run / "model")
    with pytest.raises(BadSpec, match="insloc export"):
        push(run, dry_run=True)


def test_transformers_reads_the_folder_and_computes_what_timm_computes(push: Push, small_run: Path, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip(
        "transformers", reason="transformers is not installed (it pins huggingface_hub 1.x)"
    )
    push(dry_run=True)
    folder = tmp_path / "published" / "lab" / "test_resnet.insloc_c4_photos"
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = theirs(images)
        assert torch.equal(found.last_hidden_state, ours.forward_features(images))
        assert torch.equal(found.pooler_output, ours(images))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    picture = (torch.rand(90, 120, 3, generator=torch.Generator().manual_seed(2)) * 255).byte().numpy()
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    transform = create_transform(**resolve_model_data_config(ours), is_training=False)
    assert torch.equal(processor(Image.fromarray(picture))["pixel_values"][0], transform(Image.fromarray(picture)))
