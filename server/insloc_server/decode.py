"""Bytes of a request's images -> pixels, one at a time, by the house's decoder under the server's limits."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from insloc_hub.data.decode import ImageLimits, decode
from insloc_hub.errors import BadImage
from insloc_server.problems import Refusal
from insloc_server.settings import Settings


def decoded(images: Sequence[bytes], settings: Settings, *, partial: bool = False) -> Iterator[Tensor | Refusal]:
    """uint8 [3 h w] of each image, decoded when it is asked for, so that one is held at a time.

    Refusal: the decoder's code, with `index`; where `partial`, it takes the image's place. All limits, also that on the sum
    of the pixels, hold from the header.
    """
    left = settings.max_request_pixels
    for index, data in enumerate(images):
        limits = ImageLimits(pixels=min(settings.max_pixels, left), side=settings.min_side, aspect=settings.max_aspect)
        try:
            pixels = decode(data, limits)
        except BadImage as error:
            refusal = _refusal(error, index, limits, settings)
            if not partial:
                raise refusal from None
            yield refusal
            continue
        left -= pixels.shape[1] * pixels.shape[2]
        yield pixels


def _refusal(error: BadImage, index: int, limits: ImageLimits, settings: Settings) -> Refusal:
    if error.code != "image_too_large":
        return Refusal(error.code, f"image {index}: {error}", index=index)
    if limits.pixels == settings.max_pixels:
        return Refusal(error.code, f"image {index}: {error}", index=index, limit=settings.max_pixels)
    most = settings.max_request_pixels
    detail = f"image {index}: with it, the images of the request have over {most:,} pixels together; send fewer at a time"
    return Refusal(error.code, detail, index=index, limit=most)
