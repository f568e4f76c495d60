"""The operator's orders for a run, kept in the state folder: to pause, or to keep to other limits."""

from __future__ import annotations

from pathlib import Path

import msgspec

from streammig.disk import disk_fault, read_own, whole_file
from streammig.errors import Problem, Unusable
from streammig.ratelimit.limits import parse_limits


class Orders(msgspec.Struct, frozen=True):
    """The orders of an operator. They outlive the run: a restart keeps to them."""

    paused: bool = False
    limits: str = ""  # in place of the settings' limits; "" for these


def orders_path(state_folder: Path, run_id: str) -> Path:
    """The file of the orders for a checkpoint, by the id inside it."""
    return state_folder / f"{run_id}.orders"


def read_orders(path: Path) -> Orders:
    """The orders in a file; no orders where there is none. Raises `Unusable` where it can't be read."""
    unreadable = Unusable(
        "orders-unreadable", f"{path}: the orders for the run can't be read", "Delete the file, and give them again."
    )
    try:
        content = read_own(path)
    except FileNotFoundError:
        return Orders()
    except OSError:
        raise unreadable from None
    try:
        found = msgspec.json.decode(content, type=Orders)
        parse_limits(found.limits or "off", {})
    except (msgspec.MsgspecError, Problem):
        raise unreadable from None
    return found


def write_orders(path: Path, orders: Orders) -> None:
    """Give these orders, durably and all at once."""
    try:
        if orders == Orders():
            path.unlink(missing_ok=True)
            return
        with whole_file(path) as part:
            part.write_bytes(msgspec.json.encode(orders))
    except OSError as error:
        raise disk_fault("orders-failed", f"{path}: can't be written", "Make it writable.", error) from None
