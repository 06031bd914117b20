"""The served versions of each model, which are replaced without a gap for readers.

The versions of a name are replaced in one assignment, so readers need no lock. They see all the old versions
or all the new ones.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from serving.errors import ModelNotFound

Loaded = TypeVar("Loaded")
MAX_LISTED_MODELS = 10
"""Most served models that the error for an unknown model lists."""


@dataclass(frozen=True)
class ServedModel(Generic[Loaded]):
    """The served versions of one name."""

    default: int = 0
    """The version that answers requests without a version."""
    versions: Mapping[int, Loaded] = field(default_factory=dict)


class ServedModels(Generic[Loaded]):
    """The served models by name. Thread-safe."""

    def __init__(self, close: Callable[[Loaded], None]) -> None:
        """Start without models. close: drains and closes a version that is not served any more."""
        self._close = close
        self._served: dict[str, ServedModel[Loaded]] = {}
        self._swapping = threading.Lock()
        self._closed = False

    def get(self, name: str, version: int | None = None, *, list_models: bool = True) -> Loaded:
        """Return a served version, by default the model's default version.

        Raises ModelNotFound. list_models: whether the error for an unknown model lists the served ones.
        """
        served = self._served
        if name not in served:
            listed = f"; served: {_some_of(served)}" if list_models else ""
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found{listed}")
        model = served[name]
        number = model.default if version is None else version
        if number not in model.versions:
            raise ModelNotFound(
                f"Request for unknown model: '{name}' version {number} is not found, "
                f"served: {sorted(model.versions)}"
            )
        return model.versions[number]

    def served(self) -> list[tuple[str, int, Loaded]]:
        """Return name, version and loaded object of each served version."""
        return [
            (name, number, loaded)
            for name, model in sorted(self._served.items())
            for number, loaded in sorted(model.versions.items())
        ]

    def versions(self, name: str) -> list[int]:
        """Return the served versions of a name, ascending; empty if the name is unknown."""
        return sorted(self._model(name).versions)

    def default_versions(self) -> dict[str, int]:
        """Return the default version of each served model."""
        return {name: model.default for name, model in self._served.items()}

    def close(self) -> None:
        """Drain and close all versions. A version that is added later is closed at once."""
        with self._swapping:
            self._closed = True
            names = list(self._served)
        for name in names:
            self._swap(name, ServedModel())

    def _model(self, name: str) -> ServedModel[Loaded]:
        """Return the served versions of a name; an empty ServedModel if the name is unknown."""
        return self._served.get(name, ServedModel[Loaded]())

    def _swap(self, name: str, model: ServedModel[Loaded]) -> None:
        """Replace the served versions of a name in one assignment; drain and close the old ones."""
        with self._swapping:
            new = ServedModel[Loaded]() if self._closed else model
            old = self._model(name)
            served = {**self._served, name: new}
            if not new.versions:
                del served[name]
            self._served = served
        for number, loaded in {**old.versions, **model.versions}.items():
            if number not in new.versions:
                self._close(loaded)


def _some_of(names: Mapping[str, object]) -> str:
    """Return the first names in one line."""
    more = len(names) - MAX_LISTED_MODELS
    listed = ", ".join(sorted(names)[:MAX_LISTED_MODELS]) or "none"
    return f"{listed} and {more} more" if more > 0 else listed
