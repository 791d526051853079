"""The order of a list: the one in which its units get to the commands."""

from __future__ import annotations

import numpy as np
from opennpe.golden.spec import CoprocessorSpec
from opennpe.host.schedule import Item, encoded
from opennpe.sim.coprocessor import unhindered
from opennpe.sim.stream_counts import Outside

__all__ = ["settle"]


def settle(
    spec: CoprocessorSpec, items: list[Item], outside_lines: int, outside: Outside
) -> list[Item]:
    """The same commands, each unit's in the order given, as the units would take them.

    The dispatcher hands out commands in order and stands still before a full queue: a load that
    has to wait for its turn must not keep a fill from the dispatcher that could run at once. So
    the list is run by the cycle model with queues that are never full, and sorted by the cycle in
    which each command was taken.

    Args:
        outside_lines: lines of the memory outside.
        outside: what it holds, which sparse layers' cycles depend on.
    """
    listed = encoded(spec, [*items, Item("end", {})], outside_lines)
    begun = unhindered(spec, np.frombuffer(listed, dtype=np.uint8), outside)
    return [items[i] for i in np.argsort(begun, kind="stable")]
