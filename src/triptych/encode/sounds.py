"""Encoders of sounds: cepstral coefficients without weights, and the audio models of transformers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from triptych.data.arrays import BoolArray
from triptych.data.content import ContentError
from triptych.data.features import Matrix
from triptych.encode.encoder import Encoder, EncoderSpec, Options, require, versions
from triptych.encode.models import Backbone, ModelFolder, find_model, loading, model_spec
from triptych.errors import ConfigError

RATE = 16_000  # Hz, what `Mfcc` looks at
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms every 10 ms
BANDS, CEPSTRA = 40, 20
FLOOR = 1e-6  # 100 dB below a full tone: what is quieter is noise of the file's format
MIN_SECONDS = 0.1  # shorter sounds are lengthened by silence: models see nothing in a few samples
_RATES = (1_000, 400_000)  # Hz; others are found in damaged headers only
_UNRECOGNISED = 1  # libsndfile's code for a file of no format it knows


class Sound(NamedTuple):
    """The beginning of a sound.

    Args:
        samples: (n,) float32 at the rate asked for, the mean of all channels.
        cut: whether it goes on after them.
    """

    samples: Matrix
    cut: bool


def read_sound(data: bytes, rate: int, seconds: float) -> Sound:
    """Read the beginning of a sound file: WAV, FLAC, OGG, MP3 and what else libsndfile reads.

    A file that ends early counts as far as it goes.

    Args:
        data: the file's bytes.
        rate: samples per second wanted.
        seconds: at most so much of it.

    Raises:
        ContentError: reason "empty file", "no sound", or "damaged".
    """
    import soundfile
    from scipy.signal import resample_poly

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            n_wanted = math.ceil(seconds * file.samplerate)
            native, cut = file.samplerate, file.frames > n_wanted
            samples = file.read(n_wanted, dtype="float32", always_2d=True).mean(axis=1)
    except soundfile.LibsndfileError as error:
        known = error.code != _UNRECOGNISED
        found = f"the sound is damaged: {error.error_string}" if known else "it is no sound of a known format"
        raise _unusable(found, "damaged" if known else "no sound") from error
    if not len(samples) or not np.isfinite(samples).all() or not _RATES[0] <= native <= _RATES[1]:
        raise _unusable(f"the sound has {len(samples)} samples at {native} Hz, or infinite ones", "damaged")
    if native != rate:
        shared = math.gcd(rate, native)
        samples = resample_poly(samples, rate // shared, native // shared)
    lacking = max(0, math.ceil(MIN_SECONDS * rate) - len(samples))
    return Sound(np.pad(samples, (0, lacking)).astype(np.float32), bool(cut))


def _unusable(found: str, reason: str) -> ContentError:
    return ContentError(found, wanted="a whole sound", fix="Replace it, or leave it out", reason=reason)


class Mfcc(Encoder[Sound]):
    """How loud which pitches are, and how much that changes; no learned weights.

    A row holds means over time of 20 mel-frequency cepstral coefficients and of the natural logarithms of
    40 mel bands, then their standard deviations: 120 columns. Davis & Mermelstein, 1980.

    Args:
        options: the batch size.
        seconds: at most so much of each sound.

    Raises:
        ConfigError: an extra is missing, or `seconds` is not positive.
    """

    def __init__(self, options: Options, seconds: float = 30.0) -> None:
        require("audio", "transformers.audio_utils", "soundfile")
        from transformers.audio_utils import mel_filter_bank, window_function

        self._seconds = _checked(seconds)
        self._window = window_function(WINDOW, "hann")
        self._filters = mel_filter_bank(FFT // 2 + 1, BANDS, 0.0, RATE / 2, RATE)
        packages = versions("triptych", "transformers", "soundfile", "scipy", "numpy")
        super().__init__(
            EncoderSpec("mfcc", packages, {"seconds": self._seconds}), options.batch_size, f"{seconds:g} s"
        )

    def load(self, data: bytes) -> Sound:
        """Read the sound at 16 kHz."""
        return read_sound(data, RATE, self._seconds)

    def encode(self, batch: Sequence[Sound]) -> Matrix:
        """Describe n sounds -> (n, 120) float32."""
        return np.stack([self._describe(sound.samples) for sound in batch])

    def cut(self, batch: Sequence[Sound]) -> BoolArray:
        """Say which of n sounds are longer than `seconds` -> (n,) bool."""
        return np.array([sound.cut for sound in batch], dtype=bool)

    def _describe(self, samples: Matrix) -> Matrix:
        from scipy.fft import dct
        from transformers.audio_utils import spectrogram

        bands = spectrogram(
            samples,
            self._window,
            WINDOW,
            HOP,
            FFT,
            power=2.0,
            mel_filters=self._filters,
            mel_floor=FLOOR,
            log_mel="log",
        )  # (BANDS, frames)
        cepstra = dct(bands, axis=0, norm="ortho")[:CEPSTRA]
        course = np.concatenate([cepstra, bands])
        return np.concatenate([course.mean(axis=1), course.std(axis=1)]).astype(np.float32)


class SoundModel(Encoder[Sound]):
    """An audio model of transformers: wav2vec 2.0, HuBERT, AST, CLAP, Whisper's encoder and others.

    A row is the vector that models of sounds and texts have in common, else the mean over time. Sounds are
    encoded one by one: padding would change what many of these models hear.

    Args:
        folder: of the model, with its feature extractor's settings.
        options: where and how to compute.
        seconds: at most so much of each sound; less if the model itself hears less.

    Raises:
        ConfigError: an extra, the device or the model is missing, or `seconds` is not positive.
    """

    def __init__(self, folder: ModelFolder, options: Options, seconds: float = 30.0) -> None:
        from transformers import AutoFeatureExtractor

        self._model = Backbone(folder, options, "get_audio_features")
        with loading(folder):
            self._extractor = AutoFeatureExtractor.from_pretrained(
                folder.path, local_files_only=True, trust_remote_code=False
            )
        self._seconds = min(_checked(seconds), _hears(self._extractor))
        spec = model_spec(folder, "transformers", self._model.dtype, seconds=self._seconds)
        super().__init__(spec, options.batch_size, f"{self._seconds:g} s")

    def load(self, data: bytes) -> Sound:
        """Read the sound at the model's rate."""
        return read_sound(data, self._extractor.sampling_rate, self._seconds)

    def encode(self, batch: Sequence[Sound]) -> Matrix:
        """Encode n sounds -> (n, F) float32."""
        return np.concatenate([self._encode_one(sound.samples) for sound in batch])

    def cut(self, batch: Sequence[Sound]) -> BoolArray:
        """Say which of n sounds are longer than the model hears -> (n,) bool."""
        return np.array([sound.cut for sound in batch], dtype=bool)

    def _encode_one(self, samples: Matrix) -> Matrix:
        rate = self._extractor.sampling_rate
        output = self._model(dict(self._extractor(samples, sampling_rate=rate, return_tensors="pt")))
        joint = self._model.joint
        pooled = output["pooler_output"] if joint else output["last_hidden_state"].mean(dim=1)
        row: Matrix = pooled.float().cpu().numpy()
        return row


def _hears(extractor: Any) -> float:
    """Give the seconds after which a feature extractor drops or draws parts of a sound by itself."""
    if hasattr(extractor, "nb_max_samples"):  # CLAP
        return float(extractor.nb_max_samples / extractor.sampling_rate)
    if hasattr(extractor, "n_samples"):  # Whisper
        return float(extractor.n_samples / extractor.sampling_rate)
    if hasattr(extractor, "num_mel_bins") and hasattr(extractor, "max_length"):  # AST: frames of 10 ms
        return float(extractor.max_length * 0.01)
    return math.inf


def _checked(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{seconds} seconds of each sound", wanted="more than 0", fix="Use 30, for example")
    return float(seconds)


def sound_model(name: str, options: Options, seconds: float = 30.0) -> SoundModel:
    """Make an encoder of a model's folder, or of its name on the hub."""
    require("audio", "transformers", "soundfile")
    return SoundModel(find_model(name), options, seconds)
