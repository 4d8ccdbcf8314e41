"""Facts -> the README of an exported folder. Numbers come from result records only, so a fresh export has none."""

from typing import Any

TITLES = {
    "c4": ("InsLoc-C4 (as inferred)", "pretrained without labels by instance localization (Yang et al., CVPR 2021)"),
    "fpn": ("InsLoc-FPN", "pretrained without labels by instance localization (Yang et al., CVPR 2021)"),
    "whole": ("a rung between MoCo v2 and InsLoc", "pretrained without labels on composites, boxes unread"),
}


def what_it_is(recipe: dict[str, Any]) -> tuple[str, str]:
    """Title of the method, and how the backbone was trained, from a recipe's fields."""
    if recipe["objective"] == "labels":
        return "supervised (reference row)", "trained with labels, as a reference for pretraining without"
    if recipe["views"] == "crops":
        return "MoCo v2 (control)", "pretrained without labels by momentum contrast (Chen et al. 2020), InsLoc's control"
    if recipe["variant"] == "c4" and not any(recipe["augment_levels"]):
        return "InsLoc-C4 without box augmentation (a rung of the ladder)", TITLES["c4"][1]
    return TITLES[recipe["variant"]]


def folder_readme(config: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with the Hub's front matter: what it is, how to load it, what it was trained on, what is not known."""
    ours = config["insloc"]
    recipe = ours["recipe"]
    arch = config["architecture"]
    config_input = config["pretrained_cfg"]
    title, story = what_it_is(recipe)
    parts = "".join(f"\n- `{part['file']}`: neck and box head for an FPN detector." for part in ours["parts"].values())
    untrained = ", ".join(f"`{name}`" for name in ours["untrained"]) or "none"
    pooled = " Pool the last map (`forward_features`) instead of what lies behind them." if ours["untrained"] else ""
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- timm
- image-feature-extraction
- insloc
- self-supervised
---
# {arch}, {title}

A {arch} backbone {story}: {ours["steps"]:,} steps of
{recipe["batch"]} images, {recipe["canvas"]} px canvas, on {ours["data"]["n"]:,} images ("{ours["data"]["name"]}").

```python
import timm
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)  # without pretrained=True: random weights
```

- Input: RGB, {recipe["canvas"]} x {recipe["canvas"]}, mean {config_input["mean"]}, std {config_input["std"]}.
- Layers that no gradient reached in pretraining: {untrained}.{pooled}{parts}
- sha256 of model.safetensors: `{ours["sha256"]}`
- Terms: {ours["terms"]}.
- Evaluated: not yet. `insloc-eval run --model PATH_OF_THIS_FOLDER --task linear --task patches --data DIR --out results`

Reproduce: `{facts["command"] or "insloc pretrain"}`, insloc_hub {facts["insloc_hub"]},
recipe hash `{ours["recipe_hash"][:16]}`.
"""
