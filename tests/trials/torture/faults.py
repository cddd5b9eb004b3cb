"""What is done to the service: a table of faults, how often each is drawn, and how each is done.

Every fault ends with the service answering again, which is timed. Those that end the whole service
start it again, with a look at the book in between. All come from outside: signals, files and
commands, as they would from a machine, a neighbour or a careless administrator.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import kill

from tests.support.processes import age_s
from tests.trials.restarted import BESIDE, FORK_SERVER, LISTENER
from tests.trials.torture.administrator import APPLICATIONS
from tests.trials.torture.trial import Trial

DEADLY = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
DEADLY_WEIGHTS = (90, 5, 5)

NEEDED = ("worker 1", "worker ")
"""The beginnings of the titles of those without whom nothing is saved: first who writes."""

YOUNG_S = 1.1
"""Who dies before it is a second old is started again after a pause, by design; and a fork server
that is as new may have to load its modules first. Both are timed apart."""

STOPPED_S = (0.05, 0.8)
FULL_S = 0.5
SPARE_S = 0.6
"""What a process that hangs may be late in being seen to: two ticks of the service, and a start."""


@dataclass
class FaultInjector:
    """The faults of a run, drawn one after the other."""

    chosen: Sequence[str]
    _rotation_ends_s: float = 0.0

    def __call__(self, trial: Trial) -> None:
        """Do the next fault."""
        if self._rotation_ends_s and time.monotonic() > self._rotation_ends_s:
            self._kill_rotation(trial)
        weights = [FAULTS[name][0] for name in self.chosen]
        name = trial.random.choices(self.chosen, weights)[0]
        text = FAULTS[name][1](self, trial)
        trial.tally.line(name, text, trial.state.ledger.open)

    # --- Processes. ---

    def kill_child(self, trial: Trial) -> str:
        """Kill one of the children, or two at once."""
        children = trial.service.children()
        if not children:
            return "nobody was there to be killed"
        names = trial.random.sample(sorted(children), min(len(children), self._how_many(trial)))
        number = trial.random.choices(DEADLY, DEADLY_WEIGHTS)[0]
        names.sort(key=_importance)
        after = _with_ages(names[0], children)
        since = time.monotonic()
        for name in names:
            with suppress(ProcessLookupError):
                kill(children[name], number)
                trial.tally.killed(_kind(name), number.name)
        seconds = trial.recover(after, since)
        what = " and ".join(names)
        return f"{what} killed ({number.name}), saves again after {seconds:.3f} s"

    def _how_many(self, trial: Trial) -> int:
        return 2 if trial.random.random() < 0.25 else 1

    def kill_listener(self, trial: Trial) -> str:
        """Kill the listener; all others are to end by themselves."""
        kill(trial.service.pid, signal.SIGKILL)
        trial.tally.killed(LISTENER, "SIGKILL")
        trial.gone()
        trial.service.kill_everything()
        return f"listener killed, ready {trial.renew('the listener'):.2f} s after its start"

    def kill_all(self, trial: Trial) -> str:
        """Kill all processes at once."""
        trial.service.kill_everything()
        trial.tally.killed("everything", "SIGKILL")
        return f"everything killed, ready {trial.renew('everything'):.2f} s after its start"

    def restart(self, trial: Trial) -> str:
        """Stop it as one should, and start it again."""
        self._stop(trial)
        return f"stopped, ready {trial.renew('a clean stop'):.2f} s after its start"

    def _stop(self, trial: Trial) -> None:
        code = trial.service.running.stop()
        if code:
            trial.tally.breach(f"a clean stop ended with {code}: {trial.service.last_words()}")
        trial.gone()

    def pause_child(self, trial: Trial) -> str:
        """Stop one of the children for a moment."""
        seconds = trial.random.uniform(*STOPPED_S)
        name, pid = self._one_child(trial)
        since = self._stop_for(pid, seconds)
        took = trial.recover("a stopped child, from its going on", since)
        return f"{name} stopped for {seconds:.2f} s, saves again after {took:.3f} s"

    def hang_child(self, trial: Trial) -> str:
        """Stop one of the children for twice as long as it may hang."""
        name, pid = self._one_child(trial)
        began = time.monotonic()
        hanging = threading.Thread(target=self._stop_for, args=(pid, 2 * trial.plan.hang_s))
        hanging.start()
        allowed = trial.plan.hang_s + trial.plan.within_s + SPARE_S
        took = trial.recover(f"a hanging {_kind(name)}", began, allowed)
        hanging.join()
        return f"{name} stopped for {2 * trial.plan.hang_s:g} s, saves again after {took:.3f} s"

    def _stop_for(self, pid: int, seconds: float) -> float:
        """Stop a process for some seconds; return when it could go on."""
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        ended = time.monotonic()
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGCONT)
        return ended

    def _one_child(self, trial: Trial) -> tuple[str, int]:
        children = trial.service.children()
        name = trial.random.choice(sorted(children))
        return name, children[name]

    def pause_all(self, trial: Trial) -> str:
        """Stop all processes, as a suspended machine does: nobody is taken to hang for it."""
        seconds = trial.random.uniform(0.5, 2.5) * trial.plan.hang_s
        trial.service.signal_all(signal.SIGSTOP)
        time.sleep(seconds)
        since = time.monotonic()
        trial.service.signal_all(signal.SIGCONT)
        took = trial.recover("a stopped service, from its going on", since)
        return f"everything stopped for {seconds:.2f} s, saves again after {took:.3f} s"

    # --- Files. ---

    def fill_disk(self, trial: Trial) -> str:
        """Leave no room, kill somebody meanwhile half the time, and give the room back."""
        trial.service.fill_disk()
        text = "the disk filled"
        time.sleep(FULL_S)
        children = trial.service.children()
        needed = sorted(name for name in children if name.startswith(NEEDED))
        if needed and trial.random.random() < 0.5:
            name = trial.random.choice(needed)
            with suppress(ProcessLookupError):
                kill(children[name], signal.SIGKILL)
                trial.tally.killed(_kind(name), "SIGKILL")
            text += f", {name} killed"
            time.sleep(FULL_S)
        if not trial.service.answers():
            trial.tally.breach("on a full disk it does not answer")
        since = time.monotonic()
        trial.service.empty_disk()
        return (
            f"{text}, saves again {trial.recover('a full disk, from its room', since):.3f} s after"
        )

    def remove_database(self, trial: Trial) -> str:
        """Remove the database under load, alone or with what is beside it."""
        beside = trial.random.choice([(), BESIDE])
        trial.administrator.end_rotation()
        trial.state.tokens.clear()
        trial.state.remove_book(lambda: trial.service.remove_database(*beside))
        since = time.monotonic()
        seconds = trial.recover("the database's removal", since)
        trial.administrator.register()
        return f"database removed, saves into a fresh one after {seconds:.3f} s"

    def restore_database(self, trial: Trial) -> str:
        """Back the database up, or put the last copy back, while the service is stopped."""
        self._stop(trial)
        trial.state.hold()
        trial.administrator.end_rotation()
        trial.look()
        if trial.backed_up is None:
            trial.service.back_up()
            trial.backed_up = trial.state.ledger.copy()
            trial.start_again("a clean stop")
            return "the database backed up"
        trial.state.tokens.clear()
        trial.service.put_back()
        trial.state.ledger = trial.backed_up.restored(trial.state.ledger)
        trial.backed_up = None
        trial.administrator.seal_again()
        trial.look()
        seconds = trial.start_again("a restored backup")
        trial.administrator.register()
        return f"the backup put back, ready {seconds:.2f} s after its start"

    # --- Keys and tokens. ---

    def rotate_keys(self, trial: Trial) -> str:
        """Begin to seal everything with a new key; half of the time that is killed before long."""
        added = trial.administrator.begin_rotation()
        self._rotation_ends_s = 0.0
        if trial.random.random() < 0.5:
            self._rotation_ends_s = time.monotonic() + trial.random.uniform(0.3, 3.0)
        return "key rotation begun" + (", with a new key" if added else "")

    def _kill_rotation(self, trial: Trial) -> None:
        self._rotation_ends_s = 0.0
        if trial.administrator.end_rotation():
            trial.tally.killed("key rotation", "SIGKILL")

    def rotate_token(self, trial: Trial) -> str:
        """Give an application another token; the old one is good for a while, or not at all."""
        name = trial.random.choice(sorted(APPLICATIONS))
        grace_s = trial.random.choice((0.0, 1.0, 60.0))
        if not trial.administrator.renew(name, grace_s):
            trial.administrator.register()
        return f"a new token for {name}, the old one good for {grace_s:g} s"


def _kind(name: str) -> str:
    return name.rstrip(" 0123456789")


def _importance(name: str) -> int:
    """Return whose death is felt most, the least first: what is timed is the recovery from that."""
    return next((place for place, needed in enumerate(NEEDED) if name.startswith(needed)), 9)


def _with_ages(name: str, children: dict[str, int]) -> str:
    """Say what kind of process it is, and whether it, or who makes another one, is quite new."""
    words = [_kind(name)]
    if age_s(children[name]) < YOUNG_S:
        words.append("young")
    maker = children.get(FORK_SERVER, 0)
    if name != FORK_SERVER and age_s(maker) < YOUNG_S:
        words.append("young fork server")
    return ", ".join(words)


FAULTS: dict[str, tuple[float, Callable[[FaultInjector, Trial], str]]] = {
    "kill": (150, FaultInjector.kill_child),
    "kill-listener": (2, FaultInjector.kill_listener),
    "kill-all": (3, FaultInjector.kill_all),
    "restart": (1, FaultInjector.restart),
    "pause": (2, FaultInjector.pause_child),
    "hang": (0.5, FaultInjector.hang_child),
    "pause-all": (0.3, FaultInjector.pause_all),
    "fill": (0.7, FaultInjector.fill_disk),
    "remove": (0.7, FaultInjector.remove_database),
    "restore": (0.7, FaultInjector.restore_database),
    "rotate-keys": (1, FaultInjector.rotate_keys),
    "rotate-token": (1, FaultInjector.rotate_token),
}
"""Faults by name: how often each is drawn, against the others, and what it does."""
