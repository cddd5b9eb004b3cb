"""HTTP in tests: asks the monitor of a service, as Prometheus or a browser does."""

import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message

from prometheus_client.parser import text_string_to_metric_families

from tests.support.harness import PATIENCE_S, Service, eventually

_SAID = re.compile(r"metrics, health and the page are at (https?://\S+/)")


@dataclass(frozen=True)
class Answered:
    """The answer to a request."""

    status: int
    text: str
    headers: Message


def url_of_monitor(service: Service) -> str:
    """Wait until the monitor has said where it is, and return that."""
    return str(eventually(lambda: _SAID.findall(service.stderr), "the monitor answers")[-1])


def ask(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answered:
    """Send one request and return the answer, whatever its status is."""
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=context) as answer:
            return Answered(answer.status, answer.read().decode(), answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return Answered(error.code, error.read().decode(), error.headers)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the metrics in a text: each by its name, and its labels' values by their names."""
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
