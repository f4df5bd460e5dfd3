"""The adapters of a served model by name: loaded when they are first used, so many in memory at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zoo.errors import AdapterError, UnknownNameError, ZooError, did_you_mean, one_line
from zoo.methods.config import check_name

if TYPE_CHECKING:
    from zoo.model import Model


class AdapterStore:
    """Which adapter is in memory, and how many requests use it. One thread uses it, but for `names` and `check`.

    Adapters that the model has already are used as well, and never evicted.

    Args:
        model: the model.
        places: name → folder or Hub reference.
        most: adapters in memory at once.

    Raises:
        AdapterError: a name is not valid, or the model has an adapter of this name.
    """

    def __init__(self, model: Model, places: Mapping[str, str], most: int) -> None:
        self._model, self._places, self._most = model, dict(places), max(1, most)
        self._own = tuple(model.adapters)
        self._users: dict[str, int] = {}  # of those in memory, the one that was not used for longest first
        self.evictions = 0
        for name in self._places:
            check_name(name)
            if name in self._own:
                raise AdapterError(f"the model has an adapter {name!r} already: choose another name")

    @property
    def names(self) -> list[str]:
        """All names, the model's own first."""
        return [*self._own, *self._places]

    @property
    def loaded(self) -> list[str]:
        """The names of those in memory."""
        return [*self._own, *self._users]

    def check(self, name: str | None) -> None:
        """Raise `UnknownNameError` if there is no adapter of this name; None is the base."""
        if name is not None and name not in self._own and name not in self._places:
            listed = ", ".join(self.names[:20]) or "none"
            raise UnknownNameError(f"no adapter {name!r}; there are {listed}.{did_you_mean(name, self.names)}")

    def lease(self, name: str | None) -> bool:
        """Have an adapter in memory until `give_back`; returns False while others take all the room.

        Raises:
            ZooError: it cannot be loaded; the model is as it was.
        """
        if name is None or name in self._own:
            return True
        users = self._users.pop(name, None)
        if users is None:
            if not self._make_room():
                return False
            self._load(name)
            users = 0
        self._users[name] = users + 1
        return True

    def give_back(self, name: str | None) -> None:
        """End one use of an adapter."""
        if name in self._users:
            self._users[name] -= 1

    def clear(self) -> None:
        """Remove from the model what was loaded into it."""
        for name in tuple(self._users):
            self._remove(name)

    def _make_room(self) -> bool:
        while len(self._users) >= self._most:
            oldest = next((name for name, users in self._users.items() if not users), None)
            if oldest is None:
                return False
            self._remove(oldest)
            self.evictions += 1
        return True

    def _load(self, name: str) -> None:
        place = self._places[name]
        try:
            self._model.add_adapter(name, place, active=False)
        except ZooError as error:
            raise AdapterError(f"adapter {name!r} cannot be loaded: {error}") from error
        except Exception as error:  # whatever a library's reader raises about a file
            raise AdapterError(f"adapter {name!r} cannot be loaded from {place}: {one_line(error)}") from error

    def _remove(self, name: str) -> None:
        del self._users[name]
        self._model.remove_adapter(name)
