"""
Chromium without a window, driven over the DevTools protocol.

One WebSocket a page, and plain blocking calls. It needs nothing but the browser
and the WebSocket client that other tests use: no driver program, no download.
"""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from websockets.sync.client import connect

#: Seconds that anything may take: ten times what it takes on a busy machine.
PATIENCE = 60.0

#: Seconds between two looks at something that is waited for.
POLL = 0.02

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    # Pages behind others go on as if they were in front.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--remote-debugging-port=0",
)


def find_chromium():
    """Return the path of a Chromium, or ``None`` where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def wait_until(condition, what):
    """Return what ``condition()`` does, once it is true; look often."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not in {PATIENCE:.0f} s: {what}")
        time.sleep(POLL)
    return found


class Browser:
    """
    A Chromium with a profile of its own; a context manager.

    Args:
        folder: An empty directory for its profile and its log.

    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._pages = ExitStack()

    def __enter__(self):
        program = find_chromium()
        assert program is not None, "find_chromium() says whether there is one"
        profile = self.folder / "profile"
        with open(self.folder / "chromium.log", "wb") as log:
            self.process = subprocess.Popen(
                [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            port_file = profile / "DevToolsActivePort"
            wait_until(lambda: self._is_written(port_file), "Chromium's start")
            self.port = int(port_file.read_text().splitlines()[0])
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_):
        try:
            self.close_pages()
        finally:
            self._end()

    def _is_written(self, port_file):
        if self.process.poll() is not None:
            said = (self.folder / "chromium.log").read_text(errors="replace")
            raise RuntimeError(f"Chromium ended at its start:\n{said}")
        return port_file.exists() and "\n" in port_file.read_text()

    def _end(self):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def open(self, url, *, width=1280, height=800, dark=False):
        """Open ``url`` in a new tab and return its page, loaded."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT"
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            target = json.load(response)
        page = self._pages.enter_context(Page(target["webSocketDebuggerUrl"]))
        page.resize(width, height)
        page.prefer(dark=dark)
        page.go(url)
        return page

    def close_pages(self):
        """Close every tab that ``open`` opened."""
        self._pages.close()


class Page:
    """
    One tab; a context manager, at whose end it is closed.

    Args:
        address: Of its end of the DevTools protocol.

    Attributes:
        errors: What the console said of errors and warnings, in order.

    """

    def __init__(self, address):
        self.errors = []
        self._connecting = connect(address, max_size=None, compression=None)
        self._last = 0

    def __enter__(self):
        self._socket = self._connecting.__enter__()
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        # Every page is in front for itself: focused, and never throttled.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return self

    def __exit__(self, *error):
        try:
            self.call("Page.close")
        finally:
            self._connecting.__exit__(*error)

    def call(self, method, **params):
        """Call a method of the protocol and return its result."""
        self._last += 1
        request = {"id": self._last, "method": method, "params": params}
        self._socket.send(json.dumps(request))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") != self._last:
                self._notice(message)
            elif "error" in message:
                raise RuntimeError(f"{method}: {message['error']['message']}")
            else:
                return message["result"]

    def _notice(self, event):
        """Keep what an event says of errors."""
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", "")
            self.errors.append(f"{details['text']} {thrown}")
        elif event["method"] == "Runtime.consoleAPICalled":
            if params["type"] in ("error", "warning", "assert"):
                said = (str(each.get("value", each)) for each in params["args"])
                self.errors.append(" ".join(said))
        elif event["method"] == "Log.entryAdded":
            entry = params["entry"]
            if entry["level"] in ("error", "warning"):
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    def evaluate(self, expression):
        """Return the value of a JavaScript expression, awaited."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            thrown = details.get("exception", {}).get("description", "")
            raise RuntimeError(f"{expression}: {details['text']} {thrown}")
        return result["result"].get("value")

    def wait(self, expression):
        """Return the value of ``expression``, once it is true."""
        return wait_until(lambda: self.evaluate(expression), expression)

    def draw(self):
        """Wait until the page has drawn what it knows, and seen its effects."""
        self.evaluate(
            "new Promise((done) => requestAnimationFrame(() =>"
            " requestAnimationFrame(() => setTimeout(done))))"
        )

    def go(self, url):
        """Load ``url``, as if it had been typed into the address bar."""
        result = self.call("Page.navigate", url=url)
        if "errorText" in result:
            raise RuntimeError(f"{url}: {result['errorText']}")
        self.wait(
            "location.href !== 'about:blank' && document.readyState === 'complete'"
        )

    def resize(self, width, height):
        """Show the page in a window of this size, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, *, dark):
        """Tell the page what its reader prefers."""
        scheme = {
            "name": "prefers-color-scheme",
            "value": "dark" if dark else "light",
        }
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def type(self, text):
        """Type into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key, *, code=0):
        """Press and release a key, as "Enter" or "Tab"."""
        codes = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, "")}
        number, text = codes.get(key, (code, key))
        press = {"key": key, "code": key, "windowsVirtualKeyCode": number}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **press)
        self.call("Input.dispatchKeyEvent", type="keyUp", **press)

    def click(self, selector):
        """Click in the middle of the element that ``selector`` names."""
        x, y = self.evaluate(
            f"""(() => {{
                const element = document.querySelector({json.dumps(selector)});
                element.scrollIntoView({{ block: "nearest" }});
                const box = element.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **at)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **at)

    def screenshot(self, path):
        """Write what one sees into a PNG file."""
        shot = self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(shot["data"]))
