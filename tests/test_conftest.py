"""What conftest.py promises to every test: shapes are checked, the network and the home folder are out of reach."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from insloc_hub.demo.outlines import circle
from insloc_hub.demo.world import CLASSES, Picture, draw
from insloc_hub.files import home

FIELD = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize("wrong", [np.zeros((2, 4), np.float32), np.zeros((2, 3), np.uint8), np.zeros(3, np.float32)])
def test_a_wrong_shape_or_dtype_fails(wrong: np.ndarray) -> None:
    with pytest.raises(TypeCheckError):
        circle(FIELD, wrong)


def test_a_wrong_array_in_a_frozen_record_with_slots_fails() -> None:
    right = draw(0, 0, 40)
    fields = {name: getattr(right, name) for name in Picture.__slots__}
    assert Picture(**fields).label == 0
    with pytest.raises(TypeCheckError):
        Picture(**{**fields, "boxes": right.boxes[:, :3]})
    with pytest.raises(TypeCheckError):
        Picture(**{**fields, "pixels": right.pixels.astype(np.float32)})


def test_an_int_is_a_float_as_for_the_type_checker() -> None:
    assert circle(FIELD, FIELD, at=(3, 4), radius=5).tolist() == np.zeros((2, 3)).tolist()


def test_the_hub_is_offline_and_nothing_of_ours_is_in_the_home_folder() -> None:
    from huggingface_hub import constants

    temporary = Path(tempfile.gettempdir()).resolve()
    assert constants.HF_HUB_OFFLINE
    for folder in (home(), Path(constants.HF_HUB_CACHE), Path(os.environ["TORCH_HOME"])):
        assert folder.resolve().is_relative_to(temporary)


def test_torch_uses_at_most_two_threads() -> None:
    import torch

    assert torch.get_num_threads() <= 2


def test_the_world_has_every_class_in_both_splits(world: Path) -> None:
    for split in ("train", "val"):
        assert sorted(folder.name for folder in (world / split).iterdir()) == list(CLASSES)
        assert (world / "annotations" / f"instances_{split}.json").is_file()


def test_the_shared_data_are_the_named_folder_or_a_visible_skip(request: pytest.FixtureRequest) -> None:
    if "INSLOC_DATA" in os.environ:
        assert request.getfixturevalue("insloc_data") == Path(os.environ["INSLOC_DATA"])
    else:
        with pytest.raises(pytest.skip.Exception, match="set INSLOC_DATA"):
            request.getfixturevalue("insloc_data")
