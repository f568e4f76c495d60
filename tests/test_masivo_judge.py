"""The compiled judge calls clean only what the rules in Python send just so, and reads nothing outside its block."""

from __future__ import annotations

import ctypes
import json
import mmap
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from threading import Barrier, BrokenBarrierError
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest

from streammig.columns import Chunk
from streammig.errors import BrokenExport
from streammig.masivo.models import Customer, OwnerOfEvents, OwnerOfTransactions
from streammig.masivo.rules import RuleOptions, StageRules, rules
from streammig.masivo.rules.compiled import AMOUNT, KEY, MOST_EXTRAS, OWNER, UNITS, Judge, Roles, is_compiled
from streammig.masivo.rules.filters import Filters
from streammig.masivo.rules.shape import shape_of
from streammig.model import Examined, Span
from streammig.sources import FileSource, Input, open_source
from tests.shares import share
from tests.test_batch_digests import MAKERS, REWARDS

pytestmark = pytest.mark.skipif(not is_compiled(), reason="no compiled judge in this installation")

NOW = datetime(2024, 5, 1, tzinfo=UTC)
SOME = 500  # records that are judged together
MODELS: dict[str, type[msgspec.Struct]] = {
    "customers": Customer,
    "events": OwnerOfEvents,
    "transactions": OwnerOfTransactions,
}
STAGES = tuple(MODELS)
BITS = [
    b'"', b"\\", b",", b":", b"{", b"}", b"[", b"]", b"null", b"true", b"false", b"1e3", b"1E-2", b"1.5e1", b"0.001",
    b"-5", b"-0", b"00", b'"id":"x",', b'"name":"y",', b" ", b"\n", b"\t", b"\x00", b"\x7f", b"\xc2\x85", b"\xff",
    b"\xed\xa0\x80", b"\xc3\xa9", b"\xf0\x9f\x8e\x89", b"\\ud800", b"\\ud83c\\udf89", b"\\u00e9", b"\\u002f",
    b"\\u002c", b"\\n", b"\\/", b"0", b".5", b"1.50", b"12345678901234567890123456789012", b"1e28", b"1e27", b"0e99",
    b"T", b"Z", b"t", b"+25:00", b"+02:00", b".123456", b".1234567", b"2023-02-29T00:00:00Z",
    b"2024-02-29T23:59:59.5-05:00", b"2020-01-31 10:00:00+0200", b"/", b"@", b"..", b"-", b"a-.b",
]  # fmt: skip
MEMBERS = [
    b'"status":"ACTIVE"', b'"status":"DELETED"', b'"status":"inactive"', b'"status":null', b'"deleted_at":null',
    b'"deleted_at":"x"', b'"amount":5', b'"amount":"5"', b'"amount":null', b'"email":"a@b.c"', b'"gender":null',
    b'"gender":"MALE"', b'"events":[]', b'"transactions":[]', b'"balance":[]', b'"fulfilled":false',
    b'"fulfilled":null', b'"phone":"1"', b'"crm":{"a":[1,{"b":"}"}]}', b'"crm":{"a":1,"a":2}',
    b'"x":[[],{},"",1e999]', b'"\\u0069d":"C"', b'"store_id":null', b'"store_id":"s"', b'"channel_id":null',
    b'"redeem":null', b'"redeem":[]', b'"tags":{"a":{"b":1}}', b'"tags":{"a":1,"a":2}', b'"metadata":null',
    b'"metadata":{}', b'"metadata":{"n":1e999}', b'"metrics":{"lifetime":{"spend_total":null,"from":null}}',
    b'"metrics":{"lifetime":{"spend_total":1.5e1,"tier_id":null}}', b'"devices":[]',
    b'"devices":[{"device_info":{"platform":"ios","osVersion":null}}]', b'"document_number":"' + b"9" * 51 + b'"',
    b'"country":"' + "\u00e9".encode() * 100 + b'"', b'"country":"' + b"\\u00e9" * 100 + b'"', b'"cost":1',
    b'"cost":null', b'"event":{"type":"PURCHASE","order":null}', b'"funded_by":null', b'"shipping":{"value":null}',
    b'"shipping":{"value":1e1}',
]  # fmt: skip


def seeds(stage: str, dice: Random) -> list[bytes]:
    """Records of every kind that is clean, spelt in each of the usual ways."""
    found = []
    for number in range(1, 80):
        record: dict[str, Any] = MAKERS[stage](dice, number)
        if number % 3 == 0:
            record = {**record, "status": "ACTIVE", "crm": {"a": [1]}}
        if number % 5 == 0 and stage == "customers":
            record |= {"email": f"josé.{number}@büro.example", "id": f"Ñ-{number}"}
        if number % 4 == 0 and stage == "customers":
            period = {"from": "2020-01-01T00:00:00Z", "spend_total": 1.25, "tier_id": REWARDS[0], "last_visit": None}
            device = {"device_token": "t", "device_info": {"platform": "web", "model": "\u2028\U0001f389"}}
            record |= {"metrics": {"lifetime": period, "this_year": {}}, "devices": [device], "country": "Österreich"}
        found.append(
            json.dumps(
                record,
                ensure_ascii=number % 2 == 0,
                indent=2 if number % 7 == 0 else None,
                separators=(",", ":") if number % 3 else None,
            ).encode()
        )
    return found


def mutated(dice: Random, data: bytes) -> bytes:
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        at = dice.randrange(len(data))
        match dice.randrange(7):
            case 0:
                data = data[:at] + dice.choice(BITS) + data[at:]
            case 1:
                data = data[:at] + data[at + 1 :]
            case 2:
                data = data[:at] + dice.choice(BITS) + data[at + 1 :]
            case 3:  # a field before another one
                at = max(data.find(b'"', at), 1) if at > 1 else 1
                data = data[:at] + dice.choice(MEMBERS) + b"," + data[at:]
            case 4:  # or as the last one of some object
                if (end := data.find(b"}", at)) > 0:
                    data = data[:end] + b"," + dice.choice(MEMBERS) + data[end:]
            case 5:  # a value of another kind
                if (colon := data.find(b":", at)) > 0 and (comma := data.find(b",", colon)) > 0:
                    data = data[: colon + 1] + dice.choice(BITS) + data[comma:]
            case 6:  # some of it twice, or not at all
                one = data.find(b",", at)
                two = data.find(b",", one + 1)
                if 0 <= one < two:
                    data = (
                        data[:two] + data[one:two] * dice.randrange(2) + data[two:]
                        if dice.random() < 0.5
                        else data[:one] + data[two:]
                    )
        data = data or b"{}"
    return data


def span_of(records: list[bytes]) -> Span:
    ends, at = [], 0
    for each in records:
        at += len(each)
        ends.append(at)
        at += 1
    starts = [end - len(each) for end, each in zip(ends, records, strict=True)]
    return Span(0, 10, b",".join(records), starts, ends, range(1, len(records) + 1))


OTHERS = [
    {"unknown_fields": "reject", "fraction_digits": 0},
    {"unknown_fields": "send", "include_inactive": True, "max_units": 5, "max_bytes": 900},
]


@pytest.mark.slow
@pytest.mark.parametrize(("most", "more"), [(100_000, {}), *[(10_000, each) for each in OTHERS]])
@pytest.mark.parametrize("stage", STAGES)
def test_i5_what_the_judge_calls_clean_is_what_the_rules_in_python_make_of_it(
    stage: str, most: int, more: dict[str, Any]
) -> None:
    dice, options = Random(77), RuleOptions(now=NOW, **more)
    judged, reference = rules(stage, options, judge="compiled"), rules(stage, options, judge="python")
    assert judged.judge is not None
    seed, clean, count = seeds(stage, dice), 0, share(most)
    for _ in range(-(-count // SOME)):
        span = span_of([mutated(dice, dice.choice(seed)) for _ in range(SOME)])
        clean += SOME - len(judged.judge.framed(span.data, span.starts, span.ends, ()).unsure)
        mine, theirs = Chunk(span, judged.columns(span)).all(), Chunk(span, reference.columns(span)).all()
        for one, other in zip(mine, theirs, strict=True):  # bodies, owners, units, amounts, what was cut and why
            assert one == other
    assert clean > count // 25


@pytest.mark.slow
@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize("stage", STAGES)
def test_i4_an_export_that_the_judge_frames_holds_what_it_holds_without(stage: str, form: str, tmp_path: Path) -> None:
    dice, options = Random(5), RuleOptions(now=NOW)
    judged, reference = rules(stage, options, judge="compiled"), rules(stage, options, judge="python")
    seed, file = seeds(stage, dice), tmp_path / ("x.json" if form == "array" else "x.ndjson")
    for _ in range(share(400)):
        texts = [mutated(dice, each) if dice.random() < 0.03 else each for each in dice.choices(seed, k=60)]
        if form == "lines":
            file.write_bytes(b"\n".join([each.replace(b"\n", b" ") for each in texts]))
        else:
            file.write_bytes(b"[" + dice.choice([b",", b" ,\n", b",\n "]).join(texts) + b"]")
        source = open_source([Input(str(file))], max_record_bytes=1200, read_bytes=dice.choice([100, 9000, 1 << 20]))
        assert fates(source.judged_by(judged.judge), judged) == fates(source.judged_by(None), reference)


def fates(source: FileSource, by: StageRules) -> tuple[list[Examined], str]:
    """What becomes of each record, and what broke the export off."""
    found: list[Examined] = []
    try:
        for span in source.spans():
            found += Chunk(span, by.columns(span)).all()
    except BrokenExport as broken:
        return found, str(broken)
    return found, ""


PAGE, NOTHING = mmap.PAGESIZE, 0  # what a page that can't be read may be used for


@pytest.fixture
def guarded() -> Iterator[memoryview]:
    """A page of memory between two that can't be read."""
    memory = mmap.mmap(-1, 3 * PAGE)
    libc, address = ctypes.CDLL(None, use_errno=True), ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (0, 2):
        assert libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, NOTHING) == 0
    yield memoryview(memory)[PAGE : 2 * PAGE]
    for page in (0, 2):
        libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_no_byte_outside_the_block_is_read_whatever_its_end_cuts_in_two(stage: str, guarded: memoryview) -> None:
    judge = rules(stage, RuleOptions(now=NOW), judge="compiled").judge
    assert judge is not None
    for record in seeds(stage, Random(3))[3:5]:
        pieces = [record[at : at + size] for at in range(len(record)) for size in range(65)]
        pieces += [record[:size] for size in range(len(record))] + [record + b"," + record[:size] for size in range(65)]
        for piece in pieces:
            size = len(piece)
            guarded[PAGE - size :] = piece
            guarded[:size] = piece if 2 * size <= PAGE else guarded[:size]
            found = judge.elements(guarded, PAGE - size, PAGE, PAGE)
            assert found.ends == judge.elements(piece, 0, size, PAGE).ends
            # What stands behind the block is none of it.
            assert found.ends == judge.elements(piece + b'"},]0', 0, size, PAGE).ends
            judge.elements(guarded, 0, min(size, PAGE - size), PAGE)
            assert judge.look(guarded[PAGE - size :]) == judge.look(piece)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[", b"{", b'"', b"\\", b'{"', b'{"id', b'{"id"', b'{"id":', b'{"id":"', b'{"id":"\\', b'{"id":"\\u',
        b'{"id":"\\ud83c', b'{"id":"\\ud83c\\', b'{"id":"\xf0\x9f', b"-", b"1.", b"1e", b"tru", b"nul",
        b"[" * 100_000, b'{"a":' * 100_000, b'{"x":' + b"[" * 63, b'{"x":[' + b"[]," * 100_000,
        b'{"' + b"x" * 100_000, b"\x00" * 100, b"\xff" * 100,
    ],
    ids=repr,
)  # fmt: skip
def test_a_hostile_block_holds_no_record(data: bytes) -> None:
    judge = rules("customers", RuleOptions(now=NOW), judge="compiled").judge
    assert judge is not None
    found = judge.elements(data, 0, len(data), len(data))
    assert (found.starts, found.columns.owners) == ([], [])
    assert judge.lines(data, [0], [len(data)], len(data)) is None
    assert judge.look(data) is None
    for low, high in ((-1, 0), (0, len(data) + 1), (1, 0)):
        with pytest.raises(ValueError, match="outside the block"):
            judge.elements(data, low, high, 9)


def test_more_rewards_and_unknown_fields_than_there_is_room_for_are_left_to_the_rules() -> None:
    judged = rules("customers", RuleOptions(now=NOW), judge="compiled")
    dice, records = Random(1), []
    for number in range(1, 300):
        lots = [
            {"reward_id": str(UUID(int=dice.getrandbits(128))), "amount": 1, "expiration_date": None, "brand_id": None}
            for _ in range(40)
        ]
        record = MAKERS["customers"](dice, number) | {"balance": lots, f"field{number}": 1}
        records.append(json.dumps(record).encode())
    reference = rules("customers", RuleOptions(now=NOW), judge="python")
    span = span_of(records)
    for _ in range(2):  # the second time with what was learnt
        assert Chunk(span, judged.columns(span)).all() == Chunk(span, reference.columns(span)).all()


def test_of_an_odd_record_the_judge_says_which_parts_are_clean() -> None:
    judge = rules("transactions", RuleOptions(now=NOW), judge="compiled").judge
    record = MAKERS["transactions"](Random(1), 1)
    good, bad = [dict(record["transactions"][0]) for _ in range(2)]
    bad["issued_at"] = "yesterday"
    data = json.dumps({"id": "C", "transactions": [good, bad], "phone": "1"}).encode()
    assert judge is not None
    look = judge.look(data)
    assert look is not None
    assert {name: it.clean for name, it in look.objects[0].items()} == {
        "id": True,
        "transactions": False,
        "phone": False,
    }
    ((_, (one, two)),) = look.lists.items()
    assert look.pairs == {one.begin: (good["reward_id"].lower(), Decimal(str(good["amount"])))}
    assert [name for name, it in look.objects[two.begin].items() if not it.clean] == ["issued_at"]
    for each in (one, two):
        assert json.loads(data[each.begin : each.end]) in (good, bad)


@pytest.mark.parametrize("data", [b'{"id":"a","id":"b"}', b'{"x":1,"x":2}', b'{"\\u0069d":"a"}', b'{"id":"a"} ', b"[]"])
def test_a_record_that_could_be_read_in_two_ways_is_not_looked_into(data: bytes) -> None:
    judge = rules("customers", RuleOptions(now=NOW), judge="compiled").judge
    assert judge is not None
    assert judge.look(data) is None


class Amount(msgspec.Struct):
    amount: Annotated[msgspec.Raw, msgspec.Meta(extra={"kind": "number"})]
    reward_id: Annotated[str, msgspec.Meta(extra={"kind": "uuid"})] = ""


class Owner(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(extra={"kind": "id"})]
    lots: list[Amount]


def of_lots(told: Callable[[Collection[str]], tuple[str, ...]]) -> Judge:
    options = RuleOptions(now=NOW)
    roles = Roles(
        {("id",): OWNER, ("lots",): UNITS, ("lots", "reward_id"): KEY, ("lots", "amount"): AMOUNT}, adds=("lots",)
    )
    return Judge(
        "lots", shape_of(Owner), options, roles, rules=None, filters=Filters(options), room=1000, most_units=9,
        dropped_paths=told,
    )  # fmt: skip


def test_threads_that_learn_at_once_learn_no_more_unknown_fields_than_there_is_room_for() -> None:
    both, full = Barrier(2), False

    def told(names: Collection[str]) -> tuple[str, ...]:
        with suppress(BrokenBarrierError):
            if full:
                both.wait(0.1)  # no other thread may come here meanwhile
        return ()

    judge = of_lots(told)

    def learn(name: str) -> None:
        data = json.dumps({"id": "C", name: 1, "lots": [{"amount": 5, "reward_id": REWARDS[0]}]}).encode()
        judge.framed(data, [0], [len(data)], ())

    for number in range(MOST_EXTRAS - 1):
        learn(f"field{number}")
    full = True
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(learn, ("one", "other")))


def test_an_amount_without_a_key_is_not_added_to_the_key_before_it() -> None:
    judge = of_lots(lambda names: ())
    lot = {"amount": 5, "reward_id": REWARDS[0]}
    keyed, keyless = (json.dumps({"id": "C", "lots": lots}).encode() for lots in ([lot], [lot, {"amount": 7}]))
    span = span_of([keyed, keyless])
    assert judge.framed(span.data, span.starts, span.ends, ()).unsure == [1]
