"""A data set of images that are in memory already."""

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from insloc_hub.data.cache import Pixels
from insloc_hub.data.folder import ImageSet, Sample


@pytest.fixture(scope="session")
def held() -> Callable[[list[Tensor]], Pixels]:
    """The set of these images, in their order."""

    def pixels(images: list[Tensor]) -> Pixels:
        samples = tuple(Sample(f"{index:04d}", Path(f"{index:04d}")) for index in range(len(images)))
        return Pixels(ImageSet(root=Path("held"), samples=samples), 1000, dict(enumerate(images)), {})

    return pixels
