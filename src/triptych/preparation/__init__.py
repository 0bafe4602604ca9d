"""From raw files to a data set with features: layouts, filters and encoders, put together."""

from triptych.preparation.content import ContentObserver, ContentSource, add_content, choose_content
from triptych.preparation.prepare import prepare

__all__ = ["ContentObserver", "ContentSource", "add_content", "choose_content", "prepare"]
