"""Vision models of transformers: tiny ones with weights drawn here, against a plain forward pass."""

import numpy as np
import pytest
from PIL import Image

from triptych.data.content import ContentError
from triptych.data.pictures import on_white, open_picture
from triptych.encode.run import encode
from triptych.errors import ConfigError

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = {"image_size": 32, "patch_size": 8}
SQUARE = {"height": 32, "width": 32}
MODELS = {"clip": 12, "siglip": 16, "vit": 16, "classifier": 16, "dino": 16, "resnet": 24,
          "maps": 24, "uncropped": 24}  # fmt: skip
"""Name -> columns; "maps" has no pooler, and "uncropped" leaves pictures as long as they are."""


@pytest.fixture(scope="module")
def hf():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        return transformers


def draw(hf, name):
    """Make a model with random weights, and its image processor."""
    both = {"text_config": {**SMALL, "vocab_size": 9}, "vision_config": {**SMALL, **PATCHES}}
    short = {"shortest_edge": 32}
    match name:
        case "clip":
            model = hf.CLIPModel(hf.CLIPConfig(**both, projection_dim=12))
            return model, hf.CLIPImageProcessorPil(size=short, crop_size=SQUARE)
        case "siglip":
            return hf.SiglipModel(hf.SiglipConfig(**both)), hf.SiglipImageProcessorPil(size=SQUARE)
        case "vit":
            return hf.ViTModel(hf.ViTConfig(**SMALL, **PATCHES)), hf.ViTImageProcessorPil(size=SQUARE)
        case "classifier":
            model = hf.ViTForImageClassification(hf.ViTConfig(**SMALL, **PATCHES))
            return model, hf.ViTImageProcessorPil(size=SQUARE)
        case "dino":
            sizes = {
                name: SMALL[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")
            }
            model = hf.Dinov2Model(hf.Dinov2Config(**sizes, **PATCHES))
            return model, hf.BitImageProcessorPil(size=short, crop_size=SQUARE)
        case "maps":
            config = hf.PoolFormerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 24])
            return hf.PoolFormerModel(config), hf.ViTImageProcessorPil(size=SQUARE)
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
    if name == "uncropped":
        return hf.ResNetModel(config), hf.CLIPImageProcessorPil(size=short, do_center_crop=False)
    return hf.ResNetModel(config), hf.ConvNextImageProcessorPil(size=short)


@pytest.fixture(scope="module")
def folders(hf, tmp_path_factory):
    import torch

    root = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.random.set_rng_state(torch.Generator().manual_seed(5).get_state())
        for name in MODELS:
            for part in draw(hf, name):
                part.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Pictures of several sizes and modes."""
    rng, folder = np.random.default_rng(2), tmp_path_factory.mktemp("pictures")
    made = []
    for number, (shape, kind) in enumerate(
        [
            ((40, 50, 3), "png"),
            ((30, 90, 4), "png"),
            ((64, 64), "jpg"),
            ((20, 33, 3), "webp"),
            ((90, 31, 3), "bmp"),
        ]
    ):
        made.append(folder / f"{number}.{kind}")
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(made[-1])
    return made


def forward(hf, folder, path):
    """Do by hand what the encoder does: one picture in float32."""
    import torch

    processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = hf.AutoModel.from_pretrained(folder).eval()
    pixels = processor(images=on_white(open_picture(path)), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        match folder.name:
            case "clip":
                row = model.visual_projection(model.vision_model(pixels).pooler_output)
            case "siglip":
                row = model.vision_model(pixels).pooler_output
            case "classifier":
                row = model(pixels).last_hidden_state.mean(dim=1)
            case "resnet" | "maps" | "uncropped":
                row = model(pixels).last_hidden_state.mean(dim=(2, 3))
            case _:
                row = model(pixels).pooler_output
    return row[0].numpy()


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_those_of_a_plain_forward_pass(hf, folders, paths, name):
    from triptych.encode.registry import load_encoder

    encoder = load_encoder("image", str(folders / name), device="cpu", dtype="float32", batch_size=2)
    result = encode("image", [*paths, None], encoder)
    assert result.features.values.shape == (6, MODELS[name])
    assert result.features.present.tolist() == [True] * 5 + [False]
    expected = np.stack([forward(hf, folders / name, path) for path in paths])
    assert np.ptp(expected, axis=0).max() > 1e-3  # else all would be alike
    np.testing.assert_allclose(result.features.values[:5], expected, atol=1e-5)
    assert result.features.source.startswith(f"{name} (transformers ")


@pytest.mark.parametrize("name", MODELS)
def test_in_bfloat16_rows_point_the_same_way(folders, paths, name):
    from triptych.encode.registry import load_encoder

    exact, near = (
        encode(
            "image", paths, load_encoder("image", str(folders / name), device="cpu", dtype=dtype)
        ).features.values
        for dtype in ("float32", "bfloat16")
    )
    assert near.dtype == np.float32
    cosine = np.einsum("if,if->i", exact, near) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert (cosine > 0.998).all()


@pytest.mark.parametrize("name", ["classifier", "clip"])
def test_a_model_loaded_twice_gives_the_same_rows_and_leaves_torchs_generator_alone(folders, paths, name):
    """A pooler that the files lack is drawn at random by transformers; it must not be used."""
    import torch

    from triptych.encode.registry import load_encoder

    before = torch.random.get_rng_state()
    first, second = (
        encode("image", paths, load_encoder("image", str(folders / name), device="cpu", dtype="float32"))
        for _ in range(2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.features.content_hash == second.features.content_hash
    assert first.facts == second.facts


def test_loading_says_nothing(folders, capfd, hf):
    from triptych.encode.registry import load_encoder

    hf.logging.enable_progress_bar()
    hf.logging.set_verbosity_warning()
    try:
        load_encoder("image", str(folders / "classifier"), device="cpu")
        assert hf.logging.get_verbosity() == hf.logging.WARNING
        assert hf.logging.is_progress_bar_enabled()
    finally:
        hf.logging.disable_progress_bar()
        hf.logging.set_verbosity_error()
    assert capfd.readouterr() == ("", "")


def test_a_model_whose_files_lack_weights_is_refused(folders, tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    from triptych.encode.registry import load_encoder

    copy = tmp_path / "partial"
    shutil.copytree(folders / "vit", copy)
    weights = load_file(copy / "model.safetensors")
    lost = next(name for name in weights if "layer" in name)
    del weights[lost]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"the model 'partial' lack weights that fit"):
        load_encoder("image", str(copy), device="cpu")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "preprocessor_config.json"])
def test_a_folder_without_a_file_it_needs_is_refused(folders, tmp_path, file):
    import shutil

    from triptych.encode.registry import load_encoder

    shutil.copytree(folders / "vit", tmp_path / "vit", ignore=shutil.ignore_patterns(file))
    with pytest.raises(ConfigError, match="the model 'vit' cannot be loaded"):
        load_encoder("image", str(tmp_path / "vit"), device="cpu")


def test_settings_of_a_wrong_kind_are_refused(folders, tmp_path):
    import shutil

    from triptych.encode.registry import load_encoder

    shutil.copytree(folders / "vit", tmp_path / "vit")
    settings = (tmp_path / "vit" / "config.json").read_text()
    (tmp_path / "vit" / "config.json").write_text(settings.replace('"hidden_size": 16', '"hidden_size": "x"'))
    with pytest.raises(ConfigError, match="the model 'vit' cannot be loaded"):
        load_encoder("image", str(tmp_path / "vit"), device="cpu")


def test_a_picture_that_would_grow_beyond_measure_is_left_out(folders, tmp_path):
    from triptych.encode.registry import load_encoder

    encoder = load_encoder("image", str(folders / "clip"), device="cpu")
    Image.new("RGB", (1, 101)).save(tmp_path / "line.png")
    with pytest.raises(ContentError, match="1 × 101 pixels"):
        encoder.load((tmp_path / "line.png").read_bytes())
    Image.new("RGB", (1, 100)).save(tmp_path / "short.png")
    result = encode("image", [tmp_path / "line.png", tmp_path / "short.png"], encoder)
    assert result.facts["left_out"] == {"too narrow": 1}
    assert result.features.present.tolist() == [False, True]
