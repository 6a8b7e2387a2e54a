"""Debian's Chromium without a window, driven by its DevTools protocol over two pipes."""

from __future__ import annotations

import base64
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-default-browser-check",
    "--password-store=basic",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab."""

    def __init__(self, to: trio.lowlevel.FdStream, came: trio.lowlevel.FdStream) -> None:
        self._to = to
        self._from = came
        self._numbers = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._changed = trio.Condition()
        self._tab = ""
        self.problems: list[str] = []
        """What the page complained about: exceptions, errors on the console, refusals of its policy."""

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._numbers += 1
        number = self._numbers
        message = {"id": number, "method": method, "params": params} | ({"sessionId": self._tab} if self._tab else {})
        await self._to.send_all(json.dumps(message).encode() + b"\0")
        with trio.fail_after(30):
            async with self._changed:
                while number not in self._replies:
                    await self._changed.wait()
        reply = self._replies.pop(number)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return reply["result"]  # type: ignore[no-any-return]

    async def read(self) -> None:
        data = bytearray()
        while block := await self._from.receive_some(65536):
            data += block
            while (end := data.find(b"\0")) >= 0:
                message = json.loads(bytes(data[:end]))
                del data[: end + 1]
                if "id" in message:
                    async with self._changed:
                        self._replies[message["id"]] = message
                        self._changed.notify_all()
                else:
                    self._heed(message["method"], message["params"])

    def _heed(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])

    async def attach(self) -> None:
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        self._tab = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            await self.send(f"{domain}.enable")

    async def go(self, url: str) -> None:
        await self.send("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        done = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str, seconds: float = 20) -> Any:
        """Waits until an expression is true; its value."""
        value = None
        with trio.move_on_after(seconds):
            while not (value := await self.run(script)):
                await trio.sleep(0.02)
        assert value, (
            f"{script} is {value!r} after {seconds} s; {self.problems}; {await self.run('document.body.innerText')}"
        )
        return value

    async def click(self, selector: str) -> None:
        """With the mouse, in the middle of the first element that this selects."""
        name = json.dumps(selector)
        await self.run(f"document.querySelector({name}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = await self.run(f"document.querySelector({name}).getBoundingClientRect().toJSON()")
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    async def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        more = {"windowsVirtualKeyCode": codes[key]} if key in codes else {}
        await self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **({"text": text} if text else {}), **more)
        await self.send("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    async def type(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def size(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        look = "dark" if dark else "light"
        await self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": look}])

    async def picture(self, path: str) -> None:
        shot = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await trio.Path(path).write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser of its own: its profile, and all its processes, are gone afterwards."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as home:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": home,
            "TMPDIR": home,
            "LANG": "C.UTF-8",
            "XDG_CONFIG_HOME": home,
            "XDG_CACHE_HOME": home,
        }
        script = f'exec "$@" 3<&{to_read} 4>&{from_write}'
        words = ["bash", "-c", script, "bash", "chromium", *FLAGS, f"--user-data-dir={home}/profile"]
        async with trio.lowlevel.FdStream(to_write) as to, trio.lowlevel.FdStream(from_read) as came:
            async with trio.open_nursery() as nursery:
                process = await trio.lowlevel.open_process(
                    words,
                    pass_fds=(to_read, from_write),
                    env=environment,
                    stdin=-3,
                    stdout=-3,
                    stderr=-3,
                    start_new_session=True,
                )
                os.close(to_read)
                os.close(from_write)
                browser = Browser(to, came)
                try:
                    nursery.start_soon(browser.read)
                    await browser.attach()
                    yield browser
                finally:
                    with trio.CancelScope(shield=True):
                        with trio.move_on_after(5):
                            browser._tab = ""
                            try:
                                await browser.send("Browser.close")
                                await process.wait()
                            except (trio.BrokenResourceError, trio.TooSlowError):
                                pass
                        try:
                            os.killpg(process.pid, signal.SIGKILL)
                        except ProcessLookupError:
                            pass
                        await process.wait()
                    nursery.cancel_scope.cancel()
