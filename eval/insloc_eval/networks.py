"""The networks of a run: the asked ones, and the random ones of each architecture that are judged beside."""

from collections.abc import Iterator

from insloc_hub.encoders.backbone import build_trunk
from insloc_hub.models.create import create_model
from insloc_hub.models.extractor import Extractor, find_device, load

FLOOR_SEED = 0
ORDINARY = " (ordinary norms)"  # after random:ARCH, in the records of the second random network


def load_network(spec: str, device: str, precision: str) -> Extractor:
    """The network that `spec` names, as on the command line or in a record.

    A transformer whose positions timm can interpolate takes any input size here; timm leaves that off by default. At the
    size that the weights were made for nothing changes.
    """
    if spec.endswith(ORDINARY):
        arch = spec.removeprefix("random:").removesuffix(ORDINARY)
        return Extractor(build_trunk(arch, FLOOR_SEED), f"random:{arch}", find_device(device), precision)
    first = load(spec, device, precision)
    if getattr(first.model, "dynamic_img_size", True):
        return first
    return Extractor(create_model(spec, dynamic_img_size=True), spec, first.device, precision)


def floor_networks(arch: str, device: str, precision: str) -> Iterator[tuple[str, Extractor]]:
    """The random networks of an architecture with the names of their records.

    timm's initialisation, and ordinary norms where that is another one: where there are norms that start at zero.
    """
    first = load_network(f"random:{arch}@{FLOOR_SEED}", device, precision)
    yield f"random:{arch}", first
    second = load_network(f"random:{arch}{ORDINARY}", device, precision)
    if second.sha256 != first.sha256:
        yield f"random:{arch}{ORDINARY}", second
