"""A headless Chromium, driven through chromedriver by the W3C WebDriver protocol over plain HTTP."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import urllib.request
from typing import Any

FLAGS = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Browser:
    """One browser window; closed at the end of a `with`."""

    def __init__(self, width: int = 1200, height: int = 900, dark: bool = False):
        self.width, self.height, self.dark = width, height, dark

    def __enter__(self) -> Browser:
        self.profile = tempfile.mkdtemp(prefix="guard-browser-")
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = None
        for line in self.driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                port = found[1]
                break
        assert port, "chromedriver did not start"
        self.base = f"http://127.0.0.1:{port}"
        flags = FLAGS + [f"--user-data-dir={self.profile}", f"--window-size={self.width},{self.height}"]
        # As root, as in a container, Chromium's own sandbox cannot be set up.
        flags += ["--no-sandbox"] if os.geteuid() == 0 else []
        flags += ["--force-dark-mode"] if self.dark else []
        options = {"args": flags, "binary": shutil.which("chromium")}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        wanted["unhandledPromptBehavior"] = "ignore"
        self.session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._call("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            self.driver.wait()
            shutil.rmtree(self.profile, ignore_errors=True)

    def _call(self, method: str, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        # No proxy of the environment's: the driver is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: pathlib.Path) -> None:
        self._call("POST", f"/session/{self.session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Runs JavaScript in the page, past its content security policy as a debugger is; what it returns."""
        return self._call("POST", f"/session/{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def type(self, selector: str, text: str) -> None:
        element = self._call("POST", f"/session/{self.session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/session/{self.session}/element/{next(iter(element.values()))}/value", {"text": text})

    def click(self, selector: str) -> None:
        element = self._call("POST", f"/session/{self.session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/session/{self.session}/element/{next(iter(element.values()))}/click", {})

    def console(self) -> list[str]:
        """What the page has complained about since this was last asked."""
        return [entry["message"] for entry in self._call("POST", f"/session/{self.session}/se/log", {"type": "browser"})]

    def screenshot(self, path: pathlib.Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", f"/session/{self.session}/screenshot")))
