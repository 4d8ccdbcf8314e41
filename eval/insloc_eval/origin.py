"""Where weights come from, as far as their name or their folder says: the seed of their run, and its recipe."""

from dataclasses import dataclass

from insloc_hub.files import digest
from insloc_hub.models.create import folder_of
from insloc_hub.models.spec import parse_spec
from insloc_hub.models.zoo import read_config


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a record says of a model's pretraining."""

    seed: int | None = None
    """None where it is not known (a stranger's weights)."""
    recipe: str = ""
    """16 hex digits of all settings but the seed: models with the same are seeds of one arm. Empty: not known."""


def origin(spec: str) -> Origin:
    """Of a random model its own seed; of a folder or card of ours what its config.json has under insloc -> recipe. BadSpec.

    >>> origin("random:resnet18@3").seed
    3
    """
    parsed = parse_spec(spec)
    if parsed.kind == "random":
        return Origin(seed=parsed.seed, recipe=digest(["random", parsed.name])[:16])
    folder = folder_of(parsed)
    if folder is None:
        return Origin()
    ours = read_config(folder).get("insloc")
    recipe = ours.get("recipe") if isinstance(ours, dict) else None
    if not isinstance(recipe, dict):
        return Origin()
    seed = recipe.get("seed")
    same = {key: value for key, value in recipe.items() if key != "seed"}
    return Origin(seed=seed if type(seed) is int else None, recipe=digest(same)[:16])
