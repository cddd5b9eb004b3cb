"""Filling a book without a service: what is in it afterwards is what the service would have put."""

from pathlib import Path

from benchmarks.client.book import VERIFIED_REPLY, get_request, password_start, verify_request
from benchmarks.client.wire import Control, number_of_users
from benchmarks.comparison.alone import APPLICATION, Filled
from benchmarks.comparison.kept import REFERENCE
from benchmarks.fill import fill
from benchmarks.servers.service import Service

USERS = 120


def test_filled_users_are_as_good_as_saved_ones(tmp_path: Path) -> None:
    """Each is counted, found by its name, opened with the service's key, and the right one."""
    with Service(REFERENCE, tmp_path) as empty:
        token = empty.register(APPLICATION).token
    fill(empty.database, empty.database.with_suffix(".key"), APPLICATION, USERS)
    with Filled(tmp_path, token) as service:
        ways = service.ways()
        assert number_of_users(ways.basic) == USERS
        with Control(ways.book) as control:
            for user in range(USERS):
                assert control.ask(get_request(user)).startswith(password_start(user))
                assert control.ask(verify_request(user)) == VERIFIED_REPLY
