"""A real Chromium for tests, without a window, spoken to through a pipe; it listens nowhere."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or ""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--hide-scrollbars",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
COMMANDS, ANSWERS = 3, 4  # the descriptors on which Chromium expects its pipe


class Tab:
    """One page of the browser. `events` are the notices that came so far, in order."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._rest = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the DevTools protocol, to its answer."""
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._commands, json.dumps(asked).encode() + b"\0")
        while (said := self._next()).get("id") != self._number:
            self.events.append(said)
        assert "error" not in said, said
        result: dict[str, Any] = said["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._answers, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        message, _, self._rest = self._rest.partition(b"\0")
        said: dict[str, Any] = json.loads(message)
        return said

    def show(self, page: Path | str, width: int, height: int = 900, scheme: str = "light") -> None:
        """Open a file or an address at a width in pixels, and wait until it is drawn."""
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )  # fmt: skip
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page; the page's own rules do not bind it."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, promise: str) -> Any:
        """What a promise in the page comes to."""
        asked = {"expression": promise, "awaitPromise": True, "returnByValue": True}
        return self.call("Runtime.evaluate", **asked)["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text="\r", windowsVirtualKeyCode=13)

    def picture(self) -> bytes:
        """The whole page as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def heard(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self.events if event.get("method") == method]


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """A Chromium with a profile of its own; killed when the block is left."""
    theirs, ours = os.pipe()
    mine, his = os.pipe()

    def begin() -> None:
        # By way of high numbers: either may be in the other's place.
        for number, descriptor in ((100, theirs), (101, his)):
            os.dup2(descriptor, number)
        for number, descriptor in ((COMMANDS, 100), (ANSWERS, 101)):
            os.dup2(descriptor, number)

    with subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"], preexec_fn=begin, pass_fds=(COMMANDS, ANSWERS),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        os.close(theirs)
        os.close(his)
        try:
            yield Tab(ours, mine)
        finally:
            running.kill()
            os.close(ours)
            os.close(mine)
