import time

import pytest

from triptych.data.markup import without_markup


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        ('<p class="x">Soft &amp; warm&nbsp;blanket</p><br/>3&lt;4', "Soft & warm blanket 3<4"),
        ("&lt;p&gt;Escaped as in a feed&lt;/p&gt;", "Escaped as in a feed"),
        ("<ul><li>one</li><li>two</li></ul>", "one two"),
        ("<!DOCTYPE html><html><body>whole page</body></html>", "whole page"),
        ("<script>alert('<p>')</script>text<style>p {}", "text"),
        ("left <!-- out\n --> in", "left in"),
        ("<o:p></o:p><![endif]-->from a word processor", "from a word processor"),
        ("<shop-card id=1>a component</shop-card>", "a component"),
        ("&#x41;&#66;&amp", "AB&amp"),
    ],
)
def test_markup_goes_and_words_stay(kept, read):
    assert without_markup(kept) == read


@pytest.mark.parametrize(
    "text", ["<brand new> shoes", "I <3 it", "1 < 2 > 0", "a<b", "AT&T, R&D", "fish&notch", "&bogus;", "C&A;"]
)
def test_what_only_looks_like_markup_stays(text):
    assert without_markup(text) == text


def test_white_space_and_nul_are_drawn_together():
    assert without_markup(" a\t\n\u00a0b\0c ") == "a b c"


@pytest.mark.parametrize(
    "junk",
    ["<script", "<!--", "<", "<a ", "<a-a-", "<a:a", "</script", "<style></style " * 3, "&lt;", "&#", "<!["],
)
def test_time_is_in_proportion_to_length(junk):
    def seconds(times: int) -> float:
        start = time.process_time()
        without_markup(junk * times)
        return time.process_time() - start

    assert seconds(20_000) < 20 * seconds(2_000) + 1
