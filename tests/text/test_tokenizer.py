"""Word pieces: ids, round trips, sizes, determinism and damage."""

import hashlib
import random
from copy import deepcopy
from pathlib import Path

import pytest

from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.text.tokenizer import Tokenizer, train, unseen_characters

TEXTS = ["ONE TWO THREE FOUR", "FIVE SIX SEVEN", "EIGHT NINE TEN O'CLOCK", "ENTER ELEVEN TWENTY SEVEN"] * 5
KINDS = ["bpe", "unigram"]


def tokenizer(folder: Path, texts: list[str], vocab_size: int, model_type: str = "bpe") -> Tokenizer:
    path = folder / "bpe.model"
    path.write_bytes(train(texts, vocab_size, model_type))
    return Tokenizer(path)


@pytest.mark.parametrize("model_type", KINDS)
@pytest.mark.parametrize("vocab_size", [30, 40])
def test_special_pieces_and_round_trip(tmp_path: Path, vocab_size: int, model_type: str) -> None:
    made = tokenizer(tmp_path, TEXTS, vocab_size, model_type)
    assert made.vocab_size == vocab_size or model_type == "unigram"
    assert made.blank_id == 0 and made.pieces([0, 1]) == ["<blank>", "<unk>"]
    for text in [*TEXTS, "NINETEEN EIGHT"]:
        ids = made.encode(text)
        assert min(ids) >= 2 and max(ids) < made.vocab_size
        assert made.decode(ids) == text and made.decode([0, *ids, 0]) == text
        assert "".join(made.pieces(ids)).replace("\u2581", " ").strip() == text


def test_no_begin_and_no_end(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, TEXTS, 40)
    assert made.encode("") == [] and made.decode([]) == ""
    assert not {"<s>", "</s>", "<pad>"} & set(made.pieces(range(made.vocab_size)))


@pytest.mark.parametrize("model_type", KINDS)
@pytest.mark.parametrize("texts", [["A"], ["A B"], ["A", "AB"], ["\u4e00\u4e8c\u4e09"], ["x" * 6000]])
@pytest.mark.parametrize("vocab_size", [1, 30, 1000])
def test_size_is_a_soft_limit(
    tmp_path: Path, texts: list[str], vocab_size: int, model_type: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = tokenizer(tmp_path, texts, vocab_size, model_type)
    assert [made.decode(made.encode(text)) for text in texts] == texts
    assert (made.vocab_size != vocab_size) == ("word pieces instead of" in caplog.text)


def test_every_character_is_a_piece(tmp_path: Path) -> None:
    """Coverage 1.0: a letter seen once among 20,000 others is still no <unk>."""
    made = tokenizer(tmp_path, ["AB" * 50] * 200 + ["Q"], 6)
    assert unseen_characters(made, ["ABQ"]) == {}


@pytest.mark.parametrize("model_type", KINDS)
def test_same_texts_same_bytes(model_type: str) -> None:
    assert train(TEXTS, 40, model_type) == train(iter(TEXTS), 40, model_type)
    assert train(TEXTS, 40, model_type) != train(TEXTS, 41, "bpe" if model_type == "unigram" else "unigram")


def test_text_is_taken_as_it_is(tmp_path: Path) -> None:
    """No case folding, no compatibility forms, no composition behind the user's back."""
    texts = ["ﬁne Stra\u00dfe", "caf\u00e9 cafe\u0301", "\uff21 A \u2460"]
    made = tokenizer(tmp_path, texts, 60)
    assert [made.decode(made.encode(text)) for text in texts] == texts


def test_unknown_characters_are_one_each_and_reported(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, TEXTS, 40)
    assert made.decode(made.encode("TE\u00c4N ONE")) == "TE\u2047N ONE"
    assert unseen_characters(made, ["TE\u00c4N ONE", "\u00c4 \u00d6"]) == {"\u00c4": 2, "\u00d6": 1}


def test_long_lines_count(tmp_path: Path) -> None:
    """SentencePiece leaves out lines of more than 4192 bytes unless told otherwise."""
    made = tokenizer(tmp_path, ["AB", "CD " * 3000], 30)
    assert unseen_characters(made, ["ABCD"]) == {}


def test_digest_and_worker_processes(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, TEXTS, 40)
    assert made.digest == hashlib.sha256((tmp_path / "bpe.model").read_bytes()).hexdigest()
    copy = deepcopy(made)  # the way in which a loader's worker gets it
    assert copy.encode(TEXTS[0]) == made.encode(TEXTS[0]) and copy.digest == made.digest


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\0" * 100])
def test_damaged_models_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bpe.model").write_bytes(content)
    with pytest.raises(DataError, match=r"bpe\.model.*stage 2"):
        Tokenizer(tmp_path / "bpe.model")


def test_models_of_other_toolkits_are_refused(tmp_path: Path) -> None:
    import io

    import sentencepiece

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=writer, vocab_size=40, model_type="bpe", minloglevel=2
    )
    (tmp_path / "bpe.model").write_bytes(writer.getvalue())
    with pytest.raises(DataError, match=r"piece 0 must be <blank>"):
        Tokenizer(tmp_path / "bpe.model")


def test_what_cannot_be() -> None:
    with pytest.raises(DataError, match=r"nowhere.*stage 2"):
        Tokenizer("nowhere")
    with pytest.raises(DataError, match="transcripts are empty"):
        train(["", "  "], 30)
    with pytest.raises(ConfigError, match="vocab_size: 0"):
        train(TEXTS, 0)


@pytest.mark.parametrize("vocab_size", [14, 30])
def test_words_are_those_of_decode_and_cover_their_pieces(tmp_path: Path, vocab_size: int) -> None:
    made = tokenizer(tmp_path, ["ab abc ba", "cab bac a b c", "abc abc cab"] * 3, vocab_size)
    rng = random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(made.vocab_size) for _ in range(rng.randrange(12))]
        words = made.words(ids)
        assert [word for word, _, _ in words] == made.decode(ids).split()
        for word, first, last in words:
            assert made.decode(ids[first:last]) == word
        spans = [place for _, first, last in words for place in (first, last)]
        assert spans == sorted(spans)
    ids = made.encode("ab zz ba")
    assert [word for word, _, _ in made.words(ids)] == made.decode(ids).split()
