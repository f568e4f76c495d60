"""The elements of Masivo's migration requests, field by field, as its documentation has them.

These types are both the fast check of a record and, read by `rules.shape`, the table that the explaining check walks
along. So:

- a field without a default is required, and null only where its type says `| None`; a `Maybe` is optional, and left out
  where it is null (`tolerant` models take this null)
- nothing unknown stands in an object, but in the outermost, whose unknown fields are cut before it is sent
- `extra` in a field's `Meta` says what the type can't: `kind` ("id", "email", "uuid"), `default` (the JSON that is put
  in where a required field is missing), `copy` (the field whose value is put in), `policy` ("redeem": left out unless
  the settings say otherwise), `nullable` (a number that may be null)
- a number is kept as its JSON, null too: no other form is exact that msgspec does not also take from a JSON text;
  dates need a zone
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[str, Meta(min_length=1, max_length=255, extra={"kind": "id"})]
Email = Annotated[str, Meta(extra={"kind": "email"})]
Uuid = Annotated[str, Meta(extra={"kind": "uuid"})]
Date = Annotated[datetime, Meta(tz=True)]
Number = msgspec.Raw
Free = dict[str, Any]

T = TypeVar("T")
Maybe: TypeAlias = T | UnsetType


class Model(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What all objects share: nothing unknown, and written out again only what was read."""


class Lot(Model, frozen=True):
    """One lot of an opening wallet."""

    reward_id: Uuid
    amount: Number
    expiration_date: Date | None
    brand_id: str | None
    channel_id: Maybe[str] = UNSET
    store_id: Maybe[str] = UNSET
    issued_at: Maybe[Date] = UNSET
    funded_by: Maybe[str] = UNSET


class Period(Model, frozen=True):
    """The figures of one period; which of them are required is not documented, so none is."""

    begin: Maybe[Date] = msgspec.field(default=UNSET, name="from")
    end: Maybe[Date] = msgspec.field(default=UNSET, name="to")
    tier_id: Maybe[Uuid] = UNSET
    last_visit: Maybe[Date] = UNSET
    last_session: Maybe[Date] = UNSET
    spend_total: Number | UnsetType = UNSET
    number_of_purchases: Number | UnsetType = UNSET


class Metrics(Model, frozen=True):
    """Spend figures computed beforehand."""

    lifetime: Maybe[Period] = UNSET
    last_year: Maybe[Period] = UNSET
    this_year: Maybe[Period] = UNSET
    last_semester: Maybe[Period] = UNSET
    this_semester: Maybe[Period] = UNSET
    last_quarter: Maybe[Period] = UNSET
    this_quarter: Maybe[Period] = UNSET
    last_month: Maybe[Period] = UNSET
    this_month: Maybe[Period] = UNSET
    updated_at: Maybe[Date] = UNSET


class DeviceInfo(Model, frozen=True):
    """What a push token stands for."""

    # Two pages list different platforms; a token of a platform that only one of them has is not ours to refuse.
    platform: Maybe[Literal["ios", "android", "web", "windows", "macos"]] = UNSET
    model: Maybe[str] = UNSET
    os_version: Maybe[str] = msgspec.field(default=UNSET, name="osVersion")


class Device(Model, frozen=True):
    """A push token."""

    device_token: Maybe[str] = UNSET
    device_info: Maybe[DeviceInfo] = UNSET
    expires_at: Maybe[Date] = UNSET
    created_at: Maybe[Date] = UNSET


class Customer(Model, frozen=True, forbid_unknown_fields=False):
    """An element of `POST /customers/migrate`."""

    id: Id
    name: str
    email: Email
    registration_date: Date
    balance: list[Lot]
    gender: Maybe[Literal["MALE", "FEMALE"]] = UNSET
    dob: Maybe[Date] = UNSET
    document_type: Maybe[str] = UNSET
    document_number: Maybe[Annotated[str, Meta(max_length=50)]] = UNSET
    country: Maybe[Annotated[str, Meta(max_length=100)]] = UNSET
    metrics: Maybe[Metrics] = UNSET
    devices: Maybe[list[Device]] = UNSET


class Redeem(Model, frozen=True):
    """A reward taken within an order."""

    id: Uuid
    amount: Number


Redeems = Annotated[Maybe[list[Redeem]], Meta(extra={"policy": "redeem"})]


class Product(Model, frozen=True):
    """A line of an order; `amount` is the quantity."""

    sku: str
    amount: Number
    value: Number
    discounted_value: Number | UnsetType = UNSET
    redeem: Redeems = UNSET
    tags: Maybe[Free] = UNSET
    metadata: Maybe[Free] = UNSET


class Shipping(Model, frozen=True):
    """What sending the order cost."""

    value: Number | UnsetType = UNSET
    discounted_value: Number | UnsetType = UNSET
    redeem: Redeems = UNSET
    tags: Maybe[Free] = UNSET
    metadata: Maybe[Free] = UNSET


class Order(Model, frozen=True):
    """What was bought."""

    purchase_id: str
    value: Number
    discounted_value: Annotated[msgspec.Raw, Meta(extra={"copy": "value"})]
    products: list[Product]
    payment_method: Annotated[
        Literal["CREDIT", "DEBIT", "CASH", "BANK_TRANSFER", "OTHER"], Meta(extra={"default": '"OTHER"'})
    ]
    channel_id: Maybe[str] = UNSET
    store_id: Maybe[str] = UNSET
    shipping: Maybe[Shipping] = UNSET
    redeem: Redeems = UNSET
    metadata: Maybe[Free] = UNSET


class Event(Model, frozen=True):
    """An event of `POST /customers/migrate/events`."""

    type: str
    brand_id: Annotated[str | None, Meta(extra={"default": "null"})]
    order: Order
    fulfilled: Annotated[bool, Meta(extra={"default": "true"})]
    issued_at: Date
    resolved_at: Date
    channel_id: Maybe[str] = UNSET
    store_id: Maybe[str] = UNSET


class Cause(Model, frozen=True):
    """The event behind a transaction."""

    type: str
    order: Maybe[Order] = UNSET


class Transaction(Model, frozen=True):
    """A transaction of `POST /customers/migrate/transactions`: the guide's eleven fields, always, and the funder."""

    brand_id: Annotated[str | None, Meta(extra={"default": "null"})]
    reward_id: Uuid
    details: str
    type: Literal["ACCUMULATION", "REDEMPTION", "EXPIRATION", "MIGRATION", "TRANSFER", "REVERSAL"]
    issued_at: Date
    resolved_at: Date
    amount: Number
    cost: Annotated[msgspec.Raw, Meta(extra={"default": "null", "nullable": True})]
    store_id: Annotated[str | None, Meta(extra={"default": "null"})]
    channel_id: Annotated[str | None, Meta(extra={"default": "null"})]
    event: Annotated[Cause | None, Meta(extra={"default": "null"})]
    funded_by: Maybe[str] = UNSET


class OwnerOfEvents(Model, frozen=True, forbid_unknown_fields=False):
    """An element of `POST /customers/migrate/events`."""

    id: Id
    events: list[Event]


class OwnerOfTransactions(Model, frozen=True, forbid_unknown_fields=False):
    """An element of `POST /customers/migrate/transactions`."""

    id: Id
    transactions: list[Transaction]


@cache
def tolerant(model: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The same model with null in optional fields, too."""
    fields: list[Any] = []
    for each in msgspec.structs.fields(model):
        kind = _tolerant(each.type)
        if each.required:
            fields.append((each.name, kind))
        else:  # a number is its JSON, also where that is null
            kind = kind if msgspec.Raw in get_args(kind) else Union[kind, None]  # noqa: UP007
            fields.append((each.name, kind, msgspec.field(default=UNSET, name=each.encode_name)))
    strict = model.__struct_config__.forbid_unknown_fields
    return msgspec.defstruct(model.__name__, fields, bases=(Model,), frozen=True, forbid_unknown_fields=strict)


def _tolerant(kind: Any) -> Any:
    inner = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Model):
        return tolerant(kind)
    if get_origin(kind) is Annotated:
        return Annotated[(_tolerant(inner[0]), *inner[1:])]
    if get_origin(kind) is list:
        return list[_tolerant(inner[0])]  # type: ignore[misc]
    if UNSET_OR_NULL.intersection(inner):
        return Union[tuple(map(_tolerant, inner))]  # noqa: UP007
    return kind


UNSET_OR_NULL = {UnsetType, type(None)}
