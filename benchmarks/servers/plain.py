"""What a user of timm alone has: the model and the transform that timm resolves for it. The rivals' side."""

from collections.abc import Callable

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn

SEED = 0  # of `random:ARCH` too: the weights are equal, which the comparison of answers shows


def load_plain(arch: str) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    """Headless model in eval mode, and RGB image -> [3 h w]."""
    torch.manual_seed(SEED)
    model = timm.create_model(arch, pretrained=False, num_classes=0).eval()
    return model, create_transform(**resolve_model_data_config(model), is_training=False)
