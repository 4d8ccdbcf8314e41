"""Facts -> the README of an exported folder, and our block of a published card.

Numbers come from result records only, so a fresh export has none. What a person writes around the block: edits.py.
"""

import re
import shlex
from pathlib import Path
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


def front_matter(config: dict[str, Any]) -> dict[str, Any]:
    """The Hub's metadata of a published model, before a person changes it (compat.md 2).

    No `datasets`: the Hub reads its own names there, and a folder called train or photos is somebody else's data set.
    """
    ours = config["insloc"]
    tags = ["timm", "image-feature-extraction", "insloc"]
    if ours.get("recipe", {}).get("objective", "labels") != "labels":
        tags.append("self-supervised")
    return {"library_name": "timm", "pipeline_tag": "image-feature-extraction", "license": "unknown", "tags": tags}


def block(config: dict[str, Any], repo: str, licence: str, table: str) -> str:
    """What a published model is, how to load it, its results, and what it was made by: the part of the card that is ours."""
    ours, cfg = config["insloc"], config["pretrained_cfg"]
    title, story = published_as(config)
    untrained = ", ".join(f"`{name}`" for name in ours.get("untrained", [])) or "none known"
    parts = "".join(f"\n- `{part['file']}`: neck and box head for an FPN detector." for part in ours["parts"].values())
    results = table or "None yet: `insloc-eval run` makes records, and `insloc publish --records` puts them here."
    return f"""# {title}

{story}

```python
import timm

model = timm.create_model("hf-hub:{repo}", pretrained=True)  # without pretrained=True: random weights
```

- Input: RGB, {cfg["input_size"][1]} x {cfg["input_size"][2]}, mean {cfg["mean"]}, std {cfg["std"]}.
- Layers that no gradient reached in pretraining: {untrained}.{parts}
- Licence: {licence}. Terms: {ours["terms"]}.

## Results

{results}

## Reproduce:

{reproduce(config)}"""


def published_as(config: dict[str, Any]) -> tuple[str, str]:
    """Title and first sentence of a published model."""
    ours, arch = config["insloc"], config["architecture"]
    if "recipe" in ours:
        recipe, data = ours["recipe"], ours["data"]
        title, story = what_it_is(recipe)
        amount = f"{ours['steps']:,} steps of {recipe['batch']} images, {recipe['canvas']} px canvas"
        return f"{arch}, {title}", f'A {arch} backbone {story}: {amount}, on {data["n"]:,} images ("{data["name"]}").'
    source = ours["converted_from"]
    official = ours.get("official")
    whose = f"the authors' file for {official['name']} ({official['source']})" if official else "a weights file"
    return f"{arch}, converted from the layout {source['layout']}", f"A {arch} backbone out of {whose}: {source['account']}."


def reproduce(config: dict[str, Any]) -> str:
    """The command and the digests that say whether one got the same."""
    ours = config["insloc"]
    made = ours.get("made_by", {})
    facts = {"model.safetensors": ours["sha256"]} | {part["file"]: part["sha256"] for part in ours["parts"].values()}
    if "recipe" in ours:
        facts |= {"recipe": ours["recipe_hash"], "training images": ours["data"]["fingerprint"]}
    if "official" in ours:
        facts |= {"source file": ours["official"]["source_sha256"]}
    fallback = "insloc pretrain" if "recipe" in ours else "insloc convert FILE --to timm --out FOLDER"
    version = ", ".join(f"{name} {made[name]}" for name in ("insloc_hub", "git", "torch", "timm") if made.get(name))
    lines = ["```sh", made.get("command") or fallback, "```", "", *([f"With {version}.", ""] if version else [])]
    if "recipe" in ours:
        lines += [f"Recipe `{ours['recipe'].get('name', '')}`, seed {ours['recipe']['seed']}; whole in config.json.", ""]
    return "\n".join(
        [*lines, "| sha256 of | |", "| --- | --- |", *(f"| {name} | `{value}` |" for name, value in facts.items())]
    )


def without_paths(command: str) -> str:
    """A command line with every path shortened to its last name: where things lie on a machine is nobody's business.

    >>> without_paths("insloc pretrain --data /home/ann/photos --init=../w/model --recipe insloc_c4_small")
    'insloc pretrain --data photos --init=model --recipe insloc_c4_small'
    """
    return shlex.join(_shortened(word) for word in shlex.split(command))


def _shortened(word: str) -> str:
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if "/" not in value or re.match(r"(hf-hub|hf_hub|https?):", value):
        return word
    return flag + equals + Path(value.removeprefix("local-dir:")).name
