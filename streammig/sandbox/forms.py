"""The types of request bodies, and how the target refuses any other body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Annotated, Any, Literal

import msgspec

MOST = 1000  # customers, events or transactions in one request

# Amounts have up to 60 digits on either side of the point; with 200, any number of them adds up exactly.
EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
DIGITS = 60

DateTime = Annotated[datetime, msgspec.Meta(tz=True)]
Uuid = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")]
Text = Annotated[str, msgspec.Meta(min_length=1)]
PaymentMethod = Literal["CREDIT", "DEBIT", "CASH", "BANK_TRANSFER", "OTHER"]
TransactionType = Literal["ACCUMULATION", "REDEMPTION", "EXPIRATION", "MIGRATION", "TRANSFER", "REVERSAL"]
Platform = Literal["ios", "android", "web", "windows", "macos"]

EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class Refused(Exception):
    """A body that the target refuses as a whole, with the HTTP status and the reason."""

    def __init__(self, details: str, status: int = 422) -> None:
        super().__init__(details)
        self.details = details
        self.status = status


class Form(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    pass


class Lot(Form, frozen=True, kw_only=True):
    """One lot of the opening wallet. Amounts stay raw, so that they are read as decimals, not as binary floats."""

    reward_id: Uuid
    amount: msgspec.Raw
    expiration_date: DateTime | None
    brand_id: str | None
    channel_id: str | None = None
    store_id: str | None = None
    issued_at: DateTime | None = None
    funded_by: str | None = None


class Period(Form, frozen=True, kw_only=True):
    from_: DateTime | None = msgspec.field(name="from", default=None)
    to: DateTime | None = None
    tier_id: Uuid | None = None
    last_visit: DateTime | None = None
    last_session: DateTime | None = None
    spend_total: float | None = None
    number_of_purchases: float | None = None


class Metrics(Form, frozen=True, kw_only=True):
    updated_at: DateTime | None = None
    lifetime: Period | None = None
    last_year: Period | None = None
    this_year: Period | None = None
    last_semester: Period | None = None
    this_semester: Period | None = None
    last_quarter: Period | None = None
    this_quarter: Period | None = None
    last_month: Period | None = None
    this_month: Period | None = None


class DeviceInfo(Form, frozen=True, kw_only=True):
    platform: Platform | None = None
    model: str | None = None
    os_version: str | None = msgspec.field(name="osVersion", default=None)


class Device(Form, frozen=True, kw_only=True):
    device_token: str | None = None
    device_info: DeviceInfo | None = None
    expires_at: DateTime | None = None
    created_at: DateTime | None = None


class Customer(Form, frozen=True, kw_only=True):
    id: Text
    name: str | None = None
    email: str | None = None
    registration_date: DateTime | None = None
    balance: list[Lot]
    is_anonymous: bool = False
    gender: Literal["MALE", "FEMALE"] | None = None
    dob: DateTime | None = None
    document_type: str | None = None
    document_number: str | None = None
    country: str | None = None
    metrics: Metrics | None = None
    devices: list[Device] | None = None

    @property
    def folded(self) -> str:
        """The e-mail in the form that must be unique, "" without one."""
        return self.email.strip().casefold() if self.email else ""


class Redeem(Form, frozen=True, kw_only=True):
    id: Uuid
    amount: float


class Product(Form, frozen=True, kw_only=True):
    sku: str
    amount: float
    value: float
    discounted_value: float | None = None
    redeem: list[Redeem] | None = None
    tags: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None


class Shipping(Form, frozen=True, kw_only=True):
    value: float | None = None
    discounted_value: float | None = None
    redeem: list[Redeem] | None = None
    tags: Any = None
    metadata: dict[str, Any] | None = None


class Order(Form, frozen=True, kw_only=True):
    purchase_id: str
    value: msgspec.Raw
    discounted_value: float
    products: list[Product]
    payment_method: PaymentMethod
    channel_id: str | None = None
    store_id: str | None = None
    shipping: Shipping | None = None
    redeem: list[Redeem] | None = None
    metadata: dict[str, Any] | None = None


class Event(Form, frozen=True, kw_only=True):
    type: Text
    brand_id: str | None
    order: Order
    fulfilled: bool
    issued_at: DateTime
    resolved_at: DateTime
    channel_id: str | None = None
    store_id: str | None = None


class EventOwner(Form, frozen=True, kw_only=True):
    id: Text
    events: list[Event]


class Cause(Form, frozen=True, kw_only=True):
    type: str
    order: Order | None = None


class Transaction(Form, frozen=True, kw_only=True):
    brand_id: str | None
    reward_id: Uuid
    details: str
    type: TransactionType
    issued_at: DateTime
    resolved_at: DateTime
    amount: msgspec.Raw
    cost: float | None
    store_id: str | None
    channel_id: str | None
    event: Cause | None
    funded_by: str | None = None


class TransactionOwner(Form, frozen=True, kw_only=True):
    id: Text
    transactions: list[Transaction]


Element = Customer | EventOwner | TransactionOwner
FORMS: Mapping[str, type[Element]] = {"customers": Customer, "events": EventOwner, "transactions": TransactionOwner}
DECODERS: Mapping[str, msgspec.json.Decoder[Any]] = {kind: msgspec.json.Decoder(form) for kind, form in FORMS.items()}


class Envelope(Form, frozen=True, kw_only=True):
    customers: list[msgspec.Raw]


class WindowOfRevert(Form, frozen=True, kw_only=True):
    start_date: DateTime
    end_date: DateTime


def number(raw: msgspec.Raw, path: str) -> Decimal:
    """Return the exact value of a JSON number."""
    text = bytes(raw)
    if text[:1] not in b"-0123456789":
        raise Refused(f"{path}: a number was expected")
    value = Decimal(text.decode())
    digits = value.as_tuple()
    if len(digits.digits) > DIGITS or not -DIGITS <= int(digits.exponent) <= DIGITS:
        raise Refused(f"{path}: the number has more than {DIGITS} digits")
    return value


def elements(body: bytes) -> list[msgspec.Raw]:
    """Return the customers of a migration body, unchecked. Raises Refused if there are none or too many."""
    try:
        body.decode()
        found = msgspec.json.decode(body, type=Envelope).customers
    except ValueError as error:
        raise Refused(f"body: {error}") from error
    if not 1 <= len(found) <= MOST:
        raise Refused(f"customers: 1 to {MOST} entries were expected, not {len(found)}")
    return found


def checked(kind: str, raw: msgspec.Raw, index: int, refuse_unknown: bool = False) -> Element:
    """Decode and check one customer of a migration body. Raises Refused with the path and the expected form."""
    path = f"customers[{index}]"
    try:
        element: Element = DECODERS[kind].decode(raw)
    except ValueError as error:
        raise Refused(_located(path, str(error))) from error
    if refuse_unknown:
        _refuse_unknown(msgspec.json.decode(raw), FORMS[kind], path)
    if isinstance(element, Customer):
        _check_customer(element, path)
    elif isinstance(element, EventOwner):
        for place, event in enumerate(_listed(element.events, f"{path}.events")):
            number(event.order.value, f"{path}.events[{place}].order.value")
    else:
        for place, entry in enumerate(_listed(element.transactions, f"{path}.transactions")):
            number(entry.amount, f"{path}.transactions[{place}].amount")
            if entry.event is not None and entry.event.order is not None:
                number(entry.event.order.value, f"{path}.transactions[{place}].event.order.value")
    return element


def units(element: Element) -> int:
    """Count the units of an element, which the limit of a request counts."""
    if isinstance(element, Customer):
        return 1
    return len(element.events if isinstance(element, EventOwner) else element.transactions)


def repeated_in(found: Iterable[tuple[int, Element]]) -> list[tuple[int, str]]:
    """Return index and reason of customers whose id or folded e-mail occurs earlier in the same request."""
    ids: set[str] = set()
    emails: set[str] = set()
    repeated = []
    for index, element in found:
        email = element.folded if isinstance(element, Customer) else ""
        if element.id in ids:
            repeated.append((index, f"customers[{index}].id: the same id occurs earlier in the request"))
        elif email and email in emails:
            repeated.append((index, f"customers[{index}].email: the same e-mail occurs earlier in the request"))
        else:
            ids.add(element.id)
            emails.add(email)
    return repeated


def _check_customer(customer: Customer, path: str) -> None:
    # A customer without name and address must be marked as anonymous.
    for field in () if customer.is_anonymous else ("name", "email", "registration_date"):
        if not getattr(customer, field):
            raise Refused(f"{path}.{field}: is required")
    if customer.email and not EMAIL.fullmatch(customer.email.strip()):
        raise Refused(f"{path}.email: an e-mail address was expected")
    for place, lot in enumerate(customer.balance):
        number(lot.amount, f"{path}.balance[{place}].amount")


def _listed(entries: Sequence[Any], path: str) -> Sequence[Any]:
    if not entries:
        raise Refused(f"{path}: at least one entry was expected")
    return entries


def _located(path: str, message: str) -> str:
    what, _, where = message.partition(" - at `$")
    return f"{path}{where.rstrip('`')}: {what}"


def _refuse_unknown(value: Any, form: Any, path: str) -> None:
    """Walk a value along its form, and refuse the first field that the form does not have."""
    for inner in getattr(form, "__args__", ()):  # lists and unions
        for place, entry in enumerate(value if isinstance(value, list) else [value]):
            _refuse_unknown(entry, inner, f"{path}[{place}]" if isinstance(value, list) else path)
    if not (isinstance(form, type) and issubclass(form, Form) and isinstance(value, dict)):
        return
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(form)}
    for name, entry in value.items():
        if name not in fields:
            raise Refused(f"{path}: unknown field {name}")
        _refuse_unknown(entry, fields[name], f"{path}.{name}")
