"""`nvme-emu top --web` in headless Chromium: the page comes up, draws, and takes a key."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nvme_emu.cli.top import top

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ACCENT = (0x7D, 0xCF, 0xFF)
WAIT_S = 60


def test_web_address_that_is_none_is_refused() -> None:
    result = CliRunner().invoke(top, ["--web", "localhost"], standalone_mode=False)
    assert result.return_value == 2
    assert "[HOST:]PORT is needed" in result.stderr


def test_web_without_textual_serve_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    result = CliRunner().invoke(top, ["--web", "8000"], standalone_mode=False)
    assert result.return_value == 2
    assert "pip install 'nvme-emu[web]'" in result.stderr


@contextlib.contextmanager
def process(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, **options) as started:
        try:
            yield started
        finally:
            started.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                started.wait(10)
            started.kill()


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(WAIT_S * 4):
        with contextlib.suppress(OSError):
            if found := await look():
                return found
        await asyncio.sleep(0.25)
    raise AssertionError("it never came")


def selected_tab(png: bytes) -> int:
    """Where the middle of the selected tab is: the second line of text is filled with its colour there. 0: nowhere."""
    from matplotlib import image

    pixels = (image.imread(io.BytesIO(png))[:, :, :3] * 255).round().astype(int)
    filled = (abs(pixels - ACCENT) <= 2).all(axis=2)[20:34].sum(axis=0) > 10
    columns = filled.nonzero()[0].tolist()
    # The middle one: strokes of other tabs' digits have the colour too.
    return columns[len(columns) // 2] if len(columns) > 40 else 0


@pytest.mark.timeout(300)
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_browser_shows_the_inspector_and_its_keys_work(tmp_path: Path) -> None:
    pytest.importorskip("textual_serve", reason="textual-serve is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from nvme_emu.cli import main; main()"
    serve = [sys.executable, "-c", code, "top", "--web", f"127.0.0.1:{port}", "--set", "size=4m"]
    browser = [str(CHROMIUM), "--headless", "--no-sandbox", "--enable-unsafe-swiftshader", "--window-size=1200,800"]
    browser += ["--remote-debugging-port=0", f"--user-data-dir={tmp_path}", "about:blank"]
    with (
        process(*serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
        process(*browser, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as chromium,
    ):
        assert chromium.stderr is not None
        told = next(found for text in chromium.stderr if (found := re.search(r"ws://([^/]+)/", text)))
        first, second = asyncio.run(_pictures(told[1], f"http://127.0.0.1:{port}/"))
    # The selected tab is the first one, and after the key 6 another one further to the right.
    assert 0 < first < 110
    assert 480 < second < 600


async def _pictures(debugger: str, url: str) -> tuple[int, int]:
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def serves() -> bool:
            async with session.get(url) as answer:
                return answer.status == 200

        await until(serves)
        async with session.put(f"http://{debugger}/json/new?{url}") as answer:
            page = (await answer.json())["webSocketDebuggerUrl"]
        async with session.ws_connect(page, max_msg_size=0) as pipe:

            async def call(method: str, **params: Any) -> Any:
                await pipe.send_json({"id": 1, "method": method, "params": params})
                while (message := await pipe.receive_json()).get("id") != 1:
                    pass
                return message["result"]

            async def picture() -> int:
                shot = await call("Page.captureScreenshot", format="png")
                return selected_tab(base64.b64decode(shot["data"]))

            first = await until(picture)
            for kind in ("mousePressed", "mouseReleased"):
                await call("Input.dispatchMouseEvent", type=kind, x=600, y=400, button="left", clickCount=1)
            key = {"key": "6", "code": "Digit6", "windowsVirtualKeyCode": 0x36}

            async def moved() -> int:
                # Typed again until it has worked: a page that has not got its focus yet takes no keys.
                await call("Input.dispatchKeyEvent", type="keyDown", text="6", **key)
                await call("Input.dispatchKeyEvent", type="keyUp", **key)
                seen = await picture()
                return seen if seen > first + 300 else 0

            return first, await until(moved)
