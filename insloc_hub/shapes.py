"""jaxtyping's array types, or stand-ins where it is missing.

Rooms that `hubconf.py` reaches (models, data, boxes, encoders) annotate with these, so that torch.hub needs only torch,
timm, safetensors and huggingface_hub. Dims of the house: b batch, n regions, c h w, d feature, k keys, l levels.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, UInt8
else:
    try:
        from jaxtyping import Bool, Float, Int, UInt8
    except ImportError:

        class _Anything:
            """`Float[Tensor, "b d"]` without jaxtyping: the plain tensor type."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = UInt8 = _Anything

__all__ = ["Bool", "Float", "Int", "UInt8"]
