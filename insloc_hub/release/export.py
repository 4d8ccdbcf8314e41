"""RUN -> RUN/model: a folder that plain timm and transformers read (contracts.md 5, compat.md 1.1).

The trunk under timm's own names, config.json in the exact shape that both readers take, a README that says what it is.
Read back through plain timm, tensor by tensor, before it takes its place.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save_file

from insloc_hub.encoders.backbone import new_timm_model
from insloc_hub.errors import BadRun, CannotWrite
from insloc_hub.files import sha256_file, write_json, write_text, write_whole
from insloc_hub.pretrain.resume import read_checkpoint
from insloc_hub.pretrain.run import read_run
from insloc_hub.recipe import Recipe, from_dict
from insloc_hub.release.card import folder_readme

SCHEMA = 1
TRUNK = "trunk."
TERMS = "unstated: the weights are derived from the training images, whose terms apply"


def export_run(run: Path, terms: str = TERMS) -> Path:
    """Write RUN/model from RUN/checkpoint.pt and return it; an older RUN/model is replaced at the end, whole.

    BadRun: no finished step to export. CannotWrite.
    """
    content = read_checkpoint(run)
    facts = read_run(run)
    if content["step"] == 0:
        raise BadRun(f"{run}: not one step is trained yet; nothing to export")
    recipe = from_dict(content["recipe"])
    trunk = {k.removeprefix(TRUNK): v for k, v in content["encoder"].items() if k.startswith(TRUNK)}
    target = run / "model"
    try:
        part = Path(tempfile.mkdtemp(prefix=".model.", dir=run))
        part.chmod(0o755)
    except OSError as error:
        raise CannotWrite(target, error.strerror or str(error)) from None
    try:
        weights = part / "model.safetensors"
        tensors = {name: tensor.contiguous().clone() for name, tensor in trunk.items()}
        write_whole(weights, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
        config = make_config(recipe, facts, content, sha256_file(weights), terms)
        config["insloc"]["parts"] = write_parts(part, content["encoder"])
        write_json(part / "config.json", config)
        write_text(part / "README.md", folder_readme(config, facts))
        check_export(part, tensors)
        replace_folder(part, target)
    except OSError as error:
        raise CannotWrite(target, error.strerror or str(error)) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def make_config(recipe: Recipe, facts: dict[str, Any], content: dict[str, Any], sha256: str, terms: str) -> dict[str, Any]:
    """config.json: timm's part in the shape of compat.md 1.1, ours under the one top-level key `insloc`."""
    model = new_timm_model(recipe.arch, num_classes=0)
    stock: Any = model.pretrained_cfg
    return {
        "architecture": recipe.arch.split(".")[0],
        "num_classes": 0,
        "num_features": model.num_features,
        "global_pool": "avg",
        "pretrained_cfg": {
            "tag": tag_of(recipe),
            "custom_load": False,
            "input_size": [3, recipe.canvas, recipe.canvas],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 0.875,
            "crop_mode": "center",
            "mean": list(recipe.pixel_mean),
            "std": list(recipe.pixel_std),
            "num_classes": 0,
            "pool_size": [-(-recipe.canvas // 32)] * 2,
            "first_conv": stock["first_conv"],
            "classifier": stock["classifier"],
        },
        "insloc": {
            "schema": SCHEMA,
            "variant": recipe.variant,
            "recipe": recipe.as_dict(),
            "recipe_hash": recipe.hash(),
            "canvas": recipe.canvas,
            "steps": content["step"],
            "sha256": sha256,
            "untrained": untrained(content),
            "parts": {},
            "data": {key: facts["data"][key] for key in ("name", "fingerprint", "n")},
            "terms": terms,
        },
    }


def write_parts(folder: Path, encoder: dict[str, torch.Tensor]) -> dict[str, dict[str, str]]:
    """FPN's neck and box head -> parts/fpn_head.safetensors, for detectors; what config.json says of it.

    In a folder of its own: beside the trunk, timm takes it for the weights where model.safetensors is missing.
    """
    tensors = {name: tensor.contiguous().clone() for name, tensor in encoder.items() if name.startswith(("neck.", "head."))}
    if not tensors:
        return {}
    path = folder / "parts" / "fpn_head.safetensors"
    write_whole(path, lambda part: save_file(tensors, part, metadata={"format": "pt"}))
    return {"fpn_head": {"file": "parts/fpn_head.safetensors", "sha256": sha256_file(path)}}


def tag_of(recipe: Recipe) -> str:
    """What timm shows behind the architecture's name: the method, as the file name of a card would say it."""
    if recipe.objective == "labels":
        return "supervised"
    if recipe.views == "crops":
        return "moco_v2"
    return f"insloc_{recipe.variant}"


def untrained(content: dict[str, Any]) -> list[str]:
    """Trunk parameters that no gradient ever reached."""
    return [name.removeprefix(TRUNK) for name in content["untrained"] if name.startswith(TRUNK)]


def check_export(folder: Path, tensors: dict[str, torch.Tensor] | None = None) -> int:
    """Read the folder back through plain timm; the number of tensors that are right, which is all of them.

    `tensors` are what was meant to be written; without them the file itself is the measure. BadRun: one differs.
    """
    meant = load_file(folder / "model.safetensors") if tensors is None else tensors
    state = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    wrong = [name for name in state.keys() | meant.keys() if name not in state or name not in meant]
    wrong += [name for name in state.keys() & meant.keys() if not torch.equal(state[name], meant[name])]
    if wrong:
        raise BadRun(
            f"{folder}: timm reads {len(wrong)} tensors back otherwise than they were trained, e.g. {sorted(wrong)[0]}"
        )
    return len(state)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def replace_folder(part: Path, target: Path) -> None:
    """Move `part` to `target`; a folder can't be renamed over a full one, so the old one steps aside first."""
    if not target.exists():
        part.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=".old.", dir=target.parent))
    target.rename(aside / "model")
    part.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
