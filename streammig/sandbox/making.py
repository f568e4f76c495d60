"""Make up the records of a loyalty export: customers, their purchases, and transactions that explain their balance.

A million customers of 1 KB should take seconds. So templates of bytes are filled, and one draw of random bits makes
all choices of a record: `bits & 511` picks one of 512 dates.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

# Eight plain names, and eight in UTF-8 or with escapes as older systems write them, also a pair of surrogates.
NAMES = ("Ana", "Juan", "Maria", "Luis", "Sara", "Pedro", "Laura", "Diego")
UNICODE_NAMES = ("José", "Zoë", "Łukasz", "Ελένη", "李小龍", "مريم", "Andr\\u00e9", "Mia \\ud83c\\udf89")
SURNAMES = ("Garcia", "Lopez", "Torres", "Rojas", "Castro", "Mora", "Silva", "Vargas")
UNICODE_SURNAMES = ("Muñoz", "Ibáñez", "Ångström", "Çelik", "Nguyễn", "山田", "O\\u2019Neill", 'de \\"Oro\\"')
METHODS = (b"CREDIT", b"DEBIT", b"CASH", b"BANK_TRANSFER")
GENDERS = (b"MALE", b"FEMALE")
PLATFORMS = (b"android", b"ios")
TIERS = (b"6f1c9a52-8a53-4c1e-9d60-0c2f2d7f1a01", b"6f1c9a52-8a53-4c1e-9d60-0c2f2d7f1a02")
# A bad customer has one of these for gender, e-mail or date of birth.
WRONG_GENDER, WRONG_EMAIL, WRONG_DATE = b"UNSPECIFIED", b"no address", b"last summer"

# Bytes of a compact customer without devices, and of a device. Devices fill a customer up to the wanted size.
BARE, DEVICE = 828, 313

CUSTOMER = (
    b'{"id":"%b","name":"%b %b","email":"%b","registration_date":"%b","balance":%b,"gender":"%b","dob":"%b",'
    b'"document_type":"CC","document_number":"%010d","country":"CO","metrics":{"lifetime":{"from":"%b",'
    b'"to":"2025-06-30T23:59:59.999Z","tier_id":"%b","last_visit":"%b","spend_total":%b,"number_of_purchases":%d},'
    b'"updated_at":"2025-07-01T00:00:00Z"},"devices":%b'
)
LOT = (
    b'{"reward_id":"%b","amount":%b,"expiration_date":%b,"brand_id":%b,"channel_id":"web","store_id":"store-%d",'
    b'"issued_at":"%b"}'
)
TOKEN = (
    b'{"device_token":"%b","device_info":{"platform":"%b","model":"Model %d","osVersion":"%d.0"},'
    b'"expires_at":"2049-12-31T23:59:59Z","created_at":"%b"}'
)
EVENT = (
    b'{"type":"PURCHASE","brand_id":%b,"order":{"purchase_id":"order-%d-%d","value":%b,"discounted_value":%b,'
    b'"products":%b,"payment_method":"%b"},"fulfilled":true,"issued_at":"%b","resolved_at":"%b","channel_id":"web",'
    b'"store_id":"store-%d"'
)
PRODUCT = b'{"sku":"sku-%d","amount":%d,"value":%b}'
TRANSACTION = (
    b'{"brand_id":%b,"reward_id":"%b","details":"%b","type":"%b","issued_at":"%b","resolved_at":"%b","amount":%b,'
    b'"cost":null,"store_id":"store-%d","channel_id":null,"event":%b}'
)


class Reward(NamedTuple):
    """A kind of points. Amounts are whole numbers of its smallest part, which is `digits` after the point."""

    id: bytes
    brand: bytes  # as JSON
    digits: int


REWARDS = (
    Reward(b"0b9f3a1e-51a7-4b43-8f6d-2f6f4c0e9a01", b"null", 0),
    Reward(b"0b9f3a1e-51a7-4b43-8f6d-2f6f4c0e9a02", b'"north"', 2),
    Reward(b"0b9f3a1e-51a7-4b43-8f6d-2f6f4c0e9a03", b'"south"', 0),
)


class Layout:
    """White space of an export: none, or two spaces for each level. Templates are laid out once."""

    def __init__(self, pretty: bool) -> None:
        self._pretty = pretty

    def template(self, compact: bytes, depth: int) -> bytes:
        """Lay out a compact template, or a part of one, at `depth` levels. Its first line is not indented."""
        if not self._pretty:
            return compact
        out = bytearray()
        quoted = False
        for at in range(len(compact)):
            char = compact[at : at + 1]
            quoted ^= char == b'"'
            if quoted:
                out += char
                continue
            depth += (char in b"{[") - (char in b"}]")
            if char in b"}]":
                out += indented(depth)
            out += char
            if char in b"{[,":
                out += indented(depth)
            elif char == b":":
                out += b" "
        return bytes(out)

    def array(self, elements: Sequence[bytes], depth: int) -> bytes:
        """Lay out an array with its elements at `depth` levels."""
        if not (self._pretty and elements):
            return b"[%b]" % b",".join(elements)
        line = indented(depth)
        return b"[%b%b%b]" % (line, (b"," + line).join(elements), indented(depth - 1))


def indented(depth: int) -> bytes:
    """Return a line break with the indent of `depth` levels."""
    return b"\n" + b"  " * depth


RECORD, ENTRY = 2, 4  # the level of a record in its document, and of an element of a list in the record


class Dice:
    """Random bits and choices, the same for the same seed."""

    def __init__(self, seed: int, unicode: bool) -> None:
        self._random = Random(seed)
        self.bits = self._random.getrandbits
        self.random = self._random.random
        self.names = _encoded(NAMES + (UNICODE_NAMES if unicode else NAMES))
        self.surnames = _encoded(SURNAMES + (UNICODE_SURNAMES if unicode else SURNAMES))
        self.joined, self.happened, self.born = (
            self._dates(1995, 2020),
            self._dates(2020, 2025),
            self._dates(1940, 2004),
        )

    def about(self, mean: float) -> int:
        """Draw a whole number from 0 to twice the mean."""
        return int(self.random() * (2 * mean + 1))

    def token(self) -> bytes:
        return self._random.randbytes(80).hex().encode()

    def _dates(self, first: int, last: int) -> list[bytes]:
        """Draw 512 moments of these years, in the forms that exports use."""
        begin = datetime(first, 1, 1, tzinfo=UTC)
        seconds = int((datetime(last, 1, 1, tzinfo=UTC) - begin).total_seconds())
        forms = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.000Z", "%Y-%m-%dT%H:%M:%S+00:00")
        moments = [begin + timedelta(seconds=int(self.random() * seconds)) for _ in range(512)]
        return [moment.strftime(forms[at % 3]).encode() for at, moment in enumerate(moments)]


def _encoded(texts: Sequence[str]) -> list[bytes]:
    return [text.encode() for text in texts]


def amount(parts: int, digits: int) -> bytes:
    """Write an amount in smallest parts as a JSON number, with no or two digits after the point."""
    if not digits:
        return b"%d" % parts
    return b"%b%d.%02d" % (b"-" if parts < 0 else b"", *divmod(abs(parts), 100))


class Wallet(NamedTuple):
    """The balance of one reward (its index in REWARDS), in smallest parts."""

    reward: int
    total: int


class Customers:
    """Makes the records of customers. Append `close` to end a record, after any further fields."""

    def __init__(self, dice: Dice, layout: Layout, size: int) -> None:
        self._dice, self._layout = dice, layout
        self._form = layout.template(CUSTOMER, RECORD)
        self._lot, self._token = layout.template(LOT, ENTRY), layout.template(TOKEN, ENTRY)
        self._gone = layout.template(b',"status":"DELETED","deleted_at":"%b"', RECORD + 1)
        self._devices = max(0.0, (size - BARE) / DEVICE)
        self._bad = 0
        self.close = layout.template(b"}", RECORD + 1)

    def make(self, number: int, id_: bytes, wallets: Sequence[Wallet], spent: int, purchases: int, bad: bool) -> bytes:
        """Make a record without its end. A bad one has a wrong gender, e-mail or date of birth, in turn."""
        dice, bits = self._dice, self._dice.bits(46)
        since, born, visit = dice.joined[bits & 511], dice.born[bits >> 9 & 511], dice.happened[bits >> 18 & 511]
        gender, email = GENDERS[bits >> 27 & 1], b"customer-%d@example.com" % number
        if bad:
            wrong = self._bad % 3
            gender, email = (WRONG_GENDER if wrong == 0 else gender), (WRONG_EMAIL if wrong == 1 else email)
            born = WRONG_DATE if wrong == 2 else born
            self._bad += 1
        lots: list[bytes] = []
        for wallet in wallets:
            self._add_lots(lots, wallet)
        tokens = [self._device() for _ in range(int(self._devices + dice.random()))]
        array = self._layout.array
        return self._form % (
            id_, dice.names[bits >> 28 & 15], dice.surnames[bits >> 32 & 15], email, since, array(lots, ENTRY), gender,
            born, number, since, TIERS[bits >> 36 & 1], visit, amount(spent, 2), purchases, array(tokens, ENTRY),
        )  # fmt: skip

    def deleted(self) -> bytes:
        """Make the fields that mark a deleted customer."""
        return self._gone % self._dice.happened[self._dice.bits(9)]

    def _add_lots(self, lots: list[bytes], wallet: Wallet) -> None:
        """Add a wallet as one lot, or as two of which the first expires."""
        bits, reward = self._dice.bits(20), REWARDS[wallet.reward]
        store, day, rest = bits & 63, self._dice.happened[bits >> 6 & 511], wallet.total
        if bits >> 15 & 3 == 0 and rest > 2:
            part = amount(rest // 3, reward.digits)
            rest -= rest // 3
            lots.append(self._lot % (reward.id, part, b'"2049-12-31T00:00:00Z"', reward.brand, store, day))
        lots.append(self._lot % (reward.id, amount(rest, reward.digits), b"null", reward.brand, store, day))

    def _device(self) -> bytes:
        dice, bits = self._dice, self._dice.bits(20)
        platform, model, system = PLATFORMS[bits & 1], bits >> 1 & 15, 8 + (bits >> 5 & 7)
        return self._token % (dice.token(), platform, model, system, dice.happened[bits >> 8 & 511])


class Purchases:
    """Makes the events of a customer, `mean` on average. `is_reversed` decides for each event."""

    def __init__(self, dice: Dice, layout: Layout, mean: float, is_reversed: Spread) -> None:
        self._mean, self._dice, self._layout, self._is_reversed = mean, dice, layout, is_reversed
        self._form, self._product = layout.template(EVENT, ENTRY), layout.template(PRODUCT, ENTRY + 3)
        self._reversed, self._close = (
            layout.template(b',"reversed_at":"%b"', ENTRY + 1),
            layout.template(b"}", ENTRY + 1),
        )

    def make(self, number: int) -> tuple[list[bytes], int, int]:
        """Make the events of a customer; return also value and number of the events that are not reversed."""
        dice, spent, live = self._dice, 0, 0
        events: list[bytes] = []
        for place in range(1, dice.about(self._mean) + 1):
            bits = dice.bits(30)
            products, value = self._products(1 + (bits & 1) + (bits >> 1 & 1))
            price, day, brand = amount(value, 2), dice.happened[bits >> 2 & 511], REWARDS[(bits >> 11 & 15) % 3].brand
            method, store = METHODS[bits >> 15 & 3], bits >> 17 & 63
            event = self._form % (brand, number, place, price, price, products, method, day, day, store)
            if self._is_reversed.next():
                event += self._reversed % day
            else:
                spent, live = spent + value, live + 1
            events.append(event + self._close)
        return events, spent, live

    def _products(self, count: int) -> tuple[bytes, int]:
        products, total = [], 0
        for _ in range(count):
            bits = self._dice.bits(30)
            value = 99 + (bits & 16_383)
            products.append(self._product % (bits >> 14 & 4095, 1 + (bits >> 26 & 3), amount(value, 2)))
            total += value
        return self._layout.array(products, ENTRY + 3), total


class Histories:
    """Makes balances, and the transactions that explain them, `mean` on average."""

    def __init__(self, dice: Dice, layout: Layout, mean: float) -> None:
        self._mean, self._dice = mean, dice
        self._form = layout.template(TRANSACTION, ENTRY)
        self._cause = layout.template(b'{"type":"PURCHASE"}', ENTRY + 1)

    def make(self, explained: bool) -> tuple[list[Wallet], list[bytes]]:
        """Make the wallets of a customer, and the transactions that explain them if `explained`."""
        dice, bits = self._dice, self._dice.bits(40)
        count = dice.about(self._mean) if explained else 0
        reward, places = bits % 3, 1 + (bits >> 8 & 3 == 0)
        if not count:
            return [Wallet((reward + place) % 3, bits >> 10 + 15 * place & 32_767) for place in range(places)], []
        entries: list[bytes] = []
        wallets = []
        for share in (count,) if places == 1 or count == 1 else (count - count // 2, count // 2):
            wallets.append(Wallet(reward, self._entries(entries, REWARDS[reward], share)))
            reward = (reward + 1) % 3
        return wallets, entries

    def _entries(self, entries: list[bytes], reward: Reward, count: int) -> int:
        """Add `count` transactions and return their sum. The balance never goes below zero."""
        total = 0
        for _ in range(count):
            bits = self._dice.bits(40)
            day, store, drawn = self._dice.happened[bits & 511], bits >> 9 & 63, bits >> 15 & 16_383
            if total and bits >> 29 & 3 == 0:
                change, why, cause = -1 - drawn % total, (b"Taken at the counter", b"REDEMPTION"), b"null"
            else:
                change, why, cause = drawn + 1, (b"Earned with a purchase", b"ACCUMULATION"), self._cause
            text = amount(change, reward.digits)
            entries.append(self._form % (reward.brand, reward.id, *why, day, day, text, store, cause))
            total += change
        return total


class Spread:
    """Chooses a share of its calls, evenly. `phase` keeps two shares from choosing the same."""

    def __init__(self, share: float, phase: float) -> None:
        self._share, self._sum = share, phase
        self.chosen = 0

    def next(self) -> bool:
        self._sum += self._share
        if self._sum < 1.0:
            return False
        self._sum -= 1.0
        self.chosen += 1
        return True
