"""Settings: the command line over the environment over the defaults; refusals in one line."""

import pytest
from pydantic import ValidationError

from insloc_hub.errors import InslocError, UnknownName
from insloc_server.settings import Settings, as_toml, from_environment, make_settings


def test_what_is_given_wins_over_the_environment_and_that_over_the_default(monkeypatch):
    monkeypatch.setenv("INSLOC_SERVER_MODEL", "random:resnet18")
    monkeypatch.setenv("INSLOC_SERVER_PORT", "9000")
    monkeypatch.setenv("INSLOC_SERVER_MAX_IMAGES", "")
    settings = make_settings(port=9001, max_boxes=5)
    assert (settings.model, settings.port, settings.max_boxes) == ("random:resnet18", 9001, 5)
    assert (settings.max_images, settings.max_body_bytes, settings.max_pixels) == (32, 16 * 1024 * 1024, 25_000_000)
    assert make_settings().port == 9000


def test_settings_can_t_be_changed(make_settings):
    settings = make_settings()
    with pytest.raises(ValidationError):
        settings.port = 1


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, r"--model is missing \(or INSLOC_SERVER_MODEL\)"),
        ({"model": "a", "port": 65536}, "--port 65536: input should be less than or equal to 65535"),
        ({"model": "a", "max_body_bytes": "many"}, "--max-body-bytes many: "),
        ({"model": "a", "precision": "fp8"}, "--precision fp8: "),
        ({"model": "a", "max_aspect": float("nan")}, "--max-aspect nan: "),
        ({"model": "a", "host": "0.0.0.0"}, "--allow-remote"),
        ({"model": "a", "host": "::"}, "--allow-remote"),
        ({"model": "a", "host": "example.org"}, "--allow-remote"),
    ],
)
def test_a_setting_that_can_t_be_is_refused_by_name_in_one_line(given, reason):
    with pytest.raises(InslocError, match=reason) as caught:
        make_settings(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_an_address_of_this_machine_needs_no_permission(host):
    assert Settings(model="a", host=host).host == host
    assert Settings(model="a", host="0.0.0.0", allow_remote=True).allow_remote


def test_a_misspelt_variable_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setenv("INSLOC_SERVER_PROT", "1")
    with pytest.raises(UnknownName, match="INSLOC_SERVER_PORT"):
        make_settings(model="a")


def test_defaults_of_the_command_line_come_from_the_environment(monkeypatch):
    assert "model" not in from_environment() and from_environment()["port"] == 8411
    monkeypatch.setenv("INSLOC_SERVER_MODEL", "random:resnet18")
    monkeypatch.setenv("INSLOC_SERVER_HOST", "0.0.0.0")  # judged only with the command line, which may allow it
    monkeypatch.setenv("INSLOC_SERVER_PORT", "9000")
    values = from_environment()
    assert (values["model"], values["host"], values["port"], values["allow_remote"]) == (
        "random:resnet18",
        "0.0.0.0",
        9000,
        False,
    )
    assert make_settings(**{**values, "allow_remote": True}).host == "0.0.0.0"
    with pytest.raises(InslocError, match="--allow-remote"):
        make_settings(**values)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "server.toml"
    path.write_text(
        'model = "random:resnet18"\nport = 9000\nmax_boxes = 7\nmax_images = 3\napi_keys = ["ann 0123456789abcdef"]\n'
    )
    return path


def test_the_environment_wins_over_the_file_and_what_is_given_over_both(monkeypatch, file):
    monkeypatch.setenv("INSLOC_SERVER_PORT", "9001")
    monkeypatch.setenv("INSLOC_SERVER_MAX_BOXES", "8")
    settings = make_settings(config=file, max_boxes=9)
    assert (settings.model, settings.port, settings.max_boxes, settings.max_images) == ("random:resnet18", 9001, 9, 3)
    assert from_environment(file)["max_boxes"] == 8
    monkeypatch.setenv("INSLOC_SERVER_CONFIG", str(file))
    assert make_settings().max_images == 3 and from_environment()["model"] == "random:resnet18"
    assert make_settings().api_keys.get_secret_value() == "ann 0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ("port = ", "Invalid value"),
        ("prot = 1", "'port'"),
        ('config = "other.toml"', "unknown setting"),
        ("port = 99999", "--port 99999"),
        ("port = [1]", "--port"),
    ],
)
def test_a_file_that_can_t_be_is_refused_in_one_line(tmp_path, text, reason):
    path = tmp_path / "server.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InslocError, match=reason) as caught:
        make_settings(model="a", config=path)
    assert "\n" not in str(caught.value)


def test_printed_settings_are_a_file_that_gives_them_again_without_the_secrets(tmp_path, file):
    odd = 'a "quoted"\\path \u00e9 \U0001f600\t'
    settings = make_settings(config=file, model=odd, allow_remote=True, api_keys_file="k", max_aspect=12.5)
    text = as_toml(settings)
    assert "0123456789abcdef" not in text and "# api_keys: set, hidden" in text
    again = tmp_path / "again.toml"
    again.write_text(text, encoding="utf-8")
    same = make_settings(config=again)
    dropped = {"config", "api_keys"}
    assert same.model_dump(exclude=dropped) == settings.model_dump(exclude=dropped) and same.model == odd
