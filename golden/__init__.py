"""What numbers and engines mean: the exact reference every other room is checked against.

Read top to bottom: :mod:`formats` and :mod:`codec` (a code and its value), :mod:`mac` (multiply,
accumulate, round), :mod:`lanes` (SIMD words), :mod:`spec` and :mod:`catalog` (engines),
:mod:`array` (tiles and cycles), :mod:`layers` and :mod:`network` (whole networks).
"""
