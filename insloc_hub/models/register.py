"""`import insloc_hub.models.register`: our names inside timm's own registry.

Then timm.list_models("insloc*") lists them and timm.create_model("insloc_resnet50.c4_200ep_in1k", pretrained=True) gives the
stock architecture with these weights, from where `fetch` finds them, checked as by insloc_hub.create_model. Names known when
this is imported are listed; a card that comes later is found by its tag all the same.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
from timm.models import PretrainedCfg, generate_default_cfgs, register_model
from torch import nn

from insloc_hub.checkpoints.folder import pretrained_cfg
from insloc_hub.errors import BadSpec
from insloc_hub.models.create import check_folder
from insloc_hub.models.fetch import card_folder
from insloc_hub.models.zoo import entries, list_local, local_folder, read_config, split_name


def cfgs() -> dict[str, PretrainedCfg]:
    """insloc_ARCH.TAG -> timm's record. It has weights where a folder lies here or the Hub has one."""
    known = entries()
    found = {}
    for name in sorted({*known, *list_local()}):
        arch, tag = split_name(name)
        folder, entry = local_folder(name), known.get(name)
        if not tag or not timm.is_model(arch):
            continue  # a folder somebody called so
        try:
            facts = folder_cfg(folder) if folder else {**pretrained_cfg(arch, tag), "hf_hub_id": entry.hub if entry else None}
            found[name] = PretrainedCfg(**facts)
        except (BadSpec, TypeError):
            continue  # damaged: create_model says how, and one such folder must not hide the others
    return found


def folder_cfg(folder: Path) -> dict[str, Any]:
    """timm's pretrained_cfg of an exported folder, with its weights as the file to read. BadSpec."""
    stated = read_config(folder).get("pretrained_cfg", {})
    return {**stated, "file": str(folder / "model.safetensors"), "num_classes": stated.get("num_classes", 0)}


def _entry_point(name: str) -> Callable[..., nn.Module]:
    """timm's entry for insloc_ARCH. Its signature is timm's own, which is why it takes **kwargs."""
    arch = name.removeprefix("insloc_")

    def entry(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        asked = kwargs.pop("pretrained_cfg", None) or timm.get_pretrained_cfg(name).tag
        if not isinstance(asked, str):  # somebody's own settings, as timm allows
            model: nn.Module = timm.create_model(arch, pretrained=pretrained, pretrained_cfg=asked, **kwargs)
            return model
        card = f"{name}.{asked}"
        cfg = default_cfgs[name].cfgs.get(asked) if name in default_cfgs else None
        if pretrained or cfg is None:
            folder = card_folder(card)
            check_folder(folder)
            if read_config(folder)["architecture"].split(".")[0] != arch:
                raise BadSpec(f"{folder} holds a {read_config(folder)['architecture']}, not a {arch}")
            cfg = folder_cfg(folder)
        model = timm.create_model(arch, pretrained=pretrained, pretrained_cfg=cfg, **kwargs)
        return model

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"{arch} with weights of ours; see: insloc models."
    return entry


default_cfgs = generate_default_cfgs(cfgs())
"""timm's decorator reads it, hence its name, and its place above the entries."""
for _name in default_cfgs:
    globals()[_name] = register_model(_entry_point(_name))
