"""Bodies of requests and answers, as pydantic models; FastAPI publishes them at /openapi.json.

Boxes are only shaped here (`Any` with a schema): each is judged in regions.py, where a bad one gets its index.
"""

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from insloc_server.problems import Refusal, bad_fields

M = TypeVar("M", bound=BaseModel)
BOX = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
BOXES_TEXT = "Rows of x1, y1, x2, y2: edge coordinates in pixels of the upright image (EXIF orientation applied)."

TINY = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEX6tBQePKCYz7nBAAAAJklEQVR42mNgQAV8DCyGjkwM"
    "DEwODkwMDEwMDMwMjEwMDAx8UHkAG8cBIXt9Ba4AAAAASUVORK5CYII="
)
"""A picture of 16 x 16 pixels, for examples."""

INLINE_TEXT = "Each image as base64 or as a data URI (data:image/png;base64,...). URLs are never fetched."


def split_commas(value: object) -> object:
    """`outputs=pooled,map` in a query means what `outputs=pooled&outputs=map` means."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [part.strip() for one in value for part in one.split(",")]
    return value


OutputName = Literal["pooled", "map", "regions"]
Outputs = Annotated[
    list[OutputName] | None,
    Field(min_length=1, max_length=3, description="What to answer; by default pooled, and regions if there are boxes."),
]
Transform = Annotated[
    str | None,
    Field(max_length=20, description="eval, whole or whole:N; by default eval for pooled alone, else whole."),
]
Stride = Annotated[
    int | None, Field(ge=1, le=64, description="Of the map, and of the one the boxes pool; by default 16 if there is one.")
]
Encoding = Annotated[Literal["float", "base64"], Field(description="Of numbers in JSON: lists, or base64 of float32.")]
Spaces = Annotated[
    list[Annotated[str, Field(max_length=100)]] | None,
    Field(max_length=3, description="Embedding spaces that the client expects; 409 where one is not the answer's."),
]
OnError = Annotated[
    Literal["fail", "partial"],
    Field(description="What an image that can't be read or computed does: fail the request, or put its error in its place."),
]
Deterministic = Annotated[
    bool, Field(description="Each image alone, through the plain model: bit for bit the library's numbers; slower.")
]
ModelName = Annotated[str | None, Field(max_length=300, description="Id of the model; by default the one that is served.")]


class FeaturesRequest(BaseModel):
    """The part `request` of a multipart request; all of it is optional."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"outputs": ["pooled", "regions"], "boxes": [[[10, 12, 60, 48], [0, 0, 32, 32]]]}]},
    )

    outputs: Outputs = None
    transform: Transform = None
    stride: Annotated[Stride, Field(strict=True)] = None
    boxes: Annotated[
        Any,
        WithJsonSchema({"type": "array", "items": {"type": "array", "items": BOX}, "nullable": True}),
        Field(description=f"One list per image, in the order of the images. {BOXES_TEXT}"),
    ] = None
    encoding: Encoding = "float"
    model: ModelName = None
    expect_space: Spaces = None
    on_error: OnError = "fail"
    deterministic: Annotated[Deterministic, Field(strict=True)] = False


class RawQuery(BaseModel):
    """The query of a request whose body is one image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outputs: Annotated[Outputs, BeforeValidator(split_commas)] = None
    transform: Transform = None
    stride: Stride = None
    boxes: Annotated[str | None, Field(description=f"JSON text. {BOXES_TEXT}", examples=["[[10,12,60,48]]"])] = None
    encoding: Encoding = "float"
    model: ModelName = None
    expect_space: Annotated[Spaces, BeforeValidator(split_commas)] = None
    on_error: OnError = "fail"
    deterministic: Deterministic = False


class JsonRequest(FeaturesRequest):
    """A request that is JSON as a whole."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [TINY], "transform": "whole:64"}]})

    images: Annotated[list[str], Field(min_length=1, description=INLINE_TEXT)]


class ImageObject(BaseModel):
    """An image as an object."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str


IMAGE_OBJECT = {"type": "object", "properties": {"image": {"type": "string"}}, "required": ["image"]}
Input = str | Annotated[ImageObject, WithJsonSchema(IMAGE_OBJECT | {"additionalProperties": False})]


class EmbeddingsRequest(BaseModel):
    """The subset of a widespread request that makes sense for images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Annotated[
        Input | Annotated[list[Input], Field(min_length=1)], Field(description=f"One image or several. {INLINE_TEXT}")
    ]
    model: ModelName = None
    encoding_format: Annotated[
        Literal["float", "base64"], Field(description="Lists, or base64 of float32, little end first.")
    ] = "float"
    dimensions: Annotated[None, Field(description="Refused: a vector has the length that its model gives.")] = None
    modality: Annotated[Literal["image"], Field(description="What is sent, for clients that say it.")] = "image"
    user: Annotated[str | None, Field(max_length=300, description="Ignored.")] = None


class Embedding(BaseModel):
    """The pooled vector of an image."""

    object: Literal["embedding"]
    index: Annotated[int, Field(description="Position of its image in the input")]
    embedding: list[float] | str


class Usage(BaseModel):
    """There are no tokens here."""

    prompt_tokens: Literal[0]
    total_tokens: Literal[0]


class EmbeddingsAnswer(BaseModel):
    """Pooled vectors, of the transform `eval`."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    space: Annotated[str, Field(description="Id of the embedding space: compare vectors of equal ids only")]


class Base64Array(BaseModel):
    """A tensor in JSON with encoding=base64."""

    dtype: Literal["float32"]
    shape: list[int]
    data: Annotated[str, Field(description="base64 of the numbers, row by row, little end first")]


class ImageError(BaseModel):
    """Why an image has no features, in an answer that takes what there is."""

    code: str
    detail: str


class ImageFeatures(BaseModel):
    """What one image gave; outputs that were not asked are absent. An image that could not be read has its error alone."""

    width: Annotated[int | None, Field(description="Pixels of the upright image")] = None
    height: int | None = None
    error: ImageError | None = None
    boxes: Annotated[list[list[float]] | None, Field(description="The boxes as used: clipped to the image")] = None
    clipped: Annotated[list[bool] | None, Field(description="Per box: whether it stuck out of the image")] = None
    pooled: list[float] | Base64Array | None = None
    map: Annotated[list[list[list[float]]] | Base64Array | None, Field(description="Channels, rows, columns")] = None
    regions: Annotated[list[list[float]] | Base64Array | None, Field(description="A row per box")] = None


class ModelIdentity(BaseModel):
    """Who computed an answer."""

    id: Annotated[str, Field(description="Name of the model on this server")]
    spec: Annotated[str, Field(description="As the server was started with")]
    arch: Annotated[str, Field(description="timm's name of the architecture")]
    sha256: Annotated[str, Field(description="Digest of the weights")]
    engine: Annotated[
        Literal["eager", "fused", "onnx"],
        Field(description="What computes; vectors of one space may be compared whatever it is"),
    ]
    precision: Literal["fp32", "bf16"]


class FeaturesAnswer(BaseModel):
    """The JSON answer, and (without the tensors) the head in the metadata of a safetensors one."""

    model: ModelIdentity
    transform: Annotated[str, Field(description="What made the network input")]
    stride: Annotated[int | None, Field(description="Of map and regions; null where neither is asked")]
    spaces: Annotated[
        dict[OutputName, str], Field(description="Id of each output's embedding space: compare vectors of equal ids only")
    ]
    images: list[ImageFeatures]


class ModelFacts(ModelIdentity):
    """An entry of /v1/models."""

    input_size: Annotated[list[int], Field(description="Height and width the weights were made for")]
    pooled: Annotated[int, Field(description="Length of a pooled vector")]
    strides: Annotated[dict[str, int], Field(description="Stride of each map -> its channels")]
    default_stride: int
    outputs: list[OutputName]
    state: Literal["ready"]


class ModelWaiting(BaseModel):
    """An entry of /v1/models that can't compute yet."""

    id: str
    spec: str
    state: Annotated[
        Literal["cold", "loading", "failed"], Field(description="cold and failed: loaded when it is next asked for features")
    ]


class ModelList(BaseModel):
    """Answer of /v1/models."""

    models: list[ModelFacts | ModelWaiting]


class SelfTest(BaseModel):
    """Answer of /v1/models/{name}/selftest."""

    model: str
    ok: Annotated[bool, Field(description="Both cosines are at least `threshold`")]
    cosine: Annotated[float, Field(description="Of the served vector and the one stored when the model was loaded")]
    cosine_plain: Annotated[float, Field(description="Of the served vector and the plain model's")]
    threshold: float
    space: Annotated[str, Field(description="Id of the embedding space")]
    vector: Annotated[Base64Array, Field(description="The served vector, to compare with another server's")]


class Health(BaseModel):
    """Answer of /livez, /startupz and /readyz."""

    status: Literal["ok"]


class V2Server(BaseModel):
    """Answer of /v2."""

    name: str
    version: str
    extensions: list[str]


class V2Live(BaseModel):
    """Answer of /v2/health/live."""

    live: Literal[True]


class V2Ready(BaseModel):
    """Answer of /v2/health/ready."""

    ready: Literal[True]


class V2ModelReady(V2Ready):
    """Answer of /v2/models/{name}/ready."""

    name: str


class V2Tensor(BaseModel):
    """A tensor that goes in or comes out."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: Annotated[list[int], Field(description="-1 where a length varies")]


class V2Model(BaseModel):
    """Answer of /v2/models/{name}."""

    name: str
    versions: Annotated[list[str], Field(description="Digest of the weights")]
    platform: str
    inputs: list[V2Tensor]
    outputs: list[V2Tensor]


class ProblemBody(BaseModel):
    """RFC 9457, with a stable `code`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: Annotated[str, Field(description="Id of the request, also in X-Request-Id")]
    code: str
    index: Annotated[int | None, Field(description="Position of the image; for bad_box of the box")] = None
    image: Annotated[int | None, Field(description="For bad_box: position of its image")] = None
    limit: float | None = None


def read_json(text: str | bytes) -> Any:
    """Any JSON. NaN and Infinity pass: whoever reads the number must judge it. Refusal: bad_json."""
    try:
        return json.loads(text)
    except RecursionError:
        raise Refusal("bad_json", "the JSON is nested too deep") from None
    except ValueError as error:  # also bytes that are no UTF-8, and whole numbers of thousands of digits
        raise Refusal("bad_json", f"the JSON can't be read: {str(error)[:200]}") from None


def from_part(part: bytes | None) -> FeaturesRequest:
    """What the part `request` asks. Refusal: bad_json, bad_request."""
    return FeaturesRequest() if part is None else read_as(FeaturesRequest, part)


def read_as(model: type[M], text: str | bytes) -> M:
    """JSON text as `model`. Refusal: bad_json, bad_request."""
    try:
        return model.model_validate(read_json(text))
    except ValidationError as error:
        raise bad_fields(list(error.errors(include_url=False, include_input=False))) from None


def from_query(query: RawQuery) -> FeaturesRequest:
    """What a query asks of the one image in the body. Refusal: bad_json."""
    boxes = None if query.boxes is None else [read_json(query.boxes)]
    return FeaturesRequest(**query.model_dump(exclude={"boxes"}), boxes=boxes)
