"""Check the body of a migration request, and enqueue it, before the target answers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec

from streammig.sandbox.config import SandboxConfig
from streammig.sandbox.forms import MOST, Element, Refused, WindowOfRevert, checked, elements, repeated_in, units
from streammig.sandbox.script import Answer, Fault, Late, Lose, Partial
from streammig.sandbox.store import Store


class Intake:
    """Puts bodies into the queue. Runs in the store's thread."""

    def __init__(self, config: SandboxConfig, store: Store, dice: Random) -> None:
        self._config = config
        self._store = store
        self._dice = dice

    def take(self, kind: str, body: bytes, at: float, delay: float, fault: Fault | None = None) -> tuple[int, int]:
        """Enqueue a migration body of the time `at`, to be applied `delay` seconds later.

        Return the number of enqueued customers, and the number in the body. Raises Refused if any customer is refused.
        Then nothing is enqueued, unless refusals are partial.
        """
        raws = elements(body)
        partial = self._config.partial_refusal or isinstance(fault, Partial)
        good, bad = self._sort(kind, raws, not partial)
        if isinstance(fault, Partial):
            bad += [(index, f"customers[{index}]: invalid customer entry") for index, _ in good if index < fault.bad]
        bad_indices = {index for index, _ in bad}
        good = [(index, element) for index, element in good if index not in bad_indices]
        if isinstance(fault, Answer):
            good = good[: round(len(good) * fault.taken)]
        weight = sum(units(element) for _, element in good)
        if weight > MOST:
            raise Refused(f"customers: at most {MOST} {kind} in all were expected, not {weight}")
        if good and (partial or not bad):
            kept = (
                body
                if len(good) == len(raws)
                else b'{"customers":[%s]}' % b",".join(bytes(raws[index]) for index, _ in good)
            )
            lost = fault.chosen(len(good), self._dice) if isinstance(fault, Lose) else []
            late = fault.seconds if isinstance(fault, Late) else 0.0
            owners = [element.id for _, element in good]
            self._store.accept(kind, kept, at, at + delay + late, owners, weight, lost)
        if bad:
            raise Refused(self._details(*min(bad), raws))
        return len(good), len(raws)

    def revert(self, body: bytes, at: float, delay: float) -> None:
        """Enqueue a revert. Raises Refused if the body holds no window."""
        try:
            window = msgspec.json.decode(body, type=WindowOfRevert)
        except ValueError as error:
            raise Refused(f"body: {error}") from error
        if window.start_date >= window.end_date:
            raise Refused("end_date: a moment after start_date was expected")
        self._store.accept("revert", body, at, at + delay, (), 0)

    def _sort(
        self, kind: str, raws: Sequence[msgspec.Raw], stop: bool
    ) -> tuple[list[tuple[int, Element]], list[tuple[int, str]]]:
        """Return the valid elements, and the faults of the others. `stop`: return at the first fault."""
        good: list[tuple[int, Element]] = []
        bad: list[tuple[int, str]] = []
        refuse_unknown = self._config.unknown_fields == "refuse"
        for index, raw in enumerate(raws):
            try:
                good.append((index, checked(kind, raw, index, refuse_unknown)))
            except Refused as refused:
                bad.append((index, refused.details))
                if stop:
                    return good, bad
        bad += repeated_in(good)
        if kind == "transactions" and self._config.once_only:
            claimed = self._store.claimed([element.id for _, element in good])
            said = "the transactions of this customer were migrated before"
            bad += [(index, f"customers[{index}].id: {said}") for index, element in good if element.id in claimed]
        return good, bad

    def _details(self, index: int, details: str, raws: Sequence[msgspec.Raw]) -> str:
        if not self._config.name_offender:
            return details
        try:
            named = msgspec.json.decode(raws[index], type=_Named).id
        except ValueError:
            return details
        return f"{details} (customer {named})"


class _Named(msgspec.Struct, frozen=True):
    id: str
