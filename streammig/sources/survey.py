"""Where a walk through a document stands, and the arrays that it met."""

from __future__ import annotations

from dataclasses import dataclass, field

from streammig.sources.inputs import Path, path_text
from streammig.sources.walking import Events

LISTED = 20  # arrays named in a message


@dataclass
class Seen:
    """An array that was met: the kind of its first element, and how many elements so far."""

    path: Path
    kind: str = ""
    elements: int = 0


@dataclass
class Survey:
    """Where a walk through a document stands, and the arrays that it met.

    A candidate is an array whose first element is an object and that lies in no other candidate; an array that is the
    whole document is one whatever it holds. What lies in a candidate is not noted.
    """

    arrays: list[Seen] = field(default_factory=list)
    candidates: list[Seen] = field(default_factory=list)
    _steps: list[str | int] = field(default_factory=list)
    _open: list[Seen | None] = field(default_factory=list)
    _inside: int = 0  # the depth at which the candidate being walked through was opened, 0: none

    @property
    def path(self) -> Path:
        """The way to the value opened last (keys of closed values included only up to their parent)."""
        return tuple(self._steps[:-1])

    def note(self, events: Events) -> None:
        for event, value in events:
            if event == "map_key":
                self._steps[-1] = value
            elif event in ("end_map", "end_array"):
                self._close()
            else:
                self._value(event)

    def _value(self, event: str) -> None:
        if self._steps and isinstance(self._steps[-1], int):
            self._steps[-1] += 1
            self._element(event)
        if event == "start_array":
            self._steps.append(-1)
            self._open.append(self._array())
        elif event == "start_map":
            self._steps.append("")
            self._open.append(None)

    def _array(self) -> Seen | None:
        if self._inside:
            return None
        seen = Seen(self.path)
        if len(self.arrays) < LISTED:
            self.arrays.append(seen)
        if not seen.path:
            self._choose(seen, len(self._steps))
        return seen

    def _element(self, event: str) -> None:
        seen = self._open[-1]
        if seen is None:
            return
        seen.elements += 1
        seen.kind = seen.kind or _KINDS.get(event, event + "s")
        if event == "start_map" and seen.elements == 1 and not self._inside:
            self._choose(seen, len(self._steps))

    def _choose(self, seen: Seen, depth: int) -> None:
        self._inside = depth
        self.candidates.append(seen)
        if seen not in self.arrays:
            self.arrays.append(seen)

    def skimmed(self, elements: int) -> None:
        """The array opened last begins with this many objects, none of which was noted."""
        seen = self._open[-1]
        if seen is not None:
            seen.kind, seen.elements = "objects", elements
            if not self._inside:
                self._choose(seen, len(self._steps))

    def _close(self) -> None:
        if len(self._steps) == self._inside:
            self._inside = 0
        self._steps.pop()
        self._open.pop()

    def only_empty(self) -> Seen | None:
        """The one array of the document that holds nothing, if there is just one and all arrays were noted."""
        empty = [seen for seen in self.arrays if not seen.elements]
        return empty[0] if len(empty) == 1 and len(self.arrays) < LISTED else None

    def listing(self) -> str:
        """The arrays for a message, one a line."""
        if not self.arrays:
            return "  none"
        return "\n".join(
            f"  {path_text(seen.path) or '(the whole document)'}: "
            + (f"{seen.elements} {seen.kind} seen" if seen.elements else "empty")
            for seen in self.arrays
        )


_KINDS = {"start_map": "objects", "start_array": "arrays", "boolean": "true or false", "null": "null"}
