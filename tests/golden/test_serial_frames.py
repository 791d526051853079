"""Frames of the serial link: their CRC against outsiders, and what broken frames come to."""

from __future__ import annotations

import binascii
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opennpe.golden import serial_frames as link
from opennpe.golden.errors import DataError
from opennpe.golden.serial_frames import Receiver, Reply, Request, frame

pytestmark = pytest.mark.fast

BODY = Request(7, 0x7D7E, link.WRITE, "memory", 0x7E7C, data=bytes([0x7E, 0x7D, 0x5E, 1])).body()
"""With flags and escapes in every field that can hold them."""
NEXT = Request(7, 1, link.READ, "link", 4, words=3).body()


def received(data, **options):
    receiver = Receiver(**options)
    return list(receiver.feed(data)), receiver.broken


@given(st.binary(max_size=300))
def test_the_crc_is_that_of_others(data):
    assert link.crc32(data) == zlib.crc32(data) == binascii.crc32(data)


def test_the_crc_of_the_catalogues():
    """The check value of CRC-32/ISO-HDLC, and its residue (bits in our order)."""
    assert link.crc32(b"123456789") == 0xCBF43926
    assert link.CRC_RESIDUE == 0xDEBB20E3


@given(st.binary(min_size=1, max_size=256))
def test_a_frame_comes_back(body):
    sent = frame(body)
    assert sent[0] == sent[-1] == link.FLAG and link.FLAG not in sent[1:-1]
    assert received(sent) == ([body], 0)
    assert received(sent + sent) == ([body, body], 0)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5), st.randoms())
def test_pieces_do_not_matter(bodies, random):
    data = b"".join(frame(body) for body in bodies)
    receiver, found = Receiver(), []
    while data:
        size = random.randint(1, len(data))
        found += receiver.feed(data[:size])
        data = data[size:]
    assert found == bodies


def test_no_flipped_bit_passes():
    """Every bit of a frame, one at a time: the frame is lost, the one behind it is not."""
    sent, cases = frame(BODY), 0
    for place in range(8, 8 * len(sent) - 8):
        wrong = bytearray(sent)
        wrong[place // 8] ^= 1 << place % 8
        bodies, broken = received(bytes(wrong) + frame(NEXT))
        assert bodies == [NEXT] and broken >= 1, place
        cases += 1
    assert cases == 8 * (len(sent) - 2) > 150


def test_no_truncated_or_doubled_byte_passes():
    sent = frame(BODY)
    for place in range(2, len(sent) - 1):
        for wrong in (sent[:place], sent[:place] + sent[place + 1 :]):
            assert received(wrong + frame(NEXT)) == ([NEXT], 1), place
        again = sent[: place + 1] + sent[place:]
        bodies, _ = received(again + frame(NEXT))
        assert bodies[-1] == NEXT and set(bodies) <= {BODY, NEXT}


def test_a_receiver_is_in_step_after_anything():
    rng = np.random.default_rng(0)
    for _ in range(300):
        noise = rng.integers(0, 256, int(rng.integers(0, 600)), dtype=np.uint8).tobytes()
        assert received(noise + bytes([link.FLAG]) + frame(NEXT))[0][-1:] == [NEXT]


def test_without_its_crc_a_receiver_takes_what_is_broken():
    """What the tests above would see if the CRC did not count."""
    wrong = bytearray(frame(NEXT))
    wrong[2] ^= 1
    assert received(bytes(wrong)) == ([], 1)
    (body,), broken = received(bytes(wrong), check=False)
    assert body != NEXT and broken == 0


def test_what_is_too_long_or_too_short_is_broken():
    body = bytes(20)
    assert received(frame(body), most=20) == ([body], 0)
    assert received(frame(body), most=19) == ([], 1)
    assert received(bytes([link.FLAG, 1, 2, 3, 4, link.FLAG])) == ([], 1)
    assert received(bytes([link.FLAG] * 9)) == ([], 0)
    assert received(bytes([link.FLAG, link.ESCAPE, link.FLAG])) == ([], 1)


@settings(max_examples=50)
@given(
    st.builds(
        Reply,
        st.integers(0, 255),
        st.integers(0, link.SEQUENCES - 1),
        st.sampled_from(link.STATUSES),
        st.binary(max_size=240),
    )
)
def test_replies_come_back(reply):
    assert Reply.parse(reply.body()) == reply
    assert Reply.parse(reply.body()[:-1] + bytes([len(link.STATUSES)])) is None


def test_fields_lie_where_the_page_says():
    request = Request(0x11, 0x2233, link.WRITE, "link", 0x44556678, data=b"abcd")
    assert request.body() == bytes.fromhex("11 3322 22 01 78665544") + b"abcd"
    assert Request(1, 2, link.READ, "memory", 8, words=5).body() == bytes.fromhex(
        "01 0200 11 05 08000000"
    )
    assert request.stored_bytes == 1 + link.HEADER_BYTES + 4 + link.CRC_BYTES
    assert Reply(0x11, 0x2233, "refused", b"ab").body() == bytes.fromhex("11 3322 6162 04")
    assert Reply.parse(b"\x01\x00") is None


def test_requests_that_cannot_be():
    with pytest.raises(DataError, match="whole words of 4 bytes, got 3 bytes at 0x0"):
        Request(1, 0, link.WRITE, data=b"abc")
    with pytest.raises(DataError, match="whole words of 4 bytes, got 0 bytes at 0x2"):
        Request(1, 0, link.READ, address=2, words=1)
    with pytest.raises(DataError, match="at most 60 words, got 61"):
        replace(Request(1, 0, link.READ), words=61)
