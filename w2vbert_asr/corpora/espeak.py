"""The espeak-ng speech synthesizer, driven through ctypes: a voice and texts in, samples out.

The `espeakng-loader` wheel carries the shared library and its data. The library is one global state machine that says
"all right" to much that is wrong, so what it did is asked back: which data it reads, and which voice it speaks with.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2vbert_asr.errors import SetupError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SAMPLE_RATE = 22050  # Hz, of every voice
VOLUME = 30  # of 100; the loudest voices clip above 40

# Constants of speak_lib.h.
_SYNCHRONOUS, _DONT_EXIT = 2, 0x8000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_CHARACTERS, _UTF8 = 1, 1


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What to say, and how."""

    text: str
    rate: int  # words a minute, 80 to 450
    pitch: int  # 0 to 100; 50 is the voice's own
    pitch_range: int  # 0 (monotone) to 100; 50 is the voice's own


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class _Voice(ctypes.Structure):
    """The first fields of espeak_VOICE; only pointers to it are used."""

    _fields_ = (("name", ctypes.c_char_p), ("languages", ctypes.c_char_p), ("identifier", ctypes.c_char_p))


def synthesize(voice: str, prompts: Sequence[Prompt]) -> Iterator[npt.NDArray[np.int16]]:
    """The samples of each prompt: (N,) at SAMPLE_RATE. `voice` is an identifier, such as gmw/en-US+f2.

    The phase of some oscillators goes on from one prompt to the next, and the library cannot be reset: only the first
    call in a process is a function of its arguments. Raises SetupError where the wheel is missing or refuses.
    """
    import numpy as np

    library = _load()
    _set_voice(library, voice)
    chunks: list[bytes] = []

    def receive(samples: int | None, count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _Callback(receive)  # held here as long as the library may call it
    library.espeak_SetSynthCallback(callback)
    _check(library.espeak_ng_SetRandSeed(ctypes.c_long(1)), "a seed")  # it starts from the clock
    for prompt in prompts:
        chunks.clear()
        settings = {_RATE: prompt.rate, _VOLUME: VOLUME, _PITCH: prompt.pitch, _RANGE: prompt.pitch_range}
        for parameter, value in settings.items():
            _check(library.espeak_SetParameter(parameter, value, 0), f"parameter {parameter} = {value}")
        text = prompt.text.encode()
        code = library.espeak_Synth(text, len(text) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
        _check(code, f"the text {prompt.text!r}")
        _check(library.espeak_Synchronize(), f"the text {prompt.text!r}")
        samples = np.frombuffer(b"".join(chunks), np.int16)
        if not samples.any():
            raise SetupError(f"espeak-ng: voice {voice} is silent for {prompt.text!r}; choose another voice")
        yield samples


def _load() -> ctypes.CDLL:
    """The library, reading the data of its wheel."""
    try:
        import espeakng_loader
    except ImportError as error:
        raise SetupError("espeak-ng is not installed; pip install 'w2vbert_asr[mini]'") from error
    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
    except (OSError, RuntimeError) as error:
        raise SetupError(
            f"espeak-ng cannot be loaded ({error}); pip install --force-reinstall espeakng-loader"
        ) from error
    library.espeak_Info.restype = ctypes.c_char_p
    library.espeak_GetCurrentVoice.restype = ctypes.POINTER(_Voice)
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
    used = ctypes.c_char_p()
    version = (library.espeak_Info(ctypes.byref(used)) or b"").decode()
    if used.value != data:  # it cuts long paths off, and goes on with a folder of its own choice
        raise SetupError(
            f"espeak-ng {version} does not read its data from {data.decode()} ({len(data)} bytes, of which it takes "
            f"about 150); install into a folder with a shorter path"
        )
    if rate != SAMPLE_RATE:
        raise SetupError(f"espeak-ng {version} answers {rate} where {SAMPLE_RATE} Hz are expected; install 1.52")
    return library


def _set_voice(library: ctypes.CDLL, voice: str) -> None:
    """Set a voice and ask which one it is: an unknown variant is passed over, an unknown voice leaves the old one."""
    code = library.espeak_SetVoiceByName(voice.encode())
    current = library.espeak_GetCurrentVoice()
    found = current.contents.identifier if current else None
    if code != 0 or found != voice.encode():
        speaks = (found or b"nothing").decode()
        raise SetupError(f"espeak-ng has no voice {voice} (code {code}, it would speak with {speaks}); choose another")


def _check(code: int, what: str) -> None:
    if code != 0:
        raise SetupError(f"espeak-ng refuses {what} (code {code}); pip install --force-reinstall espeakng-loader")
