"""Exports on servers: objects in a store and files on the web, read by ranges, bound by ETag and size."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from streammig.errors import MachineFault, Problem, Unusable
from streammig.model import Place
from streammig.sources import comparable, open_source, parse_input, touched, with_samples
from streammig.sources.remote import BLOCK_BYTES, RETRY
from tests.commands import Shell, sandbox
from tests.problems import raises
from tests.sandbox_caller import customer
from tests.spans import records_of
from tests.web_objects import WebObject, cutting_relay, web_object

RECORDS = [{**customer(f"c{number}"), "filler": f"{number}" * 300} for number in range(9000)]
LINES = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
SHORT = LINES[: LINES.index(b"\n", 300_000) + 1]


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebObject]:
    monkeypatch.setitem(RETRY, "max_retries", 1)
    monkeypatch.setitem(RETRY, "backoff", {"init_backoff": timedelta(milliseconds=1)})
    with web_object(SHORT) as it:
        yield it


def texts(url: str, start: Place = Place()) -> list[bytes]:  # noqa: B008
    return [it.data for it in records_of(open_source([parse_input(url)]), start)]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_object_is_read_like_a_file_and_on_from_any_record(web: WebObject, pack: Any) -> None:
    web.data = pack(SHORT)
    found = list(records_of(open_source([parse_input(web.url)])))
    assert [it.data for it in found] == SHORT.splitlines()
    begin = found[200]
    assert texts(web.url, Place(0, begin.offset, 0, begin.ordinal)) == SHORT.splitlines()[200:]


def test_a_path_behind_the_address_names_the_array(web: WebObject) -> None:
    web.data = b'{"a": [{"id": "no"}], "b": {"c": [{"id": "yes"}]}}'
    assert texts(f"{web.url}#b.c") == [b'{"id": "yes"}']


@pytest.mark.slow
@pytest.mark.parametrize("cut", [30_000, 70_000, 300_001])
def test_a_cut_connection_is_gone_on_behind_what_came(web: WebObject, cut: int) -> None:
    web.data = b"[" + SHORT.replace(b"\n", b",")[:-1] + b"]"
    web.cut = cut
    assert len(texts(web.url)) == web.data.count(b'"filler"')


@pytest.mark.slow
def test_a_reading_asks_for_a_block_at_a_time(web: WebObject) -> None:
    web.data = LINES[: LINES.index(b"\n", BLOCK_BYTES + 100_000) + 1]
    source = open_source([parse_input(web.url)])
    web.asked.clear()
    for _ in records_of(source):
        pass
    assert web.asked == [f"bytes=0-{BLOCK_BYTES - 1}", f"bytes={BLOCK_BYTES}-{len(web.data) - 1}"]


CHANGED = SHORT.replace(b"c7", b"d7", 1)


@pytest.mark.parametrize("matches", [True, False])
@pytest.mark.parametrize("etag", ['"{}"', 'W/"{}"', '"same"', ""])
@pytest.mark.parametrize("data", [CHANGED, SHORT[:-2], SHORT + b"\n"])
def test_i8_an_object_that_is_another_now_is_refused(web: WebObject, etag: str, matches: bool, data: bytes) -> None:
    web.etag, web.matches = etag, matches
    source = open_source([parse_input(web.url)])
    assert len(list(records_of(source))) == SHORT.count(b"\n")
    web.data = data
    if data is CHANGED and etag in ('"same"', ""):
        return  # nothing tells it from what it was
    with raises(Unusable, "export-changed"):
        list(records_of(source))
    with raises(Unusable, "export-changed"):
        source.unchanged()


@pytest.mark.slow
def test_i8_a_checkpoint_is_bound_to_the_etag_and_without_one_to_samples(web: WebObject) -> None:
    then = with_samples({"c": open_source([parse_input(web.url)]).fingerprints()}, lambda: False)["c"]
    now = open_source([parse_input(web.url)]).fingerprints()
    assert comparable(now) == comparable(then)
    assert touched(now, then) == []
    asked = len(web.asked)
    assert asked < 60
    web.data = CHANGED
    assert comparable(open_source([parse_input(web.url)]).fingerprints()) != comparable(then)
    web.etag = ""
    then = with_samples({"c": open_source([parse_input(web.url)]).fingerprints()}, lambda: False)["c"]
    assert then[0]["samples"]


def refused(web: WebObject, status: int = 0, url: str = "", **more: Any) -> str:
    web.status = status
    for name, value in more.items():
        setattr(web, name, value)
    return url or web.url


@pytest.mark.parametrize(
    ("kind", "code", "more"),
    [
        (Unusable, "export-unreadable", {"status": 404}),
        (Unusable, "export-unreadable", {"status": 403}),
        (Unusable, "export-unreadable", {"status": 401}),
        (Unusable, "export-unreadable", {"ranges": False}),
        (Unusable, "export-empty", {"data": b""}),
        (MachineFault, "export-io", {"status": 500}),
        (MachineFault, "export-io", {"url": "http://127.0.0.1:9/export"}),
        (MachineFault, "export-io", {"url": "http:///export"}),
        (MachineFault, "export-io", {"fails_behind": 0}),
    ],
)
def test_a_server_that_does_not_give_an_object_stops_the_run(
    web: WebObject, kind: type[Problem], code: str, more: dict[str, Any]
) -> None:
    url = refused(web, **more)
    with raises(kind, code):
        texts(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://ana:hunter2@127.0.0.1/e",
        "http://hunter2@127.0.0.1/e",
        "https://h/e.json?sig=hunter2",
        "s3://a:hunter2@b/c",
    ],
)
def test_i9_an_address_with_a_secret_is_refused_and_the_secret_is_not_shown(shell: Shell, url: str) -> None:
    called = shell("run", "--customers", url, "--base-url", "http://127.0.0.1:9", "--limits", "off", "--json")
    assert called.problem == "address-with-secret"
    assert "hunter2" not in called.out + called.err
    assert not shell.checkpoint.exists()


def test_without_the_extra_the_command_that_installs_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with raises(Unusable, "extra-missing") as caught:
        texts("s3://bucket/export.ndjson")
    assert "pip install 'streammig[object-stores]'" in caught.value.hint


class Stored(NamedTuple):
    """An object in a store, and how another is put in its place."""

    address: str
    put: Callable[[bytes], object]


KEY = "old shop/c&1?.ndjson"
SECRET = "aHVudGVyMg=="


@pytest.fixture(params=["s3", "gs", "az"])
def stored(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stored]:
    """An object of each kind of store, behind a relay that cuts each connection behind 3 MB of answers."""
    address = f"{request.param}://exports/{KEY}"
    if request.param == "s3":
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        _, port = server.get_host_and_port()
        with cutting_relay(port, 3_000_000) as relay:
            environ = {"ENDPOINT_URL": f"http://127.0.0.1:{relay}", "ALLOW_HTTP": "true", "REGION": "us-east-1"}
            for name, value in {**environ, "ACCESS_KEY_ID": "AKIA-OF-A-TEST", "SECRET_ACCESS_KEY": SECRET}.items():
                monkeypatch.setenv(f"AWS_{name}", value)
            with urlopen(Request(f"http://127.0.0.1:{port}/exports", method="PUT")):
                pass
            yield Stored(address, partial(obstore.put, S3Store("exports"), KEY))
        server.stop()
        return
    with web_object(b"") as it, cutting_relay(urlsplit(it.url).port or 0, 3_000_000) as relay:
        it.path, it.signed = (
            (f"/exports/{KEY}", f"Bearer {SECRET}")
            if request.param == "gs"
            else (f"/shop/exports/{KEY}", "SharedKey shop:")
        )
        monkeypatch.setenv("GOOGLE_BASE_URL", f"http://127.0.0.1:{relay}")
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", SECRET)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{relay}/shop")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "shop")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", SECRET)
        yield Stored(address, partial(setattr, it, "data"))
        assert len(it.asked) > 5


@pytest.mark.slow
def test_i3_i4_i8_a_migration_from_a_store_is_delivered_once_over_cuts_and_a_resume(
    shell: Shell, stored: Stored
) -> None:
    stored.put(LINES)
    with sandbox(limits="off") as target:
        first = shell.run(target.url, "--customers", stored.address, "--first", "4000", "--json", "--quiet")
        stored.put(LINES.replace(b"c8999", b"d8999"))
        other = shell.run(target.url, "--customers", stored.address, "--json", "--quiet")
        stored.put(LINES)
        rest = shell.run(target.url, "--customers", stored.address, "--json", "--quiet")
        held = target.ledger()["holds"]["customers"]
    assert (first.code, other.problem, rest.code) == (10, "checkpoint-of-another-migration", 0), first.err
    assert held["count"] == held["landed"] == len(RECORDS)
    kept = b"".join(data for path, data in shell.files().items() if not path.endswith("outbox"))
    assert SECRET.encode() not in kept
    assert b"AKIA-OF-A-TEST" not in kept
