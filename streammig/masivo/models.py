"""The elements of Masivo's migration requests, field by field, as its documentation has them.

These types are the one description of the form. A record is decoded into them, and encoded again to prove that it has
nothing else in it. `rules.shape` reads them as the table that values are checked by, and that the explaining walk goes
along. So:

- a field without a default is required, and null only where its type says `| None`; a `Maybe` is optional, and null in
  it is as good as nothing: it is not written out again
- nothing unknown stands in an object, but in the outermost, whose unknown fields are cut before it is sent
- `extra` in a field's `Meta` says what the type can't: `kind` ("id", "email", "uuid"), `default` (the JSON that is put
  in where a required field is missing), `copy` (the field whose value is put in), `policy` ("redeem": left out unless
  the settings say otherwise), `nullable` (a number that may be null)
- a number is kept as its JSON, null too: no other form is exact that msgspec does not also take from a JSON text;
  dates need a zone
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[str, Meta(min_length=1, max_length=255, extra={"kind": "id"})]
Email = Annotated[str, Meta(extra={"kind": "email"})]
Uuid = Annotated[str, Meta(extra={"kind": "uuid"})]
Date = Annotated[datetime, Meta(tz=True)]
Number = msgspec.Raw
Free = dict[str, Any]

T = TypeVar("T")
Maybe: TypeAlias = T | None


class Model(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What all objects share: nothing unknown, and nothing written out again that is not there."""


class Lot(Model, frozen=True):
    """One lot of an opening wallet."""

    reward_id: Uuid
    amount: Number
    expiration_date: Date | None
    brand_id: str | None
    channel_id: Maybe[str] = None
    store_id: Maybe[str] = None
    issued_at: Maybe[Date] = None
    funded_by: Maybe[str] = None


class Period(Model, frozen=True):
    """The figures of one period; which of them are required is not documented, so none is."""

    begin: Maybe[Date] = msgspec.field(default=None, name="from")
    end: Maybe[Date] = msgspec.field(default=None, name="to")
    tier_id: Maybe[Uuid] = None
    last_visit: Maybe[Date] = None
    last_session: Maybe[Date] = None
    spend_total: Number | UnsetType = UNSET
    number_of_purchases: Number | UnsetType = UNSET


class Metrics(Model, frozen=True):
    """Spend figures computed beforehand."""

    lifetime: Maybe[Period] = None
    last_year: Maybe[Period] = None
    this_year: Maybe[Period] = None
    last_semester: Maybe[Period] = None
    this_semester: Maybe[Period] = None
    last_quarter: Maybe[Period] = None
    this_quarter: Maybe[Period] = None
    last_month: Maybe[Period] = None
    this_month: Maybe[Period] = None
    updated_at: Maybe[Date] = None


class DeviceInfo(Model, frozen=True):
    """What a push token stands for."""

    # Two pages list different platforms; a token of a platform that only one of them has is not ours to refuse.
    platform: Maybe[Literal["ios", "android", "web", "windows", "macos"]] = None
    model: Maybe[str] = None
    os_version: Maybe[str] = msgspec.field(default=None, name="osVersion")


class Device(Model, frozen=True):
    """A push token."""

    device_token: Maybe[str] = None
    device_info: Maybe[DeviceInfo] = None
    expires_at: Maybe[Date] = None
    created_at: Maybe[Date] = None


class Customer(Model, frozen=True, forbid_unknown_fields=False):
    """An element of `POST /customers/migrate`."""

    id: Id
    name: str
    email: Email
    registration_date: Date
    balance: list[Lot]
    gender: Maybe[Literal["MALE", "FEMALE"]] = None
    dob: Maybe[Date] = None
    document_type: Maybe[str] = None
    document_number: Maybe[Annotated[str, Meta(max_length=50)]] = None
    country: Maybe[Annotated[str, Meta(max_length=100)]] = None
    metrics: Maybe[Metrics] = None
    devices: Maybe[list[Device]] = None


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
    redeem: Redeems = None
    tags: Maybe[Free] = None
    metadata: Maybe[Free] = None


class Shipping(Model, frozen=True):
    """What sending the order cost."""

    value: Number | UnsetType = UNSET
    discounted_value: Number | UnsetType = UNSET
    redeem: Redeems = None
    tags: Maybe[Free] = None
    metadata: Maybe[Free] = None


class Order(Model, frozen=True):
    """What was bought."""

    purchase_id: str
    value: Number
    discounted_value: Annotated[msgspec.Raw, Meta(extra={"copy": "value"})]
    products: list[Product]
    payment_method: Annotated[
        Literal["CREDIT", "DEBIT", "CASH", "BANK_TRANSFER", "OTHER"], Meta(extra={"default": '"OTHER"'})
    ]
    channel_id: Maybe[str] = None
    store_id: Maybe[str] = None
    shipping: Maybe[Shipping] = None
    redeem: Redeems = None
    metadata: Maybe[Free] = None


class Event(Model, frozen=True):
    """An event of `POST /customers/migrate/events`."""

    type: str
    brand_id: Annotated[str | None, Meta(extra={"default": "null"})]
    order: Order
    fulfilled: Annotated[bool, Meta(extra={"default": "true"})]
    issued_at: Date
    resolved_at: Date
    channel_id: Maybe[str] = None
    store_id: Maybe[str] = None


class Cause(Model, frozen=True):
    """The event behind a transaction."""

    type: str
    order: Maybe[Order] = None


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
    funded_by: Maybe[str] = None


class OwnerOfEvents(Model, frozen=True, forbid_unknown_fields=False):
    """An element of `POST /customers/migrate/events`."""

    id: Id
    events: list[Event]


class OwnerOfTransactions(Model, frozen=True, forbid_unknown_fields=False):
    """An element of `POST /customers/migrate/transactions`."""

    id: Id
    transactions: list[Transaction]
