"""The elements of Masivo's migration requests, field by field, as its documentation has them.

These types are both the fast check of a record (decoded strictly, a record that needs no change passes) and, read by
`rules.shape`, the table that the slow, explaining check walks along. So:

- a field without a default is required; `| None` means that null is allowed; an optional field that is null is left out
- `extra` in a field's `Meta` says what the type can't: `kind` ("id", "email", "uuid"), `default` (the JSON that is put
  in where a required field is missing), `copy` (the field whose value is put in), `policy` ("redeem": left out unless
  the settings say otherwise), `nullable` (a number that may be null)
- a number is kept as its text, which is the only exact form that msgspec does not also take from a JSON text: whoever
  decodes it weighs it; dates need a zone
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Id = Annotated[str, Meta(min_length=1, max_length=255, extra={"kind": "id"})]
Email = Annotated[str, Meta(extra={"kind": "email"})]
Uuid = Annotated[str, Meta(extra={"kind": "uuid"})]
Date = Annotated[datetime, Meta(tz=True)]
Number = msgspec.Raw
Free = dict[str, Any]


class Model(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """What all elements share: nothing unknown, and written out again only what was read."""


class Lot(Model, frozen=True):
    """One lot of an opening wallet."""

    reward_id: Uuid
    amount: Number
    expiration_date: Date | None
    brand_id: str | None
    channel_id: str | UnsetType = UNSET
    store_id: str | UnsetType = UNSET
    issued_at: Date | UnsetType = UNSET
    funded_by: str | UnsetType = UNSET


class Period(Model, frozen=True):
    """The figures of one period; which of them are required is not documented, so none is."""

    begin: Date | UnsetType = msgspec.field(default=UNSET, name="from")
    end: Date | UnsetType = msgspec.field(default=UNSET, name="to")
    tier_id: Uuid | UnsetType = UNSET
    last_visit: Date | UnsetType = UNSET
    last_session: Date | UnsetType = UNSET
    spend_total: Number | UnsetType = UNSET
    number_of_purchases: Number | UnsetType = UNSET


class Metrics(Model, frozen=True):
    """Spend figures computed beforehand."""

    lifetime: Period | UnsetType = UNSET
    last_year: Period | UnsetType = UNSET
    this_year: Period | UnsetType = UNSET
    last_semester: Period | UnsetType = UNSET
    this_semester: Period | UnsetType = UNSET
    last_quarter: Period | UnsetType = UNSET
    this_quarter: Period | UnsetType = UNSET
    last_month: Period | UnsetType = UNSET
    this_month: Period | UnsetType = UNSET
    updated_at: Date | UnsetType = UNSET


class DeviceInfo(Model, frozen=True):
    """What a push token stands for."""

    # Two pages list different platforms; a token of a platform that only one of them has is not ours to refuse.
    platform: Literal["ios", "android", "web", "windows", "macos"] | UnsetType = UNSET
    model: str | UnsetType = UNSET
    os_version: str | UnsetType = msgspec.field(default=UNSET, name="osVersion")


class Device(Model, frozen=True):
    """A push token."""

    device_token: str | UnsetType = UNSET
    device_info: DeviceInfo | UnsetType = UNSET
    expires_at: Date | UnsetType = UNSET
    created_at: Date | UnsetType = UNSET


class Customer(Model, frozen=True):
    """An element of `POST /customers/migrate`."""

    id: Id
    name: str
    email: Email
    registration_date: Date
    balance: list[Lot]
    gender: Literal["MALE", "FEMALE"] | UnsetType = UNSET
    dob: Date | UnsetType = UNSET
    document_type: str | UnsetType = UNSET
    document_number: Annotated[str, Meta(max_length=50)] | UnsetType = UNSET
    country: Annotated[str, Meta(max_length=100)] | UnsetType = UNSET
    metrics: Metrics | UnsetType = UNSET
    devices: list[Device] | UnsetType = UNSET


class Redeem(Model, frozen=True):
    """A reward taken within an order."""

    id: Uuid
    amount: Number


Redeems = Annotated[list[Redeem] | UnsetType, Meta(extra={"policy": "redeem"})]


class Product(Model, frozen=True):
    """A line of an order; `amount` is the quantity."""

    sku: str
    amount: Number
    value: Number
    discounted_value: Number | UnsetType = UNSET
    redeem: Redeems = UNSET
    tags: Free | UnsetType = UNSET
    metadata: Free | UnsetType = UNSET


class Shipping(Model, frozen=True):
    """What sending the order cost."""

    value: Number | UnsetType = UNSET
    discounted_value: Number | UnsetType = UNSET
    redeem: Redeems = UNSET
    tags: Free | UnsetType = UNSET
    metadata: Free | UnsetType = UNSET


class Order(Model, frozen=True):
    """What was bought."""

    purchase_id: str
    value: Number
    discounted_value: Annotated[msgspec.Raw, Meta(extra={"copy": "value"})]
    products: list[Product]
    payment_method: Annotated[
        Literal["CREDIT", "DEBIT", "CASH", "BANK_TRANSFER", "OTHER"], Meta(extra={"default": '"OTHER"'})
    ]
    channel_id: str | UnsetType = UNSET
    store_id: str | UnsetType = UNSET
    shipping: Shipping | UnsetType = UNSET
    redeem: Redeems = UNSET
    metadata: Free | UnsetType = UNSET


class Event(Model, frozen=True):
    """An event of `POST /customers/migrate/events`."""

    type: str
    brand_id: Annotated[str | None, Meta(extra={"default": "null"})]
    order: Order
    fulfilled: Annotated[bool, Meta(extra={"default": "true"})]
    issued_at: Date
    resolved_at: Date
    channel_id: str | UnsetType = UNSET
    store_id: str | UnsetType = UNSET


class Cause(Model, frozen=True):
    """The event behind a transaction."""

    type: str
    order: Order | UnsetType = UNSET


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
    funded_by: str | UnsetType = UNSET


class OwnerOfEvents(Model, frozen=True):
    """An element of `POST /customers/migrate/events`."""

    id: Id
    events: list[Event]


class OwnerOfTransactions(Model, frozen=True):
    """An element of `POST /customers/migrate/transactions`."""

    id: Id
    transactions: list[Transaction]
