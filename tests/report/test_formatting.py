"""Numbers and outside text in words, the same in the terminal, on the page and in pictures."""

import pytest
from rich.cells import cell_len

from tokenreduce.report.formatting import (
    clean,
    finite,
    interval,
    macs,
    mark,
    number,
    one_line,
    p_value,
    percent,
    plus_minus,
    points,
    seconds,
    size,
    throughput,
    wrap_text,
)


def test_numbers_in_words():
    assert number(-0.04, 1, sign=True) == "+0.0" and number(-1234.5, 1) == "−1,234.5" and number(None) == "–"
    assert percent(0.978) == "97.8 %" and points(-0.032) == "−3.2" and percent(float("nan")) == "–"
    assert interval((0.86, 0.9)) == "86.0 to 90.0" and interval((0.86, float("nan"))) == interval(None) == ""
    assert plus_minus(1.826, 0.0151) == "1.83 ± 0.02" and plus_minus(None, 1) == "–"
    assert macs(374_000_000) == "374 M" and macs(8.71e9) == "8.71 G" and macs(12) == "12"
    assert size(41 * 2**20) == "41 MiB" and size(3 * 2**30) == "3.0 GiB" and size(5) == "5 B"
    assert seconds(0.0123) == "12.3 ms" and seconds(2) == "2.00 s" and seconds(0.5) == "500 ms"
    assert throughput(611.7) == "612" and throughput(9.44) == "9.4"
    assert p_value(0.0001, named=True) == "p < 0.001" and p_value(0.0123, named=True) == "p = 0.012"
    assert p_value(0.0001) == "< 0.001" and p_value(0.5) == "0.50" and p_value(None) == ""
    assert mark("A cat ", "a cat") == "right" and mark("a dog", "a cat") == "wrong" and mark("a dog", "") == ""


@pytest.mark.parametrize("say", [number, percent, points, size, macs, seconds, throughput])
@pytest.mark.parametrize("odd", [None, float("nan"), float("inf"), 10**400, "3", True, [1]])
def test_what_is_not_a_number_has_one_word(say, odd):
    assert say(odd) == "–" and finite(odd) is None


def test_outside_text_stays_on_one_line_and_controls_nothing():
    assert one_line(" a\n b\x00", 0) == "a b\ufffd" and one_line("abcdef", 4) == "abc…"
    assert clean("a\x1b[31m\x9b1m\u202eb\u2066c\ud800\r\nd\re") == "a\ufffd[31m\ufffd1m\ufffdb\ufffdc\ufffd\nd\ufffde"
    assert one_line("漢字漢字漢字", 7) == "漢字漢…" and cell_len(one_line("漢字漢字", 6)) <= 6
    assert one_line("مرحبا שלום 😀 é") == "مرحبا שלום 😀 é"


def test_long_text_is_wrapped_by_what_it_takes_on_a_screen():
    assert wrap_text("one two three four", 9, 3) == ["one two", "three", "four"]
    assert wrap_text("漢" * 10, 8, 3) == ["漢" * 4, "漢" * 4, "漢" * 2]
    lines = wrap_text("word " * 100, 20, 3)
    assert len(lines) == 3 and lines[-1].endswith(" …") and all(cell_len(line) <= 20 for line in lines)
    assert wrap_text("", 20, 3) == []
