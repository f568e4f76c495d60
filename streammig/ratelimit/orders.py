"""The operator's orders for a run, in a file of the state folder: pause, or other limits."""

from __future__ import annotations

from pathlib import Path

import msgspec

from streammig.disk import disk_fault, read_own, whole_file
from streammig.errors import Problem, Unusable
from streammig.ratelimit.limits import parse_limits


class Orders(msgspec.Struct, frozen=True):
    """The operator's orders. They stay in force over a restart of the run."""

    paused: bool = False
    limits: str = ""  # replace the limits of the settings; "" for none


def orders_path(state_folder: Path, run_id: str) -> Path:
    """Return the path of a checkpoint's orders, by the id inside the checkpoint."""
    return state_folder / f"{run_id}.orders"


def read_orders(path: Path) -> Orders:
    """Read orders from a file; without a file there are none. Raises `Unusable` if it can't be read."""
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
    """Write orders durably and atomically; without any, delete the file."""
    try:
        if orders == Orders():
            path.unlink(missing_ok=True)
            return
        with whole_file(path) as part:
            part.write_bytes(msgspec.json.encode(orders))
    except OSError as error:
        raise disk_fault("orders-failed", f"{path}: can't be written", "Make it writable.", error) from None
