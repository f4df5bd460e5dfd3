"""A plugin whose samples are of a kind of its own: sounds, each of which is one wave."""

from __future__ import annotations

import io
import wave
from typing import Any

import torch
from torch import Tensor, nn

import zoo

RATE = 8000


def wav(samples: Any) -> bytes:
    """Return one sound as a .wav of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples.data[0].clamp(-1, 1) * 32767).short().numpy().tobytes())
    return out.getvalue()


def picture(sound: Tensor) -> Tensor:
    """Return the spectrum [1, 8, 8] of a sound."""
    spectrum = torch.fft.rfft(sound)[:64].abs()
    return (spectrum / spectrum.max().clamp(min=1e-6)).reshape(1, 8, 8)


def show(samples: Any) -> list[zoo.Shown]:
    """Return a spectrum and a player of each."""
    clips = [zoo.Clip(wav(samples[number]), "audio/wav", f"{len(one) / RATE} s") for number, one in enumerate(samples)]
    return [zoo.Shown(picture=picture(one), clip=clip) for one, clip in zip(samples, clips, strict=True)]


def lines(samples: Any) -> str:
    """Return all sounds as a table."""
    return "".join(",".join(f"{value:.4f}" for value in one.tolist()) + "\n" for one in samples.data)


SOUND = zoo.SampleKind("sound", show=show, files={".wav": wav, ".csv": lines}, single=(".wav",))


class Singer(nn.Module):
    """Makes waves of noise."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 256)

    def forward(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.out(noise))


def construct(entry: zoo.Entry) -> nn.Module:
    return Singer()


def sample_options(entry: zoo.Entry) -> list[zoo.Option]:
    return []


def sample_kinds(entry: zoo.Entry) -> list[Any]:
    return [SOUND]


def sample(model: zoo.LoadedModel, request: zoo.SampleRequest) -> zoo.Samples:
    noise = torch.randn(request.n, 4, generator=request.generator())
    return zoo.Samples(model.module(noise.to(model.device)), SOUND, [f"sound {n}" for n in range(request.n)])
