"""What a plugin brings into a fresh process: heavy libraries, output, and whether it can be imported at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from zoo.catalog import discovery

# Libraries that take a tenth of a second or more to import: `zoo list` and `zoo info` must not wait for them.
HEAVY = (
    *("torch", "transformers", "diffusers", "timm", "bitsandbytes", "accelerate", "peft", "torch_geometric"),
    *("tokenizers", "safetensors", "huggingface_hub", "numpy", "scipy", "sklearn", "pandas", "PIL", "matplotlib"),
    *("torchvision", "torchaudio", "tensorflow", "jax", "keras", "datasets", "hqq", "torchao", "optimum"),
)

_LOOK = """
import contextlib, importlib, io, json, sys
sys.path[:] = {path!r}
heavy = lambda: [name for name in {heavy!r} if name in sys.modules]
with contextlib.redirect_stdout(io.StringIO()) as printed:
    importlib.import_module({module!r})
    imported = heavy()
    from zoo.catalog import registry
    from zoo.loading.resolve import resolve
    from zoo.plugin import manager
    try:
        implemented = manager.implemented({name!r})
        mine = [entry for entry in registry.entries() if entry.plugin == {name!r}]
    except Exception:
        mine = []
    for entry in mine:
        try:
            if entry.config or entry.weights == "embedded":
                entry = resolve(entry.name, download=False)
            if "describe" in implemented:
                manager.caller("describe", {name!r})(entry=entry)
        except Exception:
            pass  # another check's matter
print(json.dumps([imported, heavy(), printed.getvalue()]))
"""


class Seen(NamedTuple):
    """What a fresh process saw: the heavy libraries that are there after the import of the plugin, and after its
    `describe`; what it printed; and, where it could not be imported, the error's last line."""

    imported: tuple[str, ...] = ()
    with_facts: tuple[str, ...] = ()
    printed: str = ""
    error: str = ""


def search_path() -> list[str]:
    """`sys.path` as a child process needs it."""
    return [entry or str(Path.cwd()) for entry in sys.path]


def import_in_subprocess(name: str) -> Seen:
    """Import a plugin in a fresh process, ask it for facts, and see what that brought."""
    module = discovery.claim(name).value.partition(":")[0].partition("[")[0].strip()
    code = _LOOK.format(path=search_path(), heavy=HEAVY, module=module, name=name)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or not done.stdout:
        last = done.stderr.strip().splitlines()[-1:] or [f"the process ended with status {done.returncode}"]
        return Seen(error=last[0])
    imported, with_facts, printed = json.loads(done.stdout.splitlines()[-1])
    return Seen(tuple(imported), tuple(with_facts), printed)
