"""How much applications use, counted over all workers."""

from workers.auth.usage import SLOTS, Usage, UsageTable

NOW = 1000.0


def two_workers() -> tuple[Usage, Usage]:
    """Return the usage of three applications as two workers see it."""
    table = UsageTable(2)
    workers = Usage(table, 1), Usage(table, 2)
    for worker in workers:
        worker.place([3, 5, 9])
    return workers


def test_connections_count_over_all_workers() -> None:
    """As many as permitted, wherever they are; each application has its own number of them."""
    one, other = two_workers()
    assert [each.enter(5, 3) for each in (one, other, one)] == [True] * 3
    assert not one.enter(5, 3)
    assert not other.enter(5, 3)
    assert other.enter(9, 1), "another application has its own"
    assert other.enter(5, 0), "without a quota there is no limit"
    one.leave(5)
    assert not one.enter(5, 3)
    other.leave(5)
    assert one.enter(5, 3)


def test_a_worker_that_is_replaced_has_no_connections() -> None:
    """Those of the dead one do not count for ever."""
    table = UsageTable(2)
    one, other = Usage(table, 1), Usage(table, 2)
    for each in (one, other):
        each.place([5])
        assert each.enter(5, 2)
    assert not other.enter(5, 2)
    successor = Usage(table, 1)
    successor.place([5])
    assert other.enter(5, 2)
    assert not successor.enter(5, 2)


def test_connections_keep_their_application_when_another_is_gone() -> None:
    """The slots are others then, and the counts move with the applications."""
    one, other = two_workers()
    assert one.enter(9, 2)
    assert other.enter(9, 2)
    for each in (one, other):
        each.place([3, 9, 10])
    assert not one.enter(9, 2)
    assert one.enter(10, 1)


def test_nobody_is_not_counted() -> None:
    """Guests and strangers have the number 0, and leave as they came."""
    one, _ = two_workers()
    one.leave(0)
    assert one.enter(5, 1)


def test_saves_are_as_many_as_a_second_permits() -> None:
    """At once up to a second's, then at the rate; over both workers."""
    one, other = two_workers()
    assert one.saves(5, 10, 7, NOW) == 7
    assert other.saves(5, 10, 7, NOW) == 3
    assert one.saves(5, 10, 1, NOW) == 0
    assert one.saves(5, 10, 5, NOW + 0.2) == 2
    assert other.saves(5, 10, 100, NOW + 60) == 10
    assert one.saves(9, 10, 100, NOW + 60) == 10, "another application has its own"


def test_refused_saves_do_not_count() -> None:
    """Whoever goes on trying is done as often as whoever does not."""
    one, _ = two_workers()
    done = sum(one.saves(5, 4, 1, NOW + tick / 100) for tick in range(1001))
    assert 4 + 40 - 1 <= done <= 4 + 40 + 1


def test_one_save_a_second_is_possible() -> None:
    """The smallest quota is one save at once, and the next a second later."""
    one, _ = two_workers()
    assert [one.saves(5, 1, 1, NOW + after) for after in (0, 0.5, 0.99, 1.0, 1.5)] == [
        *(1, 0, 0, 1, 0)
    ]


def test_another_rate_counts_at_once() -> None:
    """Who raises the quota need not wait until what was saved by the old one is forgotten."""
    one, _ = two_workers()
    assert one.saves(5, 2, 2, NOW) == 2
    assert one.saves(5, 1000, 1000, NOW + 1) == 1000
    assert one.saves(5, 1000, 1, NOW + 1) == 0
    assert one.saves(5, 2, 2, NOW + 2) == 2


def test_there_are_slots_for_all_applications() -> None:
    """More than there can be share a slot rather than fail."""
    table = UsageTable(1)
    one = Usage(table, 1)
    one.place(list(range(1, SLOTS + 3)))
    assert one.enter(SLOTS + 2, 1)
