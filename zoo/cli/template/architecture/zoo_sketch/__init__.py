"""The architecture `sketch`: where its hooks are. The modules named here are imported when a hook is first called."""

from __future__ import annotations

from typing import Any

import zoo

zoo.hooks(
    construct=".model",
    checkpoint=".model",
    batches=".training",
    loss=".training",
    evaluate=".training",
    sample=".sampling",
)


@zoo.hookimpl
def recognises(config: dict[str, Any]) -> bool:
    return config.get("model_type") == "sketch"


@zoo.hookimpl
def sample_options(entry: zoo.Entry) -> list[zoo.Option]:
    return [
        zoo.Option("prompt", "", "the text to continue"),
        zoo.Option("length", 80, "characters", low=1, high=10_000),
        zoo.Option("temperature", 1.0, "0: the likeliest character", low=0),
    ]


@zoo.hookimpl
def describe(entry: zoo.Entry) -> dict[str, str]:
    return {"context": f"{entry.config['context']} characters"}
