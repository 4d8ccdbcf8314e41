"""The size of an answer, judged from the shapes alone."""

import pytest

from insloc_server.answers import SAFETENSORS
from insloc_server.outputs import OUTPUTS, Sizes, check_answer
from insloc_server.problems import Refusal


def test_the_size_of_an_answer_counts_all_images_and_outputs():
    sizes = [Sizes(pooled=10, channels=3, cells=4, boxes=2), Sizes(pooled=10, channels=3, cells=9, boxes=0)]
    floats = (10 + 12 + 6) + (10 + 27 + 0)
    check_answer(list(OUTPUTS), sizes, 4, 4 * floats)
    with pytest.raises(Refusal) as caught:
        check_answer(list(OUTPUTS), sizes, 4, 4 * floats - 1)
    assert (caught.value.code, caught.value.facts["limit"]) == ("answer_too_large", 4 * floats - 1)


def test_a_map_too_large_as_lists_fits_as_tensors(client, png, post_raw):
    from insloc_server.settings import MIB

    assert client.app.state.settings.max_answer_bytes == 64 * MIB
    ask = {"outputs": "map", "transform": "whole:500", "stride": 2}  # 64 x 256 x 336 floats
    lists = post_raw(client, png, **ask)
    assert (lists.status_code, lists.json()["code"]) == (422, "answer_too_large") and SAFETENSORS in lists.json()["detail"]
    tensors = post_raw(client, png, accept=SAFETENSORS, **ask)
    assert tensors.status_code == 200 and len(tensors.content) > 64 * 256 * 336 * 4
