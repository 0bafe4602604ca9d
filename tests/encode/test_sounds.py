"""Sounds: coefficients checked against what a sine must give, models against a plain forward pass."""

import io

import numpy as np
import pytest
import soundfile

from triptych.data.content import ContentError
from triptych.encode.registry import load_encoder
from triptych.encode.run import encode
from triptych.encode.sounds import BANDS, CEPSTRA, RATE, read_sound
from triptych.errors import ConfigError

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WAVES = {**SMALL, "conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
MODELS = ("wav2vec2", "hubert", "ast", "whisper")


def sine(frequency, seconds=1.0, rate=RATE):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def file(samples, rate=RATE, kind="WAV", **options):
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, **options)
    return stream.getvalue()


def save(folder, **sounds):
    paths = [folder / name for name in sounds]
    for path, data in zip(paths, sounds.values(), strict=True):
        path.write_bytes(data)
    return paths


def described(data, **settings):
    encoder = load_encoder("audio", **settings)
    return encoder.encode([encoder.load(data)])[0]


def bands(row):
    """Take the mean mel bands out of a row: 20 cepstra, 40 bands, then the deviations of both."""
    return row[CEPSTRA : CEPSTRA + BANDS]


def band_of(frequency):
    """Find the band centred nearest to a frequency by the definition of the mel scale (HTK)."""
    mel = 2595 * np.log10(1 + frequency / 700)
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    return round(mel / top * (BANDS + 1)) - 1


@pytest.mark.parametrize("frequency", [300, 1000, 3000, 6000])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_sine_is_loudest_in_the_band_of_its_frequency(frequency, rate):
    row = described(file(sine(frequency, rate=rate), rate))
    assert row.shape == (2 * (CEPSTRA + BANDS),)
    assert row.dtype == np.float32
    assert abs(int(bands(row).argmax()) - band_of(frequency)) <= (
        frequency < 500
    )  # FFT bins are coarse there


def test_cepstra_are_the_cosine_transform_of_the_bands():
    row = described(file(sine(700) + 0.1 * np.random.default_rng(0).normal(size=RATE)))
    order, place = np.arange(CEPSTRA)[:, None], np.arange(BANDS) + 0.5
    basis = np.cos(np.pi * order * place / BANDS) * np.sqrt(2 / BANDS)
    basis[0] /= np.sqrt(2)
    np.testing.assert_allclose(row[:CEPSTRA], basis @ bands(row), atol=1e-4)


def test_a_steady_sound_varies_less_than_one_that_comes_and_goes():
    steady = sine(1000, 2.0)
    pulsing = steady * (np.arange(len(steady)) // (RATE // 4) % 2)
    deviations = [described(file(samples))[CEPSTRA + BANDS :].mean() for samples in (steady, pulsing)]
    assert deviations[1] > 2 * deviations[0]


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(1), np.array([0.5]), np.zeros((7, 2))])
def test_silence_and_the_shortest_sounds_are_finite(samples):
    assert np.isfinite(described(file(samples))).all()


def test_stereo_is_the_mean_of_its_channels():
    left, right = sine(500), sine(2000)
    both = described(file(np.stack([left, right], axis=1), subtype="DOUBLE"))
    np.testing.assert_allclose(both, described(file((left + right) / 2, subtype="DOUBLE")), atol=1e-3)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
def test_formats_are_known_by_their_content(kind):
    sound = read_sound(file(sine(440), kind=kind), RATE, 5)
    assert sound.samples.shape == (RATE,)
    assert not sound.cut
    assert np.corrcoef(sound.samples, sine(440))[0, 1] > 0.99


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_other_rates_are_brought_to_the_one_asked_for(rate):
    samples = read_sound(file(sine(440, 1.0, rate), rate), RATE, 5).samples
    assert len(samples) == RATE
    inside = slice(500, -500)  # the filter rings at the ends
    np.testing.assert_allclose(samples[inside], sine(440)[inside], atol=0.01)


def test_only_the_beginning_is_read_and_what_is_cut_is_counted(tmp_path):
    tail = np.random.default_rng(0).normal(size=RATE) * 0.1
    paths = save(
        tmp_path,
        long=file(np.concatenate([sine(440, 2.0), tail])),
        other=file(np.concatenate([sine(440, 2.0), -2 * tail])),
        fits=file(sine(440, 2.0)),
    )
    for _ in ("cold", "warm"):
        encoder = load_encoder("audio", seconds=2)
        result = encode("audio", paths, encoder, cache_dir=tmp_path / "cache")
        assert result.facts["cut"] == 2
        assert result.features.source.endswith("2 sounds cut at 2 s")
    np.testing.assert_array_equal(result.features.values[0], result.features.values[1])
    np.testing.assert_array_equal(result.features.values[0], result.features.values[2])


def test_what_is_no_whole_sound_is_left_out_under_its_reason(tmp_path):
    good = file(sine(440))
    flac = file(np.random.default_rng(0).normal(size=RATE) * 0.1, kind="FLAC")
    paths = save(
        tmp_path,
        good=good, text=b"no sound at all\n" * 20, noise=bytes(range(256)) * 9, empty=b"", header=good[:44],
        flac=flac[: len(flac) // 2], nan=file(np.full(RATE, np.nan), subtype="FLOAT"),
        rate=good[:24] + (2**31 - 1).to_bytes(4, "little") + good[28:],
    )  # fmt: skip
    result = encode("audio", [*paths, tmp_path / "lost", None], load_encoder("audio"))
    assert result.facts["left_out"] == {"no sound": 2, "empty file": 1, "damaged": 4, "no file": 1}
    assert result.features.present.tolist() == [True] + 9 * [False]
    with pytest.raises(ContentError, match="2147483647 Hz") as caught:
        read_sound(paths[-1].read_bytes(), RATE, 5)
    assert caught.value.reason == "damaged"


def test_rows_do_not_depend_on_the_batch():
    encoder = load_encoder("audio")
    sounds = [encoder.load(file(sine(frequency, frequency / 1000))) for frequency in (300, 900, 2000)]
    together = encoder.encode(sounds)
    for row, sound in zip(together, sounds, strict=True):
        np.testing.assert_array_equal(row, encoder.encode([sound])[0])


@pytest.fixture(scope="module")
def hf():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        return transformers


def draw(hf, name):
    """Make a model with random weights, and its feature extractor."""
    match name:
        case "wav2vec2":
            return hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES)), hf.Wav2Vec2FeatureExtractor()
        case "hubert":
            return hf.HubertModel(hf.HubertConfig(**WAVES)), hf.Wav2Vec2FeatureExtractor()
        case "ast":
            sizes = {"max_length": 64, "num_mel_bins": 32}
            return hf.ASTModel(hf.ASTConfig(**SMALL, **sizes)), hf.ASTFeatureExtractor(**sizes)
    config = hf.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, vocab_size=60, num_mel_bins=16, max_source_positions=100,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return hf.WhisperModel(config), hf.WhisperFeatureExtractor(feature_size=16, chunk_length=2)


@pytest.fixture(scope="module")
def folders(hf, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in MODELS:
        for part in draw(hf, name):
            part.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_mean_over_time_of_a_plain_forward_pass(hf, folders, tmp_path, name):
    import torch

    waves = [sine(440, 0.5), sine(1500, 0.3), sine(700, 0.01)]
    paths = save(tmp_path, a=file(waves[0]), b=file(waves[1], kind="FLAC"), short=file(waves[2]))
    encoder = load_encoder("audio", str(folders / name), device="cpu", dtype="float32", batch_size=2)
    result = encode("audio", paths, encoder)
    model = hf.AutoModel.from_pretrained(folders / name).eval()
    extractor = hf.AutoFeatureExtractor.from_pretrained(folders / name)
    for row, path in zip(result.features.values, paths, strict=True):
        samples = soundfile.read(path, dtype="float32")[0]
        samples = np.pad(samples, (0, max(0, 1600 - len(samples))))
        inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            part = model.encoder if name == "whisper" else model
            states = part(**inputs).last_hidden_state
        np.testing.assert_allclose(row, states[0].numpy().mean(axis=0), atol=1e-5)


@pytest.mark.parametrize(("name", "seconds"), [("wav2vec2", 3.0), ("ast", 0.64), ("whisper", 2.0)])
def test_sounds_longer_than_a_model_hears_count_as_cut(folders, tmp_path, name, seconds):
    encoder = load_encoder("audio", str(folders / name), device="cpu", seconds=3)
    paths = save(tmp_path, long=file(sine(440, 3.1)), fits=file(sine(440, seconds)))
    result = encode("audio", paths, encoder)
    assert result.facts["cut"] == 1
    assert result.facts["encoder"]["settings"]["seconds"] == seconds
    assert result.features.source.endswith(f"1 sounds cut at {seconds:g} s")


def test_clap_gives_its_common_vector_and_draws_nothing(hf, tmp_path):
    """Its extractor would take a random part of a longer sound."""
    import torch

    audio = {
        "spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_embeds_hidden_size": 8, "depths": [1, 1],
        "num_attention_heads": [2, 2], "hidden_size": 16, "window_size": 4,
    }  # fmt: skip
    config = hf.ClapConfig(text_config={**SMALL, "vocab_size": 9}, audio_config=audio, projection_dim=12)
    extractor = hf.ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE, hop_length=160, max_length_s=1, fft_window_size=512,
        frequency_max=8000, truncation="rand_trunc",
    )  # fmt: skip
    for part in (hf.ClapModel(config), extractor):
        part.save_pretrained(tmp_path / "clap")
    rising = np.sin(2 * np.pi * 300 * np.arange(3 * RATE) ** 2 / RATE**2) * 0.5
    (path,) = save(tmp_path, rising=file(rising))
    rows = [
        encode("audio", [path], load_encoder("audio", str(tmp_path / "clap"), device="cpu", dtype="float32"))
        for _ in range(3)
    ]
    assert len({result.features.content_hash for result in rows}) == 1
    assert rows[0].facts["cut"] == 1
    samples = soundfile.read(path, dtype="float32", frames=RATE)[0]
    inputs = extractor(samples, sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        model = hf.ClapModel.from_pretrained(tmp_path / "clap").eval()
        expected = model.get_audio_features(**inputs).pooler_output
    assert expected.shape == (1, 12)
    np.testing.assert_allclose(rows[0].features.values, expected, atol=1e-5)


def test_a_model_of_another_kind_is_refused(hf, folders, tmp_path):
    model, _ = draw(hf, "wav2vec2")
    model.save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="the model 'bare' cannot be loaded"):
        load_encoder("audio", str(tmp_path / "bare"), device="cpu")
