"""The metrics in the text format, and the documents that name them."""

import json
import re
from pathlib import Path

import pytest

from pwserver.ipc import Scoreboard
from pwserver.tally import OK, SAVES, Tally
from tests.support.http import samples
from workers.http.metrics import Metrics

DOCS = Path(__file__).parents[3] / "docs"
NAMES = {1: "worker 1", 2: "worker 2", 3: "checker"}


@pytest.fixture
def metrics(tmp_path: Path) -> Metrics:
    """Return the metrics of a service that has saved a thousand passwords in one commit."""
    board = Scoreboard(3)
    tally = Tally(board.block(1))
    tally.answer(0, SAVES, OK, 1000)
    tally.commit(1000, 3000)
    tally.publish(5, 6, 7, 8)
    board.users = 1000
    return Metrics(board, 2, NAMES, tmp_path / "user_data.db", lambda: 1e9)


def test_buckets_add_up(metrics: Metrics) -> None:
    """Each bucket has the smaller ones in it, as Prometheus wants, and the last one has all."""
    found = samples(metrics.text().decode())
    assert found["pwserver_commit_changes_bucket", "512.0"] == 0
    assert found["pwserver_commit_changes_bucket", "1024.0"] == 1
    assert found["pwserver_commit_changes_bucket", "+Inf"] == 1
    assert found["pwserver_commit_changes_sum",] == 1000
    assert found["pwserver_commit_duration_seconds_sum",] == pytest.approx(0.003)
    times = [
        (float(key[1]), value)
        for key, value in found.items()
        if key[0] == "pwserver_commit_duration_seconds_bucket"
    ]
    assert next(time_s for time_s, value in times if value) == pytest.approx(0.004096)


def test_all_workers_are_counted_together(metrics: Metrics) -> None:
    """Requests are of the service; what is open or waits is told by worker."""
    tally = Tally(metrics.scoreboard.block(2))
    tally.answer(0, SAVES, OK, 5)
    tally.publish(1, 0, 0, 0)
    found = samples(metrics.text().decode())
    assert found["pwserver_requests_total", "save_password", "ok"] == 1005
    assert [found["pwserver_connections", each] for each in "12"] == [5, 1]
    assert found["pwserver_queued_bytes", "name", "1"] == 7


def test_backups_are_told_when_there_are_any(metrics: Metrics) -> None:
    """A service that makes none has no age that would set off an alarm."""
    assert not any("last_backup" in name for name, *_ in samples(metrics.text().decode()))
    metrics.scoreboard.backup_failed(0)
    assert samples(metrics.text().decode())["pwserver_backups_failing",] == 1
    metrics.scoreboard.backup_made(5_000, 1_500, 4096)
    found = samples(metrics.text().decode())
    assert found["pwserver_backups_failing",] == 0
    assert found["pwserver_last_backup_timestamp_seconds",] == 5
    assert found["pwserver_last_backup_duration_seconds",] == 1.5
    assert found["pwserver_last_backup_bytes",] == 4096


def test_without_a_certificate_it_expires_never(metrics: Metrics) -> None:
    """There is no number that would set off an alarm."""
    assert "certificate" in metrics.text().decode()
    there_is_none = Metrics(metrics.scoreboard, 2, NAMES, metrics.database, lambda: None)
    assert "certificate" not in there_is_none.text().decode()


def test_a_database_on_a_server_has_no_size_here(metrics: Metrics) -> None:
    """Everything else is told."""
    on_a_server = Metrics(metrics.scoreboard, 2, NAMES, None, metrics.certificate_ends_s)
    there = {name for name, *_ in samples(metrics.text().decode())}
    without = {name for name, *_ in samples(on_a_server.text().decode())}
    assert there - without == {"pwserver_database_bytes", "pwserver_log_bytes"}


@pytest.mark.parametrize("document", ["grafana.json", "alerts.yaml"])
def test_the_documents_name_what_there_is(metrics: Metrics, document: str) -> None:
    """A dashboard or a rule for a metric that does not exist would be silent for ever."""
    text = (DOCS / document).read_text()
    named = set(re.findall(r"pwserver_[a-z_]+", text))
    there = {name for name, *_ in samples(metrics.text().decode())}
    assert len(named) > 8
    assert named <= there
    if document.endswith("json"):
        panels = json.loads(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels) > 10
