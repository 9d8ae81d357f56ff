"""AN4 (CMU census database): etc/an4_{train,test}.{fileids,transcription} and wav/, in any audio format.

The 10 test speakers do not occur in the training list. `train_dev` is cut from it by whole speakers, spread over the
sorted list (women's names begin with f, men's with m), so the split is a function of the corpus alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from w2vbert_asr.corpora.audio_files import audio_by_stem, require_source
from w2vbert_asr.corpora.raw import RawUtterance
from w2vbert_asr.data.files import require_regular
from w2vbert_asr.errors import DataError

EXPECTED = "AN4's folders etc/ (an4_train.fileids, an4_train.transcription, the same for an4_test) and wav/"
_LINE = re.compile(r"(?:<s>)?(?P<text>.*?)(?:</s>)?\s*\((?P<id>[^()\s]+)\)\s*")


def read(source: Path, dev_utterances: int = 100) -> dict[str, list[RawUtterance]]:
    """The sets train_nodev, train_dev (about `dev_utterances`, whole speakers) and test.

    Ids are those of Kaldi and ESPnet: an251-fash-b of speaker fash is fash-an251-b. DataError where a list is missing
    or a line of it malformed.
    """
    root = require_source(source, "an4", EXPECTED)
    train, test = (_read_list(root, name) for name in ("an4_train", "an4_test"))
    held_out = dev_speakers(train, dev_utterances)
    return {
        "train_nodev": [raw for raw in train if raw.speaker not in held_out],
        "train_dev": [raw for raw in train if raw.speaker in held_out],
        "test": test,
    }


def dev_speakers(train: list[RawUtterance], num_utterances: int) -> set[str]:
    """Speakers at even distances in the sorted list, so many that they have about `num_utterances`."""
    speakers = sorted({raw.speaker for raw in train})
    count = min(max(round(len(speakers) * num_utterances / max(len(train), 1)), 1), len(speakers) - 1)
    return {speakers[(2 * i + 1) * len(speakers) // (2 * count)] for i in range(count)}


def _read_list(root: Path, name: str) -> list[RawUtterance]:
    texts: dict[str, str] = {}
    path = root / "etc" / f"{name}.transcription"
    for number, line in _lines(path):
        match = _LINE.fullmatch(line)
        if not match:
            raise DataError(f"{path}:{number}: expected `<s> WORDS </s> (file)`, found {line[:80]!r}")
        if match["id"] in texts:
            raise DataError(f"{path}:{number}: {match['id']} a second time; keep one")
        texts[match["id"]] = match["text"].strip()
    found = []
    folders: dict[Path, dict[str, Path]] = {}
    for number, line in _lines(root / "etc" / f"{name}.fileids"):
        file = Path(line.strip())
        if len(file.parts) < 2 or file.is_absolute() or ".." in file.parts:
            raise DataError(
                f"{root / 'etc' / name}.fileids:{number}: expected folder/speaker/file, found {line[:80]!r}"
            )
        speaker = file.parent.name
        folder = root / "wav" / file.parent
        if folder not in folders:
            folders[folder] = audio_by_stem(folder)
        audio = folders[folder].get(file.name, folder / f"{file.name}.wav")
        utt_id = f"{speaker}-{file.name.replace(f'-{speaker}-', '-')}"
        found.append(RawUtterance(utt_id, speaker, audio, texts.get(file.name)))
    return found


def _lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines that are not blank."""
    try:
        require_regular(path)
        text = path.read_text(encoding="utf-8")
    except DataError as error:
        raise DataError(f"{error}; expected {EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from error
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
