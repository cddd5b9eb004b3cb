"""The page in a real browser: who gets in, and what is to be seen there."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Start
from tests.support.browser import browser, console_of, link_to, resize
from tests.support.harness import Service, eventually, meanwhile
from tests.support.http import url_of_monitor

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

_GEOMETRY = """
    return [...document.querySelectorAll('#charts figure')].map(
        figure => figure.querySelector('path.t0').getAttribute('d'))
"""
_CUT = """
    return [...document.querySelectorAll(arguments[0])].filter(
        each => each.scrollWidth > each.clientWidth + 1).length
"""


@pytest.fixture
def service(start: Start) -> Service:
    """Return a service that shows itself to this machine."""
    return start("--http", "127.0.0.1:0")


@pytest.fixture
def driver(tmp_path: Path, service: Service) -> "Iterator[Chrome]":
    """Return a browser; the page that it shows must write no error to the console."""
    del service  # it is started first, so that it is ended last
    with browser(tmp_path / "browser") as chrome:
        yield chrome
        assert console_of(chrome) == []


def found(driver: "Chrome", selector: str) -> "WebElement":
    """Wait until an element is visible, and return it."""

    from selenium.common.exceptions import StaleElementReferenceException  # noqa: PLC0415

    def visible() -> "WebElement | None":
        elements = driver.find_elements("css selector", selector)
        with contextlib.suppress(StaleElementReferenceException):  # it was drawn again meanwhile
            return elements[0] if elements and elements[0].is_displayed() else None
        return None

    element: WebElement = eventually(visible, f"{selector} is to be seen")
    return element


def text(driver: "Chrome", selector: str) -> str:
    """Return the text of the elements that a selector finds."""
    shown = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join('\\n')"
    return str(driver.execute_script(shown, selector))


def lines(driver: "Chrome") -> list[str]:
    """Return the path of the first line of each chart."""
    paths: list[str] = driver.execute_script(_GEOMETRY)
    return paths


def work(service: Service) -> Any:
    """Return a task that saves, reads and counts."""

    def do(over: threading.Event) -> None:
        with service.owner() as peer:
            peer.ask({"message": "save_password", "username": "u", "password": "x"})
            while not over.is_set():
                peer.save()
                peer.ask({"message": "get_password", "username": "u"})
                peer.count()

    return do


def test_charts_move_under_load_and_a_killed_worker_shows(
    driver: "Chrome", service: Service, tmp_path: Path
) -> None:
    """By a link, without a token: every chart draws what comes, and what happens is named."""
    driver.get(link_to(tmp_path))
    assert found(driver, "#state").text == "All is well"
    assert "#" not in driver.current_url, "the link is not left in the address"
    with meanwhile(work(service)):
        eventually(lambda: all(map(len, lines(driver))), "every chart has a line")
        before = lines(driver)
        eventually(
            lambda: all(now != was for now, was in zip(lines(driver), before, strict=True)),
            "every chart moves",
        )
        assert all(path.count(",") > 1 for path in lines(driver))
        eventually(lambda: "0 / s" not in text(driver, "#figures .t0"), "saves are counted")
        service.replace("worker 2")
        eventually(lambda: "worker 2 was started again" in text(driver, "#events"), "it shows")
        assert driver.find_elements("css selector", "#charts .mark.restart")
        assert driver.find_elements("css selector", "#timeline .dot.restart")
    assert "worker 2 died" in text(driver, "#log")
    eventually(lambda: "owner" in text(driver, "#applications"), "the application is named")
    row = next(line for line in text(driver, "#processes").split("\n") if "worker 2" in line)
    assert row.split()[-1] == "1"


def test_a_token_opens_the_page_and_leaving_closes_it(driver: "Chrome", service: Service) -> None:
    """By hand, with the keyboard alone: the token is typed, and Leave asks for one again."""
    driver.get(url_of_monitor(service))
    entry = found(driver, "#token")
    assert driver.switch_to.active_element == entry
    entry.send_keys(service.add_application("watcher", ["count"]) + "\n")
    assert found(driver, "#state").text == "All is well"
    leave = found(driver, "#leave")
    leave.send_keys("\n")
    assert found(driver, "#token").get_attribute("value") == ""
    driver.refresh()
    found(driver, "#token")


@pytest.mark.parametrize("width", [390, 1280, 2560])
def test_nothing_is_wider_than_the_screen(
    driver: "Chrome", service: Service, tmp_path: Path, width: int
) -> None:
    """From a phone to a wall there is no scrolling to the side, and no text on another."""
    del service
    resize(driver, width, 900)
    driver.get(link_to(tmp_path))
    found(driver, "#figures dd")
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert driver.execute_script(wide) == 0
    for selector in ("#figures dt", "#figures dd"):
        assert driver.execute_script(_CUT, selector) == 0, selector


def test_the_keyboard_reads_the_charts(driver: "Chrome", service: Service, tmp_path: Path) -> None:
    """An arrow shows the numbers of a moment, Escape those of now; Pause holds everything."""
    del service
    driver.get(link_to(tmp_path))
    found(driver, "#figures dd")
    chart = found(driver, "#charts figure")
    chart.send_keys("\ue012")  # to the left
    assert found(driver, "#charts figure .at").text.count(":") == 2
    chart.send_keys("\ue00c")  # Escape
    assert not driver.find_elements("css selector", "#charts figure .at")
    found(driver, "#pause").send_keys("\n")
    assert found(driver, "#pause").get_attribute("aria-pressed") == "true"


def test_a_service_that_ends_is_seen(driver: "Chrome", service: Service, tmp_path: Path) -> None:
    """The page says that there is no answer, and keeps what it has."""
    driver.get(link_to(tmp_path))
    assert found(driver, "#state").text == "All is well"
    assert service.stop() == 0
    eventually(lambda: found(driver, "#state").text == "No answer", "it is seen")
    refused = [line["message"] for line in console_of(driver)]
    assert all("net::ERR_" in message for message in refused), refused
