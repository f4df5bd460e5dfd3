"""Resemblyzer's speaker encoder, and voices that espeak-ng speaks.

`import resemblyzer` needs a voice detector that newer interpreters cannot import; its weights need nothing. So the
module is written here as they fit it, a clip's silence is not cut, and the spectrogram is librosa's with the package's
settings: 40 mels, windows of 25 ms every 10 ms, at 16 kHz; clips at least -30 dBFS loud, in parts of 1.6 s.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from bed import Bed, Inputs, folder, frozen
from figures import Figure, cosine, verification
from torch import Tensor, nn
from torch.nn import functional as F

RATE = 16_000  # Hz
FRAMES = 160  # of 10 ms, in a part
LOUDNESS = 10 ** (-30 / 20)  # root mean square, of full scale
MEASURED = ("en-us+m1", "en-us+f1", "en+m3", "en+f2", "en-gb-scotland+m5", "en-us+f4", "en-029+m7", "en+m4")
OTHERS = ("en-us+m2", "en-us+f3", "en+m6", "en+f5", "en-gb-x-rp+m8", "en-us+klatt2")
SUBJECTS = "the baker,our neighbour,a tired sailor,the youngest child,every student,the old doctor,a clever fox,she"
VERBS = "carried,painted,remembered,followed,borrowed,repaired,discovered,described,watched,forgot,measured,sold"
OBJECTS = "a heavy box,the blue window,seven letters,the quiet river,an empty bottle,his first bicycle,the long road"
ENDINGS = "before breakfast,in the rain,without a word,near the station,for the last time,on Thursday,with great care"
_SYNCHRONOUS, _UTF8, _OK = 2, 1, 0  # espeak-ng's speak_lib.h
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Encoder(nn.Module):
    """Three layers of LSTM, a linear layer and a unit vector (arXiv 1710.10467)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        """Return embeddings (n, 256) of unit length, of mel spectrograms (n, frames, 40)."""
        _, (hidden, _) = self.lstm(mels)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)


def build() -> nn.Module:
    """Return the encoder with Resemblyzer's weights."""
    state = torch.load(folder("resemblyzer") / "pretrained.pt", "cpu", weights_only=True)["model_state"]
    module = Encoder()
    module.load_state_dict({name: state[name] for name in module.state_dict()})
    return frozen(module)


@cache
def _engine() -> tuple[ctypes.CDLL, list[bytes], int, object]:
    """Return espeak-ng, the list that it writes to, its rate in Hz, and the callback, which has to stay alive."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    # Without playback and synchronously: espeak_Synth returns when all samples have come.
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
    if rate <= 0:
        raise RuntimeError(f"espeak_Initialize returned {rate}, expected a rate: reinstall espeakng-loader")
    heard: list[bytes] = []

    def hear(samples: ctypes._Pointer[ctypes.c_short], count: int, events: int) -> int:
        if samples and count > 0:
            heard.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(hear)
    library.espeak_SetSynthCallback(callback)
    return library, heard, rate, callback


def speak(voice: str, sentence: str) -> np.ndarray:
    """Return a sentence as samples at 16 kHz, from -1 to 1 (samples)."""
    from scipy.signal import resample_poly

    library, heard, rate, _ = _engine()
    if library.espeak_SetVoiceByName(voice.encode()) != _OK:
        raise ValueError(f"espeak-ng has no voice {voice!r}")
    text = sentence.encode() + b"\0"
    heard.clear()
    status = library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 0, 0, _UTF8, None, None)
    if status != _OK:
        raise RuntimeError(f"espeak_Synth returned {status}, expected {_OK}")
    samples = np.frombuffer(b"".join(heard), dtype=np.int16) / 32768
    return resample_poly(samples, RATE, rate)


def parts(samples: np.ndarray) -> Tensor:
    """Return a clip's mel spectrogram in parts of 1.6 s, each half over the next (parts, 160, 40)."""
    import librosa

    loud = float(np.sqrt(np.mean(samples**2)))
    samples = (samples * max(1.0, LOUDNESS / loud)).astype(np.float32)
    mels = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=400, hop_length=160, n_mels=40).T  # (frames, 40)
    padded = F.pad(torch.from_numpy(np.ascontiguousarray(mels)), (0, 0, 0, max(0, FRAMES - len(mels))))
    return padded.unfold(0, FRAMES, FRAMES // 2).transpose(1, 2).contiguous()


def sentences(n: int, seed: int) -> list[str]:
    """Return n different sentences."""
    random = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        words = [random.choice(group.split(",")) for group in (SUBJECTS, VERBS, OBJECTS, ENDINGS)]
        found[f"{' '.join(words)}.".capitalize()] = None
    return list(found)


def clips(voices: Sequence[str], said: Sequence[str]) -> list[Tensor]:
    """Return every sentence in every voice, each as its parts (parts, 160, 40)."""
    return [parts(speak(voice, sentence)) for sentence in said for voice in voices]


def inputs(n: int, seed: int) -> Inputs:
    """Return n clips of the measured voices, rounded up to whole sentences, with the number of each one's voice."""
    count = -(-n // len(MEASURED))
    found = clips(MEASURED, sentences(2 * count, seed)[:count])
    return Inputs(list(found), torch.arange(len(MEASURED)).repeat(count))


def calibration(n: int, seed: int) -> list[Tensor]:
    """Return n clips of other voices that say other sentences."""
    count = -(-n // len(OTHERS))
    measured = set(sentences(400, seed))  # of up to 200 a voice
    said = [one for one in sentences(count + 400, seed + 1) if one not in measured]
    return clips(OTHERS, said[:count])[:n]


def embeddings(found: list[Tensor]) -> Tensor:
    """Return one unit vector for each clip: of the mean over its parts (n, 256)."""
    return F.normalize(torch.stack([one.mean(0) for one in found]), dim=1)


def figure(found: list[Tensor], truth: Tensor) -> dict[str, Figure]:
    """Return the equal error rate of telling voices apart."""
    return {"equal error rate": verification(embeddings(found), truth)}


def agreement(reference: list[Tensor], found: list[Tensor]) -> dict[str, Figure]:
    """Return the mean cosine of the clips' embeddings."""
    return {"cosine": cosine(embeddings(reference), embeddings(found))}


BEDS = (
    Bed(
        "resemblyzer",
        "Apache-2.0",
        ("resemblyzer", "librosa", "espeakng_loader"),
        build,
        inputs,
        calibration,
        figure,
        agreement,
    ),
)
