"""What every test stands on: checked shapes, no network, no home folder, and the procedural world.

The hook must be installed, and the environment set, before anything of ours or huggingface_hub is imported: hence at
import of this file, which pytest reads before any test.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# From here on every annotated array is checked, shape and dtype, at each call in the tests; no module is exempt.
# The tower: an int where a float is announced is right, as for mypy. jaxtyping evaluates the text after `import beartype`.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["insloc_hub", "insloc_eval", "insloc_server"], CHECKER)

_HOME = Path(tempfile.mkdtemp(prefix="insloc-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HOME=str(_HOME / "huggingface"),
    TORCH_HOME=str(_HOME / "torch"),
    INSLOC_HOME=str(_HOME / "insloc"),
    OMP_NUM_THREADS="2",  # torch reads it when it is imported, and so do the processes that tests start
    MKL_NUM_THREADS="2",
)
for name in [name for name in os.environ if name.startswith("INSLOC_SERVER_")]:
    del os.environ[name]  # the developer's own server settings
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "HF_HUB_CACHE", "HF_TOKEN"):
    os.environ.pop(name, None)

# A shell that starts the tests in the background has Ctrl-C ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

WORLD_TRAIN_PER_CLASS = 6
WORLD_VAL_PER_CLASS = 3


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train/, val/ (12 classes x 6 and x 3 images of 60-107 px) and annotations/; read it, don't write."""
    from insloc_hub.demo.world import write

    folder = tmp_path_factory.mktemp("world")
    write(folder, seed=0, train_per_class=WORLD_TRAIN_PER_CLASS, val_per_class=WORLD_VAL_PER_CLASS, size=80)
    return folder


@pytest.fixture(scope="session")
def insloc_data() -> Path:
    """The folder of the big shared data sets, named by the environment variable INSLOC_DATA."""
    name = os.environ.get("INSLOC_DATA")
    if not name:
        pytest.skip("needs the shared data sets: set INSLOC_DATA to their folder")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"INSLOC_DATA={name} is no folder")
    return folder


@pytest.fixture(scope="session")
def exported_run(world, tmp_path_factory):
    """A resnet18 run of one step on a 64 px canvas with its model/; read it, don't write."""
    from insloc_hub.pretrain.options import RunOptions, resolve_recipe
    from insloc_hub.pretrain.run import pretrain
    from insloc_hub.release.export import export_run

    run = tmp_path_factory.mktemp("exported") / "run"
    recipe = resolve_recipe("insloc_c4_small", batch=8, canvas=64, changes={"queue": 16})
    pretrain(recipe, RunOptions(data=world / "train", run=run, steps=1))
    export_run(run)
    return run
