"""What of a source record is one dead letter's: all of it, or units between those that others were sent as."""

from __future__ import annotations

from streammig.aftercare.share import UNCLEAR, share
from streammig.batching import split_record
from streammig.records import DeadLetter, Examined, Position, Record, Tally

POSITION = Position(0, 100, 50, 3)


def record(unit: int, *events: str) -> Record:
    body = b'{"id":"c1","events":[' + b",".join(b'"%b"' % event.encode() for event in events) + b"]}"
    return Record(POSITION, unit, "c1", body, len(events), (), (body.index(b"[") + 1, len(body) - 2))


def letter(unit: int, tally: Tally, code: str = "bad") -> DeadLetter:
    return DeadLetter(POSITION, unit, code, "what is wrong", tally)


def made(*parts: Record | DeadLetter) -> Examined:
    records = tuple(part for part in parts if isinstance(part, Record))
    return Examined(POSITION, records, dead=tuple(part for part in parts if isinstance(part, DeadLetter)))


def bodies(*records: Record) -> list[bytes]:
    return [it.body for it in records]


def test_a_letter_alone_takes_all_that_its_source_record_makes_now() -> None:
    before, now = made(letter(0, Tally(1, 2))), made(record(0, "a", "b"), record(2, "c"))
    found = share(letter(0, Tally(1, 2)), before, now)
    assert bodies(*found.records) == bodies(*now.records)
    assert found.units == (0, 3)


def test_what_was_refused_by_the_target_is_sent_as_it_stands() -> None:
    whole = record(0, "a", "b")
    found = share(letter(0, whole.tally, "refused"), made(whole), made(whole))
    assert found.records == [whole]


def test_of_a_record_that_was_split_only_the_refused_part_is_sent() -> None:
    whole = record(0, "a", "b", "c")
    _, second = split_record(whole, 1)
    found = share(letter(1, second.tally, "refused"), made(whole), made(whole))
    assert bodies(*found.records) == bodies(second)
    assert found.units == (1, 3)


def test_a_part_may_lose_a_unit_when_the_parts_beside_it_stay_as_they_were() -> None:
    whole, mended = record(0, "a", "b", "c", "d"), record(0, "a", "c", "d")
    middle = split_record(split_record(whole, 1)[1], 2)[0]
    found = share(letter(1, middle.tally, "refused"), made(whole), made(mended))
    assert bodies(*found.records) == [record(0, "c").body]


def test_where_more_than_the_letters_part_was_changed_nothing_is_sent() -> None:
    whole, mended = record(0, "a", "b", "c"), record(0, "x", "b", "c")
    found = share(letter(1, split_record(whole, 1)[1].tally, "refused"), made(whole), made(mended))
    assert (found.records, found.code) == ([], UNCLEAR)


def test_a_mapped_part_is_repaired_between_its_neighbours() -> None:
    bad = letter(1, Tally(1, 0))
    before, now = made(record(0, "a"), bad, record(2, "z")), made(record(0, "a"), record(1, "b", "c"), record(3, "z"))
    found = share(bad, before, now)
    assert bodies(*found.records) == [record(1, "b", "c").body]
    assert found.units == (1, 3)


def test_what_is_still_bad_says_why_and_a_neighbour_that_became_bad_is_unclear() -> None:
    bad, worse = letter(1, Tally(1, 0)), letter(1, Tally(1, 0), "worse")
    before = made(record(0, "a"), bad)
    assert share(bad, before, made(record(0, "a"), worse)).code == "worse"
    assert share(bad, before, made(letter(0, Tally(1, 0)), record(1, "b"))).code == UNCLEAR


def test_what_is_left_out_now_is_filtered() -> None:
    before, now = made(letter(0, Tally(1, 1))), Examined(POSITION, filtered=(("deleted", Tally(1, 1)),))
    found = share(letter(0, Tally(1, 1)), before, now)
    assert (found.code, found.filtered) == ("deleted", True)


def test_a_mapping_mended_since_makes_one_record_of_it_or_it_is_unclear_which_is_the_letters() -> None:
    lone = letter(0, Tally(1, 0), "mapping-failed")
    one, two = made(record(0, "a", "b")), made(record(0, "a"), record(1, "b"))
    assert share(lone, one, one).records == list(one.records)
    assert share(lone, two, two).code == UNCLEAR


def test_where_nothing_is_made_of_it_any_more_it_stays() -> None:
    nothing = Examined(POSITION)
    assert share(letter(0, Tally(1, 0)), nothing, nothing).code == UNCLEAR
