"""The catalogue: valid registries, precedence between them, and how names are resolved to entries."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import zoo
from zoo.catalog import registry
from zoo.cli import plugin_status
from zoo.errors import AdapterError, CheckpointError, PluginError, RegistryError, UnknownNameError
from zoo.loading.resolve import resolve

PLUGIN = """
    import zoo

    @zoo.hookimpl
    def recognises(config):
        return config.get("model_type") in {kinds!r}

    @zoo.hookimpl
    def construct(entry): ...
"""
GOOD = {"plugin": '"mine"', "summary": '"a model"', "license": '"MIT"'}


def table(name: str = "mine", **keys: str | None) -> str:
    lines = {**GOOD, **keys}
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


def install(site, name: str, text: str | None = None, kinds: tuple[str, ...] = (), **files: str) -> None:
    """Install a plugin package `pkg_<name>` with that registry.toml."""
    pages = {f"pkg_{name}/__init__.py": PLUGIN.format(kinds=kinds or (name,))}
    if text is not None:
        pages[f"pkg_{name}/registry.toml"] = text
    site.install(f"dist-{name}", {name: f"pkg_{name}"}, pages | files)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "registry.toml"
    path.write_text(text)
    return path


# The file


def test_every_field_of_an_entry(tmp_path):
    text = table(
        weights='"owner/repo"',
        revision='"abc"',
        targets='["q", "v"]',
        keep='["norm"]',
    )
    text += "[mine.config]\nwidth = 3\n[mine.demo]\nsteps = 4\n" + table("other", targets='"all"', weights='"embedded"')
    mine, other = registry.read(write(tmp_path, text))
    assert mine == zoo.Entry(
        name="mine",
        plugin="mine",
        weights="owner/repo",
        revision="abc",
        license="MIT",
        summary="a model",
        config={"width": 3},
        targets=("q", "v"),
        keep=("norm",),
        demo={"steps": 4},
    )
    assert (other.targets, other.keep, other.config, other.folder) == ("all", (), {}, None)


FAULTS = {
    "unknown key": (table(licence='"MIT"', license=None), r"\[mine\] licence: unknown key. Did you mean 'license'\?"),
    "missing field": (table(summary=None), r"\[mine\] summary: missing"),
    "wrong type": (table(plugin="3"), r"\[mine\] plugin: expected a string, got 3"),
    "empty": (table(plugin='""'), r"\[mine\] plugin: expected a string, got ''"),
    "list of numbers": (table(keep="[1]"), r"\[mine\] keep: expected a list of strings, got \[1\]"),
    "targets string": (table(targets='"q"'), r'\[mine\] targets: expected a list of strings, or "all", got \'q\''),
    "targets empty": (table(targets="[]"), r"\[mine\] targets: expected"),
    "config no table": (table(config='"x"'), r"\[mine\] config: expected a table"),
    "no repository": (table(weights='"gpt2"'), r"\[mine\] weights: expected"),
    "embedded revision": (table(weights='"embedded"', revision='"x"'), r"\[mine\] revision: only weights in a Hub"),
    "duplicate": (table() + table(), "mine"),
    "no table": ('mine = "x"', r"\[mine\]: expected a table"),
    "slash in a name": (table('"a/b"'), r"\[a/b\]: expected a name"),
    "no TOML": ("[mine", "registry.toml: "),
    "no text": ("\udcff", "registry.toml: "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_with_file_and_key(tmp_path, fault):
    text, message = FAULTS[fault]
    path = tmp_path / "registry.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RegistryError, match=message) as caught:
        registry.read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_zoos_own_registry_is_valid_and_its_plugins_are_installed():
    from zoo.catalog import discovery

    names = {entry.name for entry in registry.entries()}
    assert {"ddpm", "gpt", "ddpm-cifar10", "gpt2"} <= names
    assert {entry.plugin for entry in registry.entries()} <= set(discovery.claims())
    assert [entry.name for entry in registry.entries()] == sorted(names)


# Plugins' own files


def test_a_plugins_registry_is_read_without_importing_it(site):
    install(site, "mine", table() + table("mine-big"))
    assert registry.find("mine-big").plugin == "mine"
    assert "pkg_mine" not in sys.modules


@pytest.mark.parametrize("fault", ["unknown key", "duplicate", "no TOML"])
def test_a_faulty_registry_is_left_out_and_named(site, fault):
    install(site, "mine", FAULTS[fault][0])
    install(site, "fine", table("fine", plugin='"fine"'))
    assert registry.find("fine").plugin == "fine"
    assert registry.find("ddpm").plugin == "ddpm"
    assert any("pkg_mine" in problem for problem in registry.problems())
    assert any("pkg_mine" in problem for problem in plugin_status.faults())
    with pytest.raises((RegistryError, UnknownNameError), match="pkg_mine"):
        registry.find("mine")


def test_strict_raises_for_a_faulty_registry(site, monkeypatch):
    install(site, "mine", "[mine")
    monkeypatch.setenv("ZOO_STRICT", "1")
    with pytest.raises(RegistryError, match="pkg_mine"):
        registry.entries()


def test_zoos_own_name_is_not_taken_over(site):
    own = registry.find("ddpm")
    install(site, "mine", table("ddpm", summary='"another"'))
    assert registry.find("ddpm") == own
    assert any(r"[ddpm] is defined in" in problem for problem in registry.problems())


def test_a_name_that_two_plugins_define_is_an_error_naming_both_files(site):
    install(site, "one", table("same"))
    install(site, "two", table("same"))
    with pytest.raises(RegistryError, match=r"pkg_two.*\[same\] is defined in .*pkg_one"):
        registry.find("same")
    assert "same" not in {entry.name for entry in registry.entries()}


# Names


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    with pytest.raises(
        UnknownNameError, match=r"no model 'ddpm-cifr10' in the registry. Did you mean 'ddpm-cifar10'\?"
    ):
        registry.find("ddpm-cifr10")


def test_a_plugin_without_an_entry_of_its_name_says_what_to_load(site):
    install(site, "mine", table("mine-big"))
    with pytest.raises(UnknownNameError, match="plugin without a registry entry of its own name: load one of mine-big"):
        resolve("mine")


def test_embedded_weights_lie_in_the_plugins_package(site):
    install(site, "mine", table(weights='"embedded"'), **{"pkg_mine/embedded/config.json": '{"width": 5}'})
    entry = resolve("mine")
    assert entry.folder == site.folder / "pkg_mine" / "embedded"
    assert entry.config == {"width": 5}
    assert "pkg_mine" not in sys.modules


def test_missing_embedded_weights_are_an_error_that_names_the_distribution(site):
    install(site, "mine", table(weights='"embedded"'))
    with pytest.raises(CheckpointError, match=r"pkg_mine/embedded, which dist-mine 1\.0 does not hold"):
        resolve("mine")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Answer Hub downloads from folders, and record the requests."""
    from zoo.loading import resolve as resolving

    asked = []

    def snapshot(repository, revision=None):
        asked.append((repository, revision))
        return tmp_path / "hub" / repository

    monkeypatch.setattr(resolving, "snapshot", snapshot)
    monkeypatch.setattr(resolving, "fetch_place", lambda place: (snapshot(place.repository, place.revision), False))
    snapshot.asked = asked
    snapshot.folder = tmp_path / "hub"
    return snapshot


def save_config(folder: Path, config: object, name: str = "config.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def test_hub_weights_of_an_entry_are_fetched_at_its_revision_and_its_inline_config_counts(site, hub):
    install(site, "mine", table(weights='"o/r"', revision='"abc"') + "[mine.config]\nwidth = 3\n")
    save_config(hub.folder / "o/r", {"width": 4})
    assert resolve("mine", download=False).folder is None
    assert hub.asked == []
    entry = resolve("mine")
    assert hub.asked == [("o/r", "abc")]
    assert (entry.folder, entry.config) == (hub.folder / "o/r", {"width": 3})


def test_other_weights_bring_their_own_config(site, hub, tmp_path):
    install(site, "mine", table(weights='"o/r"', revision='"abc"') + "[mine.config]\nwidth = 3\n")
    save_config(hub.folder / "x/y", {"width": 9})
    entry = resolve("mine", weights="x/y", revision="def")
    assert hub.asked == [("x/y", "def")]
    assert (entry.config, entry.weights, entry.revision, entry.plugin) == ({"width": 9}, "x/y", "def", "mine")
    local = save_config(tmp_path / "local", {"width": 8})
    entry = resolve("mine", weights=str(local))
    assert (entry.folder, entry.config) == (local, {"width": 8})
    with pytest.raises(UnknownNameError, match="expected a folder that exists, owner/name, or 'embedded'"):
        resolve("mine", weights="nowhere")


def test_a_registrys_repository_is_never_taken_for_a_local_folder(site, hub, tmp_path, monkeypatch):
    install(site, "mine", table(weights='"o/r"', revision='"abc"'))
    save_config(tmp_path / "o/r", {"evil": True})
    save_config(hub.folder / "o/r", {"width": 4})
    monkeypatch.chdir(tmp_path)
    assert resolve("mine").config == {"width": 4}


def test_a_revision_without_a_repository_is_an_error(site):
    install(site, "mine", table(weights='"embedded"'))
    with pytest.raises(RegistryError, match="has no Hub repository that revision 'abc' could be of"):
        resolve("mine", revision="abc")


def test_a_local_folder_goes_to_the_plugin_that_recognises_it(site, tmp_path):
    install(site, "mine")
    install(site, "yours")
    folder = save_config(tmp_path / "some model", {"model_type": "yours"})
    entry = resolve(str(folder))
    assert (entry.plugin, entry.folder, entry.source) == ("yours", folder, "folder")
    assert entry.config == {"model_type": "yours"}


def test_a_hub_repository_goes_to_the_plugin_that_recognises_it(site, hub):
    install(site, "mine")
    save_config(hub.folder / "o/r", {"model_type": "mine"}, "model_index.json")
    entry = resolve("o/r", revision="abc")
    assert hub.asked == [("o/r", "abc")]
    assert (entry.plugin, entry.source, entry.weights, entry.revision) == ("mine", "hub", "o/r", "abc")


def test_what_nobody_or_several_recognise_is_an_error(site, tmp_path):
    install(site, "mine", kinds=("same",))
    install(site, "yours", kinds=("same",))
    with pytest.raises(PluginError, match=r"recognised by several plugins, mine .* and yours"):
        resolve(str(save_config(tmp_path / "a", {"model_type": "same"})))
    with pytest.raises(UnknownNameError, match=r"no plugin recognises .* \(no class name\)"):
        resolve(str(save_config(tmp_path / "b", {"strange": 1})))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither config.json nor model_index.json"),
        ({"adapter_config.json": "{}"}, "holds an adapter, .* names no base: load its base and give lora="),
        ({"config.json": "{"}, "damaged, expected JSON"),
        ({"config.json": "[]"}, "expected a JSON object, got list"),
    ],
)
def test_a_folder_that_is_no_model_is_an_error(tmp_path, files, message):
    for name, text in files.items():
        save_config(tmp_path, text, name)
    with pytest.raises((CheckpointError, AdapterError), match=message):
        resolve(f"{tmp_path}/")


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere-at-all", "a/../c", "..", "owner/", "../x"])
def test_a_path_that_is_no_folder_is_not_asked_of_the_hub(hub, tmp_path, monkeypatch, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    with pytest.raises((UnknownNameError, CheckpointError)):
        resolve(name)
    assert hub.asked == []
