"""What a served model can do, from the options that its architecture declares and the hooks that it has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo.plugin import hooks
from zoo.plugin.options import OF_FILES, Option

if TYPE_CHECKING:
    from zoo.samples import Samples
    from zoo.serving.runtime import Runtime

CLASSES = ("posterior", "probabilities")  # the kinds of samples that say what something is
_FILES = tuple(name for name in OF_FILES if name != "images")  # pictures may come in the request itself


@dataclass
class Abilities:
    """What one model can do.

    Attributes:
        name: the model's.
        options: the declared options that a request may give, by name: none that names files on this machine.
        refused: the declared ones that it may not.
        declares: whether the architecture declares its options at all; if not, no request may give any.
        embeds: whether it gives vectors of texts.
        kinds: that its samples may be of, as the architecture declares, or as the first ones were; none: not known.
    """

    name: str
    options: dict[str, Option] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    declares: bool = True
    embeds: bool = False
    kinds: tuple[str, ...] = ()

    @property
    def continues(self) -> str | None:
        """The option that is the text to continue; None for a model that continues none."""
        named = (name for name in ("prompts", "prompt") if name in self.options)
        return next((name for name in named if self.options[name].type == "texts"), None)

    @property
    def answers(self) -> str | None:
        """The option that is the conversation to answer; None for a model that answers none."""
        return next((name for name, option in self.options.items() if option.type == "messages"), None)

    @property
    def classifies(self) -> bool:
        """Whether it may say what something is: where it is not declared, True until its first samples show it."""
        return not self.kinds or any(kind in CLASSES for kind in self.kinds)

    def note(self, samples: Samples) -> None:
        """Learn of what kind the model's samples are, if it is not declared."""
        self.kinds = self.kinds or (samples.kind,)

    def endpoints(self) -> list[str]:
        """Return the paths that this model answers."""
        has = {
            "/v1/completions": self.continues is not None,
            "/v1/chat/completions": self.answers is not None,
            "/v1/embeddings": self.embeds,
            "/v1/sample": True,
            "/v1/classify": self.classifies,
        }
        return [path for path, there in has.items() if there]


def abilities_of(runtime: Runtime) -> Abilities:
    """Return what the model of a runtime can do."""
    entry = runtime.model.entry
    declared = hooks.sample_options(entry)
    known = declared or ()
    return Abilities(
        name=entry.name,
        options={option.name: option for option in known if option.type not in _FILES},
        refused=tuple(option.name for option in known if option.type in _FILES),
        declares=declared is not None,
        kinds=tuple(kind.name for kind in hooks.sample_kinds(entry) or ()),
        embeds=entry.plugin is not None and "embed" in hooks.implemented(entry.plugin),
    )
