"""docs/serve.md: its curl commands run as they stand, its tables are the code's."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from insloc_server.problems import CODES
from insloc_server.serve import running
from insloc_server.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S)
CURLS = [block.replace("\\\n", " ") for block in BLOCKS if "curl " in block]


@pytest.fixture(scope="module")
def place(tmp_path_factory, extractor, make_settings, picture):
    """A running server and a folder with photo.jpg."""
    folder = tmp_path_factory.mktemp("page")
    picture.save(folder / "photo.jpg")
    with running(make_settings(), extractor) as url:
        yield folder, url


def test_the_page_shows_how_to_ask():
    assert len(CURLS) == 6


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("block", CURLS)
def test_a_curl_command_of_the_page_is_answered(place, block):
    folder, url = place
    block = block.replace("http://127.0.0.1:8411", url)
    done = subprocess.run(["sh", "-ec", block], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    if "features.safetensors" in block:
        assert load_file(folder / "features.safetensors").keys() == {"pooled.0", "map.0"}
    elif "vector.npy" in block:
        assert np.load(folder / "vector.npy").shape == (512,)
    elif "/v1/embeddings" in block:
        assert '"embedding":' in done.stdout
    else:
        assert done.stdout.count('"pooled":[') == block.count("curl ") * (1 + (block.count("image=") > 1))
        assert ('"regions":' in done.stdout) == ("boxes" in block)


def test_the_table_of_errors_is_the_table_of_the_code():
    section = PAGE.split("## Errors")[1].split("## Watch")[0]
    rows = [row.split("|")[1:3] for row in section.splitlines() if re.match(r"\| \d", row)]
    shown = {code: statuses for statuses, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert shown.keys() == CODES.keys()
    assert all(str(CODES[code][0]) in statuses for code, statuses in shown.items())


def test_the_options_of_the_page_exist_and_its_limits_are_the_defaults():
    section = PAGE.split("## Limits")[1].split("## Errors")[0]
    names = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)`", section)}
    assert names <= Settings.model_fields.keys() and len(names) == 22
    found = [float(n.replace(",", "")) for n in re.findall(r"(?<![\w-])(\d[\d,]*)(?= |;|,|$)", section)]
    scales = {1, 1024, 1024 * 1024, 1_000_000}
    for name in names:
        value = Settings.model_fields[name].default
        assert any(value == number * scale for number in found for scale in scales), name
