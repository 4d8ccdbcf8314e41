"""What computes a forward gives the plain model's numbers, or is not used; region features equal torchvision's."""

import importlib.util

import pytest
import torch
from PIL import Image
from torchvision.ops import roi_align

from insloc_hub import create_model, load
from insloc_hub.data.decode import decode
from insloc_hub.errors import InslocError
from insloc_server import engines
from insloc_server.engine import Engine
from insloc_server.engines import make_forwarder
from insloc_server.facts import identity, spaces

ONNX = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in engines.EXTRA), reason="the extra onnx is not installed"
)
ALL = ("pooled", "map", "regions")


@pytest.fixture(scope="module")
def forwarders(extractor):
    made = {}

    def forwarder(name):
        if name not in made:
            made[name] = make_forwarder(extractor, name)
        return made[name]

    return forwarder


@pytest.fixture
def start(extractor, make_settings, forwarders):
    running = []

    def start(name):
        engine = Engine(extractor, make_settings(engine=name), forwarders(name))
        engine.start()
        running.append(engine)
        return engine

    yield start
    for engine in running:
        engine.close()


def test_auto_is_the_fused_graph_on_a_cpu_and_the_plain_model_elsewhere(forwarders, extractor):
    assert forwarders("auto").name == "fused" and forwarders("eager").name == "eager"
    assert make_forwarder(load("random:resnet18@1", "cpu", "bf16"), "auto").name == "eager"


@pytest.mark.parametrize("name", ["fused", pytest.param("onnx", marks=ONNX)])
@pytest.mark.parametrize(("batch", "h", "w"), [(1, 224, 224), (3, 64, 160), (5, 96, 32)])
def test_an_engine_gives_the_plain_model_s_maps_and_vectors_for_any_batch_and_size(forwarders, extractor, name, batch, h, w):
    images = torch.randn(batch, 3, h, w, generator=torch.Generator().manual_seed(3))
    got = forwarders(name).forward(images, [8, 32], True)
    wanted = extractor.forward(images, [8, 32], True)
    assert got.maps.keys() == {8, 32} and forwarders(name).forward(images, [16], False).pooled is None
    for one, other in [(got.pooled, wanted.pooled), *((got.maps[s], wanted.maps[s]) for s in (8, 32))]:
        assert one.shape == other.shape and one.dtype == torch.float32
        assert float((one - other).abs().max()) <= 1e-5 * float(other.abs().max())


def test_what_cannot_be_traced_is_refused_by_name_and_left_by_auto(monkeypatch):
    extractor = load("random:resnet18@1", "cpu")
    extractor.model.layer4.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("no graph")))
    with pytest.raises(InslocError, match="can't take resnet18"):
        make_forwarder(extractor, "fused")
    assert make_forwarder(extractor, "auto").name == "eager"


@pytest.mark.parametrize("wrong", ["pooled", "map", "not finite", "shape"])
def test_an_engine_that_computes_something_else_is_refused(extractor, monkeypatch, wrong):
    everything = engines.Everything(extractor).eval()

    def run(images):
        *maps, vectors = everything(images)
        if wrong == "pooled":
            vectors = vectors + 0.01 * vectors.std() * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1))
        elif wrong == "map":
            maps[2] = maps[2].roll(1, dims=3)
        elif wrong == "not finite":
            vectors = vectors * torch.nan
        else:
            maps[0] = maps[0][:, :, :-1]
        return [*maps, vectors]

    monkeypatch.setattr(engines, "fused", lambda extractor: run)
    with pytest.raises(InslocError, match=r"--engine fused: it .*; say --engine eager"):
        make_forwarder(extractor, "fused")


def test_what_an_engine_can_t_do_is_said_before_anything_is_built():
    with pytest.raises(InslocError, match="fp32 on the CPU, not bf16 on cpu"):
        make_forwarder(load("random:resnet18@1", "cpu", "bf16"), "fused")


def test_onnx_without_its_extra_says_how_to_get_it(extractor, monkeypatch):
    monkeypatch.setattr(engines, "EXTRA", ("onnx", "no_such_module"))
    with pytest.raises(InslocError, match=r"no_such_module is not installed: pip install 'insloc_hub\[onnx\]'"):
        make_forwarder(extractor, "onnx")


def rotated(picture, packed):
    exif = Image.Exif()
    exif[0x0112] = 6
    return packed(picture.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


@pytest.mark.parametrize("name", ["eager", "fused", pytest.param("onnx", marks=ONNX)])
@pytest.mark.parametrize("kind", ["wide", "exif", "tiny", "tall"])
@pytest.mark.parametrize("transform", ["whole", "whole:96"])
def test_region_features_are_torchvision_s_means_on_the_plain_timm_map(start, picture, packed, name, kind, transform):
    data = {
        "wide": lambda: packed(picture),
        "exif": lambda: rotated(picture, packed),
        "tiny": lambda: packed(picture.resize((9, 8))),
        "tall": lambda: packed(picture.resize((31, 140))),
    }[kind]()
    engine = start(name)
    pixels = decode(data)
    h, w = pixels.shape[1:]
    boxes = [[0, 0, w, h], [w * 0.2, h * 0.1, w * 0.7, h * 0.9], [-5, h / 2, w / 3, 2 * h], [w - 1.5, h - 1.5, w, h]]
    want = engine.want(["regions"], transform, None, True)
    got = engine.submit([pixels], [boxes], want).result(60).tensors[0]["regions"]

    model = create_model("random:resnet18@1", features_only=True, out_indices=[3])
    given, affine = engine.extractor.prepare(pixels, engine.extractor.transform(transform))
    with torch.no_grad():
        (plain,) = model(given[None])
    limit = torch.tensor([w, h, w, h], dtype=torch.float32)
    upright = torch.tensor(boxes, dtype=torch.float32).clamp(min=0).minimum(limit)
    wanted = roi_align(plain, [affine.boxes(upright)], 7, 1 / 16, 0, True).mean((2, 3))
    bound = 1e-5 if name == "eager" else 1e-4 * float(wanted.abs().max())
    assert float((got - wanted).abs().max()) <= bound


def test_a_deterministic_answer_is_the_library_s_whatever_the_engine(start, extractor):
    engine = start("fused")
    image = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = extractor([image], boxes=[[[1, 2, 30, 30]]], outputs=ALL, transform="whole:32")
    for deterministic in (True, False):
        want = engine.want(ALL, "whole:32", None, True, deterministic=deterministic)
        (got,) = engine.submit([image], [[[1, 2, 30, 30]]], want).result(60).tensors
        assert torch.equal(got["pooled"], wanted.pooled[0]) or not deterministic
        assert torch.equal(got["map"], wanted.map[0]) or not deterministic
        cosine = torch.nn.functional.cosine_similarity(got["map"].flatten(), wanted.map[0].flatten(), dim=0)
        assert float(cosine) > 0.99999


def test_the_answer_names_the_engine_but_the_space_is_the_same(start):
    eager, fused = start("eager"), start("fused")
    assert (identity(eager)["engine"], identity(fused)["engine"]) == ("eager", "fused")
    want = eager.want(ALL, None, None, True)
    assert spaces(eager, want) == spaces(fused, want)
