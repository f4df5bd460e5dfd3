"""The model card: its content, that untrusted text becomes no markup, and that text of others stays."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from markdown_it import MarkdownIt

import zoo
from zoo.formats.manifest import bits_of
from zoo.formats.training import data_name
from zoo.hub import markup
from zoo.hub.card import Facts, Item, readme

from .conftest import small
from .server import TOKEN, Hub

HOSTILE = [
    "<script>alert(1)</script>",
    "](javascript:alert(1))",
    "![x](http://evil.example/x.png)",
    "a\n---\nlicense: mine\n---\n# Title",
    "| cell | `code` **bold** _x_ ~~y~~ <img src=x onerror=alert(1)>",
    "http://evil.example www.evil.example me@evil.example",
    "```\n</details>\n```",
    "key: [1, 2\n? - x: &a *b",
    "\u202eright to left\u0000",
    markup.END,
]
FACTS = Facts("me/x", None, ("diffusers", "UNet2DModel"), "MIT", {"image": "1 × 32 × 32"})


def item(**record: Any) -> Item:
    base = {"name": "ddpm", "plugin": "ddpm", "weights": "embedded", "commit": None, "fingerprint": "ab12"}
    said = {"kind": "lora", "architecture": "ddpm", "targets": ["to_q"], "base": base, "bits": 4, "scheme": "nf4"}
    return Item("default", "", {**said, **record}, {"r": 4, "lora_alpha": 8}, True)


def written(items: list[Item], facts: Facts = FACTS, existing: str | None = None) -> tuple[dict[str, Any], str]:
    text = readme(existing, items, facts)
    assert text is not None
    assert text.startswith("---\n")
    head, body = text[4:].split("\n---\n", 1)
    return yaml.safe_load(head), body


def rendered(text: str) -> str:
    """Return the card as HTML, by a Markdown renderer that lets HTML through, the worst case."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)


def test_what_it_says(hub: Hub, drawn: zoo.Samples) -> None:
    model = small()
    torch.manual_seed(0)
    model.tune("letters:serif", steps=2, batch_size=2, lr=2e-3, quiet=True)
    figures = model.evaluate("letters:serif")
    model.push("me/serif", samples=drawn)
    text = hub.repositories["me/serif"].head().files["README.md"].decode()
    head, body = yaml.safe_load(text.split("---")[1]), text
    assert head == {"library_name": "peft", "license": "apache-2.0", "tags": ["lora", "vae", "zoo"]}
    assert "A LoRA adapter (rank 2, alpha 16), on post_quant_conv, for vae." in body
    assert "| letters:serif | 2 | 2 | 0.002 |" in body
    for name, value in figures.items():
        assert f"| {name} | {markup.inline(format(value, '.6g'))} |" in body
    assert "| fingerprint of its weights | " + str(model.fingerprint) in body
    own = json.loads(hub.repositories["me/serif"].head().files["zoo.json"])
    assert own["training"][0]["data"] == "letters:serif"
    assert own["training"][0]["steps"] == 2
    assert own["metrics"]["figures"].keys() == figures.keys()
    assert own["versions"]["torch"].startswith("2.")


def test_an_evaluation_on_what_was_trained_on_is_called_so(hub: Hub) -> None:
    model = small()
    data = zoo.Data(torch.rand(12, 1, 32, 32))
    model.tune(data, steps=1, batch_size=2, quiet=True)
    for split, said in ((None, "On held-out data"), ("all", "On data of which 92% were trained on")):
        model.evaluate(data, split=split)
        model.push("me/own")
        assert said in hub.repositories["me/own"].head().files["README.md"].decode()


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_words_are_words(text: str) -> None:
    base = {"name": text, "plugin": text, "weights": text, "commit": text, "fingerprint": text}
    runs = [dict.fromkeys(("data", "steps", "batch_size", "lr", "seconds", "first_loss", "last_loss"), text)]
    figures = {"data": text, "figures": {text: text}}
    hostile = item(base=base, kind=text, architecture=text, targets=[text], bits=text, scheme=text, training=runs,
                   metrics=figures, versions={text: text})  # fmt: skip
    hostile = Item("default", "", hostile.record, {"r": text, "lora_alpha": text}, True, texts=[text])
    facts = Facts("me/x", None, ("transformers", "X"), text, {text: text})
    head, body = written([hostile], facts)
    assert set(head) == {"library_name", "license", "license_name", "tags"}
    assert head["license"] == "other"
    assert head["license_name"] == " ".join(text.split())[:100]
    assert head["tags"] == [text, "zoo"]
    assert body.count(markup.END) == 1
    assert body.rstrip().endswith(markup.END)
    html = rendered(body)
    tags = set(re.findall(r"</?([a-zA-Z][\w-]*)", html))
    assert tags <= {"h1", "h2", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td", "em", "a"} - {"a"}
    assert "javascript:" not in re.sub(r"<code.*?</code>|<t[dh]>.*?</t[dh]>|<p>.*?</p>", "", html, flags=re.DOTALL)
    assert re.findall(r"<h[12]>(.*?)</h[12]>", html)[0] == "x"
    again = readme(readme(None, [hostile], facts), [hostile], facts)
    assert again == readme(None, [hostile], facts), "written twice is written once"


def test_the_base_where_it_is_in_the_hub() -> None:
    base = {"name": "me/base", "plugin": "ddpm", "weights": "me/base", "commit": "a" * 40, "fingerprint": "x"}
    head, body = written([item(base=base)], Facts("me/x", "dev", ("diffusers", "UNet2DModel"), "MIT", {}))
    assert head["base_model"] == "me/base"
    assert head["base_model_relation"] == "adapter"
    assert head["license"] == "mit"
    assert 'model = zoo.load("me/x@dev", bits=4)' in body
    assert 'model = zoo.load("me/base", bits=4, lora="me/x@dev")' in body
    assert f'base = UNet2DModel.from_pretrained("me/base", revision="{"a" * 40}")' in body
    assert 'snapshot_download("me/x", revision="dev")' in body
    _, timm = written([item(base=base)], Facts("me/x", None, ("timm", "ViT"), "MIT", {}))
    assert f'timm.create_model("hf-hub:me/base@{"a" * 40}", pretrained=True)' in timm
    for block in re.findall(r"^```python\n(.*?)^```", body + timm, re.MULTILINE | re.DOTALL):
        compile(block, "card", "exec")


def test_an_average_is_loaded_as_one() -> None:
    _, body = written([item(average=4.5)])
    assert 'model = zoo.load("me/x", bits="auto:4.5")' in body
    assert "4.5 bit on average, from nf4 up" in body
    assert bits_of({"bits": 4, "average": 4.25}) == "auto:4.25"
    assert (bits_of({"bits": 8}), bits_of({"bits": 3}), bits_of({}), bits_of({"bits": "x"})) == (8, None, None, None)


def test_what_peft_cannot_load_is_not_promised() -> None:
    one = item()
    head, body = written([Item(one.name, "", one.record, one.config, False)])
    assert head["library_name"] == "adapter-zoo"
    assert "PEFT" not in body


def test_others_words_stay() -> None:
    existing = "---\nlicense: cc-by-4.0\ntags:\n- mine\nextra: 3\n---\n\n# My own title\n\nMy words.\n"
    head, body = written([item()], existing=existing)
    assert head["license"] == "cc-by-4.0"
    assert head["extra"] == 3
    assert head["tags"] == ["mine", "lora", "ddpm", "zoo"]
    assert body.lstrip().startswith("# My own title\n\nMy words.\n")
    text = readme(existing, [item()], FACTS)
    assert text is not None
    edited = text.replace("My words.", "Other words.") + "\nBelow.\n"
    second = readme(edited, [item(bits=8)], FACTS)
    assert second is not None
    assert "Other words." in second
    assert second.rstrip().endswith("Below.")
    assert "8 bit" in second
    assert "4 bit" not in second
    assert second.count(markup.BEGIN) == second.count(markup.END) == 1


@pytest.mark.parametrize("head", ["a: [1", "- 1", "a: b: c", "&a [*a"])
def test_a_head_that_cannot_be_read_is_left_alone(
    head: str, hub: Hub, drawn: zoo.Samples, caplog: pytest.LogCaptureFixture
) -> None:
    existing = f"---\n{head}\n---\nMine.\n".encode()
    repository = hub.make("me/x", {"README.md": existing, "notes.txt": b"mine"})
    small().push("me/x", samples=drawn)
    assert repository.head().files["README.md"] == existing
    assert repository.head().files["notes.txt"] == b"mine"
    assert "it stays as it is, without a card" in caplog.text
    assert zoo.load("me/x", device="cpu").adapters


def test_no_path_of_this_machine_is_published(hub: Hub, drawn: zoo.Samples, tmp_path: Path) -> None:
    data = tmp_path / "secret-folder" / "letters"
    data.mkdir(parents=True)
    base = zoo.load("vae", device="cpu").save(tmp_path / "secret-base" / "vae")
    model = zoo.load(str(base), lora=zoo.LoRA(2, targets=["post_quant_conv"]), device="cpu")
    model.records["default"] = {"training": [{"data": data_name(data)}]}
    model.push("me/x", samples=drawn)
    everything = b"".join(hub.repositories["me/x"].head().files.values()) + b"".join(hub.bodies)
    assert b"secret" not in everything
    assert str(tmp_path).encode() not in everything
    assert json.loads(hub.repositories["me/x"].head().files["zoo.json"])["base"]["name"] == "vae"


def test_the_token_is_nowhere(
    hub: Hub, drawn: zoo.Samples, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even if the server's answer (as those of "status" faults) or the user's message quotes it."""
    caplog.set_level(1)
    model = small()
    model.records["default"] = {"training": [{"data": f"https://user:{TOKEN}@host/data", "steps": 1}]}
    model.push("me/x", samples=drawn, message=f"With {TOKEN}")
    zoo.load("me/x", device="cpu")
    hub.fails("POST .*commit", "status", times=-1, code=500)
    hub.fails("GET .*revision", "status", times=-1, code=418)
    for call in (lambda: small(1).push("me/x", samples=drawn), lambda: zoo.load("me/x")):
        with pytest.raises(zoo.HubError) as caught:
            call()
        assert TOKEN not in "".join(traceback.format_exception(caught.value))
    out = "".join(capfd.readouterr())
    assert TOKEN not in caplog.text + out
    commit = hub.repositories["me/x"].head()
    assert TOKEN not in commit.title + commit.text
    assert not [name for name, data in commit.files.items() if TOKEN.encode() in data]
    home = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert home
    assert not [path for path in home if TOKEN.encode() in path.read_bytes()]
