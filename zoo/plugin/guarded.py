"""What a plugin yields, one after the other; what it raises between two items is reported as its failure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from zoo.catalog.discovery import strict
from zoo.errors import ZooError
from zoo.plugin.manager import BUILTIN, failed


class Guarded(Iterator[Any]):
    """The items of an iterable that a plugin's hook has returned; `skip` passes some over."""

    def __init__(self, items: Iterable[Any], plugin: str, hook: str) -> None:
        self._plugin, self._hook = plugin, hook
        self._items: Iterator[Any] = self._watched(lambda: iter(items))
        if hasattr(self._items, "skip"):
            self.skip: Callable[[int], None] = self._skip

    def __next__(self) -> Any:
        return self._watched(lambda: next(self._items))

    def _skip(self, count: int) -> None:
        self._watched(lambda: self._items.skip(count))  # type: ignore[attr-defined]

    def _watched(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except StopIteration:
            raise
        except Exception as error:
            if isinstance(error, ZooError) or self._plugin == BUILTIN or strict():
                raise
            raise failed(self._plugin, self._hook, error) from error
