"""Packed sparse weights: round trips, refusals, storage, and the product that walks them."""

import dataclasses

import numpy as np
import pytest
from opennpe.golden import formats, mac, sparse, sparse_pack, sparse_product
from opennpe.golden.errors import SparseError

pytestmark = pytest.mark.fast

DENSITIES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
FORMATS = (*formats.ENGINE_FORMATS, "int8", "fp8_e4m3")
CASES = 340


def random_weights(rng, shape, density, name, height=1, hole=True):
    """Codes of which about ``density`` are nonzero, in blocks of ``height`` rows; a row empty."""
    fmt = formats.get(name)
    codes = rng.integers(1, 1 << fmt.bits, shape).astype(fmt.dtype)
    blocks = rng.random((-(-shape[0] // height), shape[1])) < density
    if hole and shape[0] > 3 and density < 1:
        blocks[rng.integers(0, len(blocks))] = False
    return codes * np.repeat(blocks, height, axis=0)[: shape[0]].astype(fmt.dtype)


def two_of_four(rng, shape, name, n, m):
    codes = random_weights(rng, shape, 1.0, name)
    order = rng.random((shape[0], -(-shape[1] // m), m)).argsort(axis=2)
    keep = (order < n).reshape(shape[0], -1)[:, : shape[1]]
    return codes * keep.astype(codes.dtype)


def shape_of(rng, case):
    wide = case % 17 == 0
    return (int(rng.integers(1, 40)), int(rng.integers(1, 700 if wide else 90)))


@pytest.mark.parametrize("name", FORMATS)
def test_every_packing_gives_the_weights_back(name):
    rng = np.random.default_rng(len(name))
    seen = set()
    for case in range(CASES // len(FORMATS) + 1):
        density = DENSITIES[case % len(DENSITIES)]
        shape = shape_of(rng, case)
        weights = random_weights(rng, shape, density, name, int(rng.choice([1, 2, 4])))
        sort = bool(case % 2)
        for rows in (1, 2, 4, None):
            for bits in sparse.DELTA_BITS:
                for steps in ("cyclic", "signed"):
                    packed = sparse_pack.pack_delta(weights, name, rows, bits, steps, sort)
                    assert np.array_equal(sparse.unpack(packed), weights)
                    seen.add((packed.block, bits, steps, sort))
        for rows in sparse.BLOCK_ROWS:
            for group in sparse.GROUPS:
                packed = sparse_pack.pack_blocks(weights, name, rows, group, sort=sort)
                assert np.array_equal(sparse.unpack(packed), weights)
                seen.add((packed.block, group, sort))
        for n, m in ((2, 4), (1, 4), (4, 4), (3, 8), (1, 1)):
            pruned = two_of_four(rng, shape, name, n, m)
            packed = sparse_pack.pack_structured(pruned, name, n, m)
            assert np.array_equal(sparse.unpack(packed), pruned)
            seen.add((n, m))
    assert len(seen) == 3 * 3 * 2 * 2 + 5 * 2 * 2 + 5


def test_an_empty_layer_stores_nothing_but_counts():
    weights = np.zeros((9, 31), np.uint8)
    for packed in (
        sparse_pack.pack_delta(weights, "fp4", 1, 4),
        sparse_pack.pack_blocks(weights, "fp4", 4, 4),
    ):
        assert len(packed.values) == 0
        assert not sparse.unpack(packed).any()
        assert packed.bits().values == packed.bits().fillers == packed.bits().indices == 0
        assert packed.bits().counts == len(packed.counts)


def test_steps_return_to_the_first_column():
    rng = np.random.default_rng(3)
    weights = random_weights(rng, (24, 200), 0.1, "fp4")
    for bits in sparse.DELTA_BITS:
        signed = sparse_pack.pack_delta(weights, "fp4", 1, bits, "signed")
        cyclic = sparse_pack.pack_delta(weights, "fp4", 1, bits, "cyclic")
        assert signed.deltas.sum() == 0
        assert cyclic.deltas.sum() % 200 == 0
    # A wide signed step needs no filler; a narrow one pays for every way back.
    assert sparse_pack.pack_delta(weights, "fp4", 1, 16, "signed").bits().fillers == 0
    narrow = {s: sparse_pack.pack_delta(weights, "fp4", 1, 4, s) for s in ("signed", "cyclic")}
    assert narrow["signed"].bits().fillers > 3 * narrow["cyclic"].bits().fillers > 0


def test_sorted_rows_fall_in_count_and_come_back():
    rng = np.random.default_rng(4)
    weights = random_weights(rng, (33, 64), 0.3, "posit8")
    packed = sparse_pack.pack_delta(weights, "posit8", 1, 8, sort=True)
    held = np.count_nonzero(weights[packed.order], axis=1)
    assert (np.diff(held) <= 0).all()
    assert np.array_equal(sparse.unpack(packed), weights)


def test_the_block_height_follows_the_share_of_nonzeros():
    rng = np.random.default_rng(5)
    full = np.ones((32, 60), np.uint8)
    for height in (4, 2):
        keep = np.repeat(rng.random((32 // height, 60)) < 0.3, height, axis=0)
        weights = full * keep
        assert sparse_pack.choose_rows(weights) == height
        at = np.argwhere(weights)
        rng.shuffle(at)
        weights[tuple(at[: len(at) * 9 // 100].T)] = 0
        assert sparse_pack.choose_rows(weights) == height
        weights[tuple(at[: len(at) * 15 // 100].T)] = 0
        assert sparse_pack.choose_rows(weights) < height
    assert sparse_pack.choose_rows(full * (rng.random((32, 60)) < 0.3)) == 1


def test_padding_of_a_tile_repeats_the_last_index_with_zero_weights():
    weights = np.zeros((4, 20), np.uint8)
    weights[:, [1, 5, 6, 9, 17]] = 3
    packed = sparse_pack.pack_blocks(weights, "fp4", 4, 4)
    assert packed.counts.tolist() == [8]
    assert packed.columns.tolist() == [1, 5, 6, 9, 17, 17, 17, 17]
    assert not packed.values[5:].any()


# -- what is refused ------------------------------------------------------------------------------
def sample(kind, **options):
    rng = np.random.default_rng(6)
    weights = random_weights(rng, (10, 50), 0.3, "fp4", 4 if kind == "blocks" else 1, False)
    weights[0, :3] = 1
    if kind == "delta":
        return sparse_pack.pack_delta(weights, "fp4", **{"rows": 2, **options})
    if kind == "blocks":
        return sparse_pack.pack_blocks(weights, "fp4", **{"rows": 4, "group": 4, **options})
    return sparse_pack.pack_structured(two_of_four(rng, (10, 50), "fp4", 2, 4), "fp4")


def changed(packed, field, at, value):
    array = getattr(packed, field).copy()
    array[at] = value
    return {field: array}


def swapped(packed, field, a, b):
    array = getattr(packed, field).copy()
    array[[a, b]] = array[[b, a]]
    return {field: array}


DELTA_FAULTS = {
    "a step of 256 in 8 cyclic bits": lambda p: changed(p, "deltas", 0, 256),
    "a step of -1 in 8 cyclic bits": lambda p: changed(p, "deltas", 0, -1),
    "do not return to the first column": lambda p: changed(
        p, "deltas", -1, (p.deltas[-1] + 1) % 50
    ),
    "counts add up to": lambda p: changed(p, "counts", 0, p.counts[0] + 1),
    "a count of -1": lambda p: {"counts": np.array([-1, *p.counts[1:]])},
    "counts for": lambda p: {"counts": p.counts[:-1]},
    "first column 50 of 50": lambda p: {"first": 50},
    "first column -1": lambda p: {"first": -1},
    "out of order or twice": lambda p: changed(p, "deltas", slice(0, 2), [0, p.deltas[:2].sum()]),
    "order is no permutation": lambda p: {"order": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])},
    "order is no permutation of 10": lambda p: {"order": np.arange(11)},
    "a block of": lambda p: {"block": (1, 2)},
    "steps of 5 bits": lambda p: {"delta_bits": 5},
    "steps are 'back'": lambda p: {"steps": "back"},
    "values have shape": lambda p: {"values": p.values[:-1]},
    "codes lie below 16": lambda p: {"values": np.where(p.values > 0, 16, 0)},
    "deltas are not integers": lambda p: {"deltas": p.deltas * 1.5},
    "is not (rows, columns)": lambda p: {"shape": (10, 50, 1)},
}
BLOCK_FAULTS = {
    "column 50 of 50": lambda p: changed(p, "columns", 2, 50),
    "column -1 of 50": lambda p: changed(p, "columns", 0, -1),
    "out of order or twice": lambda p: changed(p, "columns", 1, p.columns[0]),
    "columns out of order": lambda p: swapped(p, "columns", 0, 1),
    "in groups of 4": lambda p: {"counts": p.counts + np.array([1, -1, 0])},
    "counts add up to": lambda p: changed(p, "counts", 0, p.counts[0] + 4),
    "in 5 bits": lambda p: {"index_bits": 5},
    "groups of 3": lambda p: {"group": 3},
    "a block of (3, 1)": lambda p: {"block": (3, 1)},
    "does not repeat the last index": lambda p: changed(
        p, "columns", np.flatnonzero(~p.values.any(axis=1))[0], 0
    ),
    "a stored block is all zeros": lambda p: changed(p, "values", 0, 0),
    "a weight beyond row 9": lambda p: changed(p, "values", (-p.counts[-1], 3), 1),
}
STRUCTURED_FAULTS = {
    "index 4 in groups of 4": lambda p: changed(p, "indices", (3, 1, 1), 4),
    "index -1": lambda p: changed(p, "indices", (3, 1, 0), -1),
    "order or twice": lambda p: changed(p, "indices", (3, 1, 0), p.indices[3, 1, 1]),
    "indices, expected": lambda p: {"indices": p.indices[:, :-1]},
    "a weight beyond column 49": lambda p: {
        "indices": changed(p, "indices", (3, -1), [1, 2])["indices"],
        "values": changed(p, "values", (3, -1), [1, 1])["values"],
    },
    "5:4": lambda p: {"n": 5},
    "a block of": lambda p: {"block": (2, 1)},
}
FAULTS = [
    *(("delta", text, fault) for text, fault in DELTA_FAULTS.items()),
    *(("blocks", text, fault) for text, fault in BLOCK_FAULTS.items()),
    *(("structured", text, fault) for text, fault in STRUCTURED_FAULTS.items()),
]


@pytest.mark.parametrize("kind, text, fault", FAULTS, ids=[f"{k}: {t}" for k, t, _ in FAULTS])
def test_malformed_packed_weights_are_refused_in_one_line(kind, text, fault):
    packed = sample(kind)
    dataclasses.replace(packed)  # as it is it passes
    with pytest.raises(SparseError) as error:
        dataclasses.replace(packed, **fault(packed))
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_signed_steps_that_do_not_add_up_to_zero_are_refused():
    packed = sample("delta", steps="signed", delta_bits=8)
    assert packed.deltas.sum() == 0
    # A whole turn too much comes back to the first column, yet not to zero.
    with pytest.raises(SparseError, match="add up to 50"):
        dataclasses.replace(packed, **changed(packed, "deltas", -1, packed.deltas[-1] + 50))
    with pytest.raises(SparseError, match="column"):
        fault = changed(packed, "deltas", slice(0, 2), [-9, packed.deltas[:2].sum() + 9])
        dataclasses.replace(packed, **fault)


def test_weights_that_break_a_pattern_are_not_packed():
    weights = np.zeros((3, 9), np.uint8)
    weights[1, 4:7] = 1
    with pytest.raises(SparseError, match=r"row 1 has 3 nonzero weights in columns 4 to 7"):
        sparse_pack.pack_structured(weights, "fp4", 2, 4)
    with pytest.raises(SparseError, match="got shape"):
        sparse_pack.pack_delta(weights[0], "fp4")
    with pytest.raises(SparseError, match="a block of"):
        sparse_pack.pack_delta(weights, "fp4", 3)
    with pytest.raises(SparseError, match="steps of 3 bits"):
        sparse_pack.pack_delta(weights, "fp4", 1, 3)


# -- storage --------------------------------------------------------------------------------------
def test_storage_is_accounted_to_the_bit():
    weights = np.zeros((4, 64), np.uint8)
    weights[0, [0, 40]] = 1
    weights[2, 5] = 2
    packed = sparse_pack.pack_delta(weights, "fp4", 1, 4, "cyclic")
    # Steps: 40 = 15 + 15 + 10, 5 - 40 = 29 mod 64 = 15 + 14, 0 - 5 = 59 = 15 + 15 + 15 + 14.
    assert packed.deltas.tolist() == [15, 15, 10, 15, 14, 15, 15, 15, 14]
    assert packed.counts.tolist() == [5, 0, 4, 0]
    held = packed.bits()
    assert (held.values, held.fillers, held.indices) == (3 * 4, 6 * 8, 3 * 4)
    assert (held.counts, held.first, held.order) == (4 * 3, 6, 0)
    assert held.total == sum((12, 48, 12, 12, 6))
    tiles = sparse_pack.pack_blocks(weights, "fp4", 4, 4).bits()
    assert (tiles.values, tiles.fillers, tiles.indices, tiles.counts) == (48, 24, 24, 1)
    ordered = sparse_pack.pack_blocks(weights, "fp4", 4, 1, sort=True).bits()
    assert ordered.order == 4 * 2
    assert sparse.dense_bits(weights.shape, "fp4") == 4 * 64 * 4
    assert sparse.bitmask_bits(weights, "fp4") == 4 * 64 + 12


@pytest.mark.parametrize(
    "sparsity, mask, delta, block", [(0.8, 1.8, 1.66, 1.2), (0.9, 1.4, 1.01, 0.6)]
)
def test_storage_of_random_weights_is_what_the_documentation_says(sparsity, mask, delta, block):
    """Counts and the first column left out, as in docs/sparse.md's comparison."""
    rng = np.random.default_rng(7)
    shape = (1024, 256)

    def per_weight(packed):
        bits = packed.bits()
        return (bits.values + bits.fillers + bits.indices) / bits.weights

    def drawn(rows):
        """Exactly the wanted share of blocks of ``rows``."""
        places = rng.permutation(1024 * 256 // rows).reshape(-1, 256)
        keep = places < round((1 - sparsity) * places.size)
        return np.repeat(keep, rows, axis=0) * rng.integers(1, 16, shape).astype(np.uint8)

    loose, blocks = drawn(1), drawn(4)
    assert sparse.bitmask_bits(loose, "fp4") / loose.size == pytest.approx(mask, abs=0.005)
    assert per_weight(sparse_pack.pack_delta(loose, "fp4", 1, 4)) == pytest.approx(delta, abs=0.015)
    assert per_weight(sparse_pack.pack_blocks(blocks, "fp4")) == pytest.approx(block, abs=0.005)


def test_the_best_packing_has_the_fewest_bits():
    rng = np.random.default_rng(8)
    blocks = random_weights(rng, (64, 128), 0.1, "posit8", 4)
    assert isinstance(sparse_pack.best(blocks, "posit8"), sparse.DeltaRows | sparse.BlockRows)
    assert sparse_pack.best(blocks, "posit8").block == (4, 1)
    half = two_of_four(rng, (64, 128), "posit8", 2, 4)
    assert isinstance(sparse_pack.best(half, "posit8"), sparse.Structured)
    assert (2, 4) in sparse_pack.structures(half)
    assert not sparse_pack.structures(random_weights(rng, (64, 128), 1.0, "posit8"))


# -- the product ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", formats.ENGINE_FORMATS)
def test_the_sparse_product_is_the_dense_one(name):
    rng = np.random.default_rng(9)
    for case in range(16):
        density = DENSITIES[case % len(DENSITIES)]
        wanted = str(rng.choice(formats.ENGINE_FORMATS))
        rows, depth, pixels = (int(n) for n in rng.integers(1, 9, 3))
        weights = random_weights(rng, (rows, depth), density, name)
        x = rng.integers(0, 1 << formats.get(wanted).bits, (depth, pixels))
        bias = rng.integers(-4, 5, rows) * 0.5
        held = {"b_format": name, "out_format": "posit8", "shift": -1, "underflow": "zero"}
        expected = [
            [mac.dot(wanted, x[:, j], weights[i], bias[i], **held) for j in range(pixels)]
            for i in range(rows)
        ]
        for packed in (
            sparse_pack.pack_delta(weights, name, 2, 4, "signed", sort=True),
            sparse_pack.pack_blocks(weights, name, 4, 4),
            sparse_pack.pack_structured(weights, name, 4, 4),
        ):
            got = sparse_product.matmul(
                packed, x, wanted, bias=bias, shift=-1, underflow="zero", out_format="posit8"
            )
            assert got.tolist() == expected


def test_a_misread_column_is_seen_by_the_product():
    """The checks of this file can fail: one column moved within the invariants changes a bit."""
    weights = np.zeros((4, 8), np.uint8)
    weights[:, 3] = 2
    packed = sparse_pack.pack_blocks(weights, "fp4", 4, 1)
    moved = dataclasses.replace(packed, columns=packed.columns + 1)
    assert not np.array_equal(sparse.unpack(moved), weights)
    x = np.arange(8, dtype=np.uint8)[:, None]
    assert (sparse_product.matmul(packed, x) != sparse_product.matmul(moved, x)).any()


def test_the_product_refuses_another_depth():
    packed = sample("blocks")
    with pytest.raises(SparseError, match=r"take codes \(50, N\)"):
        sparse_product.matmul(packed, np.zeros((49, 2), np.uint8))
