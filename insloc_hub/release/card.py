"""Facts -> the README of an exported folder. Numbers come from result records only, so a fresh export has none."""

from typing import Any


def folder_readme(config: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with the Hub's front matter: what it is, how to load it, what it was trained on, what is not known."""
    ours = config["insloc"]
    recipe = ours["recipe"]
    arch = config["architecture"]
    config_input = config["pretrained_cfg"]
    untrained = ", ".join(f"`{name}`" for name in ours["untrained"]) or "none"
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
tags:
- timm
- image-feature-extraction
- insloc
- self-supervised
---
# {arch}, InsLoc-{ours["variant"].upper()} (as inferred)

A {arch} backbone pretrained without labels by instance localization (Yang et al., CVPR 2021): {ours["steps"]:,} steps of
{recipe["batch"]} images, {recipe["canvas"]} px canvas, on {ours["data"]["n"]:,} images ("{ours["data"]["name"]}").

```python
import timm
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)  # without pretrained=True: random weights
```

- Input: RGB, {recipe["canvas"]} x {recipe["canvas"]}, mean {config_input["mean"]}, std {config_input["std"]}.
- Layers that no gradient reached in pretraining: {untrained}.
- sha256 of model.safetensors: `{ours["sha256"]}`
- Terms: {ours["terms"]}.
- Evaluated: not yet. `insloc-eval run --model PATH_OF_THIS_FOLDER --task linear --task patches --data DIR --out results`

Reproduce: `{facts["command"] or "insloc pretrain"}`, insloc_hub {facts["insloc_hub"]},
recipe hash `{ours["recipe_hash"][:16]}`.
"""
