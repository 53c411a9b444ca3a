"""Headless Chromium over the DevTools protocol: pages as people see them, and every request that they make."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest


class Tab:
    """One page: its requests are gathered from the beginning."""

    def __init__(self, address: str) -> None:
        import websocket

        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._number = 0
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, url: str, width: int, height: int, mobile: bool = False) -> None:
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 90) -> Any:
        end = time.monotonic() + seconds
        while not (found := self.value(script)):
            assert time.monotonic() < end, f"not within {seconds} s: {script}\n{self.value('document.body.innerText')}"
            time.sleep(0.3)
        return found

    def put(self, selector: str, file: Path) -> None:
        """Choose a file in an `<input type=file>`, as its dialogue does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def download(self, button: str) -> str:
        """Click what an expression gives, and read the file that it downloads as text."""
        with TemporaryDirectory() as folder:
            self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=folder)
            self.wait(f"!!({button})")
            self.value(f"({button}).click()")
            end = time.monotonic() + 60
            while not (files := [file for file in Path(folder).iterdir() if file.suffix != ".crdownload"]):
                assert time.monotonic() < end, "nothing is downloaded"
                time.sleep(0.3)
            return files[0].read_text(encoding="utf-8")

    def screenshot(self, file: Path) -> Path:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
        return file


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """A browser with one empty tab; skips, saying so, where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine")
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"]
    command = [program, *options, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if found := re.search(r"ws://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                pytest.fail("Chromium did not start")
            yield Tab(_first_page(int(found[1])))
        finally:
            process.kill()


def _first_page(port: int) -> str:
    from urllib.request import urlopen

    with urlopen(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
        return next(page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page")
