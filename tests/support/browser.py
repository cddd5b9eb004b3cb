"""A real browser for tests: Debian's chromium without a window, driven by selenium.

Whoever looks at the page by hand gets pictures of it, in three widths, light and dark:

    python -m tests.support.browser FOLDER
"""

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import needs
from tests.support.harness import Service, meanwhile
from tests.support.shell import Shell

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
_WIDTHS = {390: 844, 1280: 800, 2560: 1440}


@contextlib.contextmanager
def browser(folder: Path, width: int = 1280, height: int = 900) -> "Iterator[Chrome]":
    """Start a browser whose profile is in a new folder; skip the test if there is none."""
    needs.tool("chromium", "chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = needs.path_of("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(needs.path_of("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: "Chrome", width: int, height: int, *, dark: bool = False) -> None:
    """Have the page as wide and high as that, in one of the two colour schemes."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def console_of(driver: "Chrome") -> list[dict[str, Any]]:
    """Return what the page has written to the browser's console since the last call."""
    lines: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return lines


def link_to(folder: Path) -> str:
    """Return a link to the page of the service in a folder."""
    ran = Shell(folder).run("page")
    assert ran.code == 0, ran.err
    return ran.out.strip()


def _take_pictures(target: Path) -> None:
    """Take pictures of the page of a service that is busy, and of one that was killed at."""
    target.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(Service(folder, "--http", "127.0.0.1:0"))
        service.wait_until_listening()
        web = service.add_application("web shop", ["save", "count", "get"])
        service.add_application("nightly-report", ["count", "list"])
        driver = stack.enter_context(browser(folder / "browser"))
        driver.get(link_to(folder))
        tasks = [_user(service, "", 1, pause) for pause in (0.0, 0.002)]
        tasks += [_user(service, web, place, 0.001) for place in range(3)]
        with meanwhile(*tasks):
            time.sleep(40)
            service.replace("worker 2")
            time.sleep(20)
            for width, height in _WIDTHS.items():
                for dark in (False, True):
                    resize(driver, width, height, dark=dark)
                    time.sleep(2.5)
                    if width < 600:
                        whole = driver.execute_script("return document.body.scrollHeight")
                        resize(driver, width, whole + 20, dark=dark)
                        time.sleep(1.5)
                    name = f"{width}-{'dark' if dark else 'light'}.png"
                    driver.get_screenshot_as_file(str(target / name))
        print("\n".join(str(line) for line in console_of(driver)))


def _user(service: Service, token: str, place: int, pause_s: float) -> Any:
    def use(over: threading.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, AssertionError), service.peer() as peer:
                if token:
                    peer.authenticate(token)
                name = f"user {place}"
                while not over.wait(pause_s):
                    peer.save()
                    if token:
                        peer.ask({"message": "save_password", "username": name, "password": "x"})
                        peer.ask({"message": "get_password", "username": name})
                    peer.count()

    return use


if __name__ == "__main__":
    _take_pictures(Path(sys.argv[1]))
