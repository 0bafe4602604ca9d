import polars as pl
import pytest

from triptych.data.texts import TextTemplate
from triptych.errors import ConfigError

TABLE = pl.DataFrame(
    {
        "title": ["Mug", None, "Vase", " ", None],
        "brand": ["Acme", "Acme", None, None, None],
        "description": ["Big\n\n blue", "Red", "Tall", "Odd\0 one", None],
    }
)


def test_words_belong_to_the_column_after_them():
    template = TextTemplate("{title} by {brand}. {description}")
    assert template.columns == ["title", "brand", "description"]
    assert template.fill(TABLE) == ["Mug by Acme. Big blue", "Acme. Red", "Vase. Tall", "Odd one", None]


def test_words_at_both_ends_are_always_written():
    assert TextTemplate("Item: {title} ({{new}})").fill(TABLE)[:3] == [
        "Item: Mug ({new})",
        None,
        "Item: Vase ({new})",
    ]


def test_the_usual_template_takes_what_there_is():
    assert TextTemplate.usual(["price", "description", "title"]).pattern == "{title}. {description}"
    assert TextTemplate.usual(["price"]) is None
    exported = ["Product Description", "Product Name", "name", "Brand"]
    assert TextTemplate.usual(exported).pattern == "{name}. {Brand}. {Product Description}"


def test_columns_may_be_named_as_their_file_spells_them():
    table = pl.DataFrame({"title": ["Mug"], "Long Text": ["Big"], "Product Name": ["M-1"]})
    template = TextTemplate("{Title} {name} {product_name} {long_text}")
    assert template.columns_of(table) == ["title", "title", "Product Name", "Long Text"]
    assert template.fill(table) == ["Mug Mug M-1 Big"]
    with pytest.raises(ConfigError, match=r"names the column 'Titel'.*Did you mean 'title'"):
        TextTemplate("{Titel}").fill(table)


def test_lists_and_numbers_become_words():
    table = pl.DataFrame({"genres": [["Drama", "War"], []], "year": [1995, None]})
    assert TextTemplate("{genres}, {year}").fill(table) == ["Drama, War, 1995", None]


@pytest.mark.parametrize("pattern", ["{title", "title", "{}", "{title!r}", "{title:>5}", ""])
def test_a_pattern_that_cannot_be_read_is_refused(pattern):
    with pytest.raises(ConfigError, match="text template"):
        TextTemplate(pattern).fill(TABLE)


def test_an_unknown_column_is_named_with_its_nearest():
    with pytest.raises(ConfigError, match=r"names the column 'titel'.*Did you mean 'title'"):
        TextTemplate("{titel}").fill(TABLE)


def test_markup_of_descriptions_is_not_encoded():
    table = pl.DataFrame({"title": ["Caf&eacute; set", None], "body": ["<p>Two <b>cups</b></p>", "<p></p>"]})
    assert TextTemplate("{title}. {body}").fill(table) == ["Café set. Two cups", None]
