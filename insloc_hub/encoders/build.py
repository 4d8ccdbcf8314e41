"""Recipe -> encoder: the one place that knows the variants."""

import torch
from torch import nn

from insloc_hub.encoders.backbone import build_trunk
from insloc_hub.encoders.c4 import C4Encoder
from insloc_hub.encoders.fpn import FPNEncoder
from insloc_hub.encoders.whole import Classifier, WholeEncoder
from insloc_hub.recipe import Recipe

Encoder = C4Encoder | FPNEncoder | WholeEncoder


def build_encoder(recipe: Recipe, trunk: nn.Module | None = None) -> Encoder:
    """A fresh encoder in training mode whose numbers depend on the recipe alone; `trunk` replaces the random one.

    UnknownName, InslocError: not an architecture for this variant.
    """
    trunk = trunk or build_trunk(recipe.arch, recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        if recipe.variant == "c4":
            return C4Encoder(trunk, recipe.arch, recipe.roi_size, recipe.embedding_dim).train()
        if recipe.variant == "fpn":
            return FPNEncoder(trunk, recipe.arch, recipe.embedding_dim).train()
        return WholeEncoder(trunk, recipe.embedding_dim).train()


def build_classifier(recipe: Recipe, classes: int, trunk: nn.Module | None = None) -> Classifier:
    """As `build_encoder`, for labels."""
    trunk = trunk or build_trunk(recipe.arch, recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)
        return Classifier(trunk, classes).train()
