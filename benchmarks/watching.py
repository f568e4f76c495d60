"""Looks at something again and again beside what is measured."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self

SECONDS = 0.05  # between two looks


class Watching(ABC):
    """Calls `look` 20 times a second, in a thread, as long as the block lasts."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @abstractmethod
    def look(self) -> None:
        """Look once."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(SECONDS):
            self.look()
