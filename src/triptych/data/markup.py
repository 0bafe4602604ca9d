"""What people would read of a text that is kept as HTML, as shops keep their descriptions."""

from __future__ import annotations

import html
import re

_ELEMENTS = (
    "a|abbr|acronym|address|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blockquote|body|br|button|"
    "canvas|caption|center|cite|code|col|colgroup|dd|del|details|dfn|dir|div|dl|dt|em|embed|fieldset|"
    "figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|legend|"
    "li|link|main|map|mark|menu|meta|nav|noscript|object|ol|optgroup|option|p|param|picture|pre|q|s|samp|"
    "section|select|small|source|span|strike|strong|sub|summary|sup|svg|table|tbody|td|template|textarea|"
    "tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|wbr|path|xml|!doctype|[a-z]+:[a-z]+|[a-z]+-[a-z-]+"
)
"""Names of elements, so that "a<b" and "<brand new>" stay; and what word processors and components add."""

_NO_TEXT = re.compile(
    rf"<(script|style)\b.*?(?:</\1\s*>|\Z)|<!--.*?(?:-->|\Z)|<!\[[^<>]*>|</?(?:{_ELEMENTS})(?=[\s/>])[^<>]*>",
    re.IGNORECASE | re.DOTALL,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_SPACE = re.compile(r"[\s\0]+")


def without_markup(text: str) -> str:
    """Take out tags, comments, scripts and styles, resolve entities, and draw white space together.

    Entities go first, as feeds escape the tags themselves; a text without markup only loses white space.
    A NUL character is white space.
    """
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    if "<" in text:
        text = _NO_TEXT.sub(" ", text)
    return _SPACE.sub(" ", text).strip()
