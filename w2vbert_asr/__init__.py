"""w2vbert_asr: W2V-BERT pre-training and transducer speech recognition, from a folder of audio to a WER."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from w2vbert_asr.recognizer import Recognizer as Recognizer
    from w2vbert_asr.recognizer import Transcript as Transcript
    from w2vbert_asr.recognizer import load_model as load_model

__version__ = "0.1.0"
__all__ = ["Recognizer", "Transcript", "load_model"]


def __getattr__(name: str) -> Any:
    """Reach the recogniser only when it is used: importing the package does not import torch."""
    if name in __all__:
        from w2vbert_asr import recognizer

        return getattr(recognizer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
