"""What the mirror says of a model: any card is somebody's text, and none may keep the model from being had."""

import pytest
from mirrors import ask

from insloc_hub.models.repos import Repos
from insloc_server.mirror import create_mirror
from insloc_server.mirror_answers import bounded_json, card_tags


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# no front matter",
        "---\na: [\n---\n",
        "---\n- a list\n---\n",
        "---\nscore: .nan\n---\n",
        "---\ntags: 3\nlicense: {a: b}\ndatasets: [1, null]\n---\n",
        "---\na: &a [1]\nb: &b [*a, *a]\n" + "".join(f"c{i}: &c{i} [{'*b, ' * 9}]\n" for i in range(2)) + "---\n",
        "---\na: &a {a: *a}\n---\n",
        "---\na0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)) + "---\n",
        "---\ndate: 2026-01-01\n---\n",
        "\x00\xff",
    ],
)
def test_any_card_leaves_the_model_to_be_had(tmp_path, card):
    (tmp_path / "lab/tiny").mkdir(parents=True)
    (tmp_path / "lab/tiny/README.md").write_text(card, encoding="utf-8")
    app = create_mirror(Repos(tmp_path))
    got = ask(app, "/api/models/lab/tiny")
    assert got.status == 200 and got.json()["id"] == "lab/tiny" and len(got.body) < 10_000
    assert ask(app, "/api/models", query=b"cardData=true&filter=none").json() == []


def test_tags_are_the_card_s_own_and_what_its_fields_mean_each_once():
    card = {"tags": ["insloc", "timm"], "library_name": "timm", "license": "mit", "datasets": ["a", "b"], "pipeline_tag": "x"}
    assert card_tags(card) == ["insloc", "timm", "x", "dataset:a", "dataset:b", "license:mit"]
    assert card_tags({}) == card_tags({"tags": 3, "datasets": [1, None], "license": {"a": "b"}}) == []


def test_json_of_a_card_is_given_up_before_it_fills_the_memory():
    bomb: list[object] = ["lol"]
    for _ in range(12):
        bomb = [bomb] * 10
    with pytest.raises(ValueError, match="when written out"):
        bounded_json(bomb)
