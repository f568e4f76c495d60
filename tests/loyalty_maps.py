"""Mappings for the published loyalty programme: its members become customers, the lines of its log events."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

BEGIN = datetime.datetime(2018, 1, 1, tzinfo=datetime.UTC)
GENDERS = {"M": "MALE", "F": "FEMALE"}  # others have none at the target
CENT = Decimal("0.01")


def customer(member: dict[str, Any]) -> dict[str, Any]:
    """A member as a customer; the programme published no names and addresses, so they are made from the id."""
    name, day = member["id"], member["became_member_on"]
    made = {
        "id": name,
        "name": f"Member {name[:8]}",
        "email": f"{name}@members.example",
        "registration_date": f"{day[:4]}-{day[4:6]}-{day[6:]}T00:00:00Z",
        "balance": [],
    }
    return made | ({"gender": GENDERS[member["gender"]]} if member["gender"] in GENDERS else {})


def event(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the log as an event of its person: what was paid, what was earned, or what was only sent or seen."""
    when = (BEGIN + datetime.timedelta(hours=line["time"])).isoformat()
    value = line["value"]
    made = {
        "person": line["person"],
        "type": "PURCHASE" if line["event"] == "transaction" else line["event"].upper().replace(" ", "_"),
        "brand_id": None,
        "fulfilled": True,
        "issued_at": when,
        "resolved_at": when,
    }
    if line["event"] == "transaction":
        # The log has amounts like 0.8300000000000001: the programme added them up in floats.
        made["order"] = order(f"buy-{line['time']}", Decimal(value["amount"]).quantize(CENT))
    elif line["event"] == "offer completed":
        made["order"] = order(f"offer-{value['offer_id']}-{line['time']}", Decimal(0)) | {
            "metadata": {"reward": value["reward"]}
        }
    return made


def order(name: str, value: Decimal) -> dict[str, Any]:
    return {
        "purchase_id": name, "value": value, "discounted_value": value, "products": [], "payment_method": "OTHER",
    }  # fmt: skip
