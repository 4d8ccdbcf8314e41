"""insloc_hub: CNN backbones pretrained for detection without labels (InsLoc), and features of boxes.

`create_model`, `list_models` and `load` are imported when first used, so that `import insloc_hub` costs no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from insloc_hub.models.create import create_model
    from insloc_hub.models.extractor import load
    from insloc_hub.models.zoo import list_models

__version__ = "0.1.0"
__all__ = ["__version__", "create_model", "list_models", "load"]

_LAZY = {
    "create_model": "insloc_hub.models.create",
    "list_models": "insloc_hub.models.zoo",
    "load": "insloc_hub.models.extractor",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'insloc_hub' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
