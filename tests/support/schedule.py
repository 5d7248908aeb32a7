"""Which of pytest-xdist's workers runs what, and in which order.

A worker takes a whole file, since what a file starts (a PostgreSQL, poolers) is shared by its tests. Files that take long
are begun first, so that the end does not wait for one of them, and the longest are cut into parts. What needs the
machine to itself comes last, when one worker is left.
"""

import re
from typing import Final

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

# Only their order counts. `make test ARGS=--durations=60 JOBS=4` shows when it is out of date.
LONGEST_FIRST: Final = (
    "tests/drivers/test_drivers.py",
    "tests/integration/test_order_oracle.py",
    "tests/integration/test_hostile.py",
    "tests/integration/test_isolation_matrix.py",
    "tests/integration/test_service.py",
    "tests/integration/test_waiting.py",
    "tests/integration/test_methods.py",
    "tests/integration/test_misbehaving_server.py",
    "tests/integration/test_tls.py",
    "tests/integration/test_auth_query.py",
    "tests/integration/test_command_line.py",
    "tests/integration/test_security_reports.py",
    "tests/integration/test_soak.py",
    "tests/integration/test_changed_columns.py",
    "tests/integration/test_memory.py",
    "tests/integration/test_shared_limits.py",
    "tests/integration/test_web.py",
    "tests/unit/cli/test_embedded_postgres.py",
    "tests/unit/cli/test_demo.py",
)

# File to what its parts differ in: the groups of a pattern in the tests' names; tests in which they are the same stay
# together.
PARTS: Final = {
    "tests/integration/test_order_oracle.py": re.compile(
        r"::(test_\w+)(?:\[(?:(protocol|movable|pinning)-\d+)?.*-(one-tiny|four-tiny|one|session|split)\])?$"
    )
}

# Races show best, and threads that spin disturb nobody, where nothing else is at work.
ALONE: Final = ("tests/threads/",)

_ALONE: Final = "alone"
_RANKS: Final = {file: rank for rank, file in enumerate(LONGEST_FIRST)}


def unit_of(node_id: str) -> str:
    """The unit that a test belongs to. A unit is run by one worker, in one go."""
    if node_id.startswith(ALONE):
        return _ALONE
    file = node_id.partition("::")[0]
    if file not in PARTS:
        return file
    found = PARTS[file].search(node_id)
    return f"{file} {' '.join(group or '' for group in found.groups())}" if found else file


def rank_of(node_id: str) -> int:
    """Units are begun in the order of their ranks; those of one rank as they were collected."""
    if unit_of(node_id) == _ALONE:
        return len(_RANKS) + 1
    return _RANKS.get(node_id.partition("::")[0], len(_RANKS))


class Schedule(LoadScopeScheduling):  # type: ignore[misc]  # has no types
    """pytest-xdist's scheduler of groups, with units for groups and an end with one worker only."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Gives the node the next unit. One that has to be alone waits until no other node is there."""
        if next(iter(self.workqueue)) == _ALONE and len(self.nodes) > 1:
            # All but one are sent home; the departure of the last of them leads here again.
            if any(other is not node and not other.shutting_down for other in self.nodes):
                node.shutdown()
            return
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """What a dead node has left undone goes to others, without the test that it died of (it is returned): the base
        class would have that one kill them all, one after the other."""
        units = self.assigned_work.pop(node)
        crashed: str | None = next((test for tests in units.values() for test, done in tests.items() if not done), None)
        if crashed is not None:
            units[unit_of(crashed)][crashed] = True
        for unit, tests in reversed(units.items()):
            if not all(tests.values()):
                self.workqueue[unit] = tests
                self.workqueue.move_to_end(unit, last=False)
        for other in self.nodes:
            self._reschedule(other)
        return crashed
