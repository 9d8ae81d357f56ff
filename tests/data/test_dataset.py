"""The loader: position alone decides a batch, whatever the workers, the ranks or where one starts."""

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from w2vbert_asr.batch import Batch
from w2vbert_asr.commands import fbank as fbank_command
from w2vbert_asr.data import kaldi_dir, tables
from w2vbert_asr.data.audio import AudioError
from w2vbert_asr.data.corpus import Corpus, DataConfig
from w2vbert_asr.data.dataset import EvalLoader, TrainLoader
from w2vbert_asr.errors import ConfigError, DataError
from w2vbert_asr.features.augment import SpecAugmentConfig
from w2vbert_asr.features.fbank import FbankConfig
from w2vbert_asr.features.stats import FeatureStats
from w2vbert_asr.text import tokenizer as tokenizers

CONFIG = DataConfig(batch_seconds=4.0, crop_seconds=1.5, min_seconds=0.3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data directory of 14 utterances of 3 speakers, and its dump with statistics."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    wav, speakers, durations, texts = {}, {}, {}, {}
    for number in range(14):
        utt_id = f"s{number % 3}-u{number:02d}"
        samples = rng.normal(0, 0.1, size=int(rng.integers(5_000, 40_000))).astype(np.float32)
        path = root / f"{utt_id}.flac"
        soundfile.write(path, samples, 16000)
        wav[utt_id], speakers[utt_id] = str(path), f"s{number % 3}"
        durations[utt_id], texts[utt_id] = len(samples) / 16000, "ab ba " * (number % 4) + "a"
    kaldi_dir.write(root / "data", wav_scp=wav, utt2spk=speakers, utt2dur=durations, text=texts)
    fbank_command.run(fbank_command.Config(data=root / "data", out=root / "dump", stats=True, num_jobs=1))
    (root / "bpe.model").write_bytes(tokenizers.train(texts.values(), 8))
    return root / "data", root / "dump"


def make_loader(dump: Path, packed: bool, **options: object) -> TrainLoader:
    config = DataConfig(**{**CONFIG.__dict__, **{k: v for k, v in options.items() if k in CONFIG.__dict__}})
    stats = FeatureStats.load(dump / "feature_stats.safetensors")
    tokenizer = None if packed else tokenizers.Tokenizer(dump.parent / "bpe.model")
    corpus = Corpus([dump], config, stats, tokenizer)
    rest = {key: value for key, value in options.items() if key not in CONFIG.__dict__}
    return TrainLoader(corpus, config, seed=3, packed=packed, **rest)  # type: ignore[arg-type]


def same(first: Batch, second: Batch) -> bool:
    tensors = ("feats", "feat_lens", "tokens", "token_lens")
    equal = all(torch.equal(getattr(first, name), getattr(second, name)) for name in tensors)
    return equal and first.utt_ids == second.utt_ids


@pytest.mark.parametrize("packed", [True, False])
def test_a_position_is_a_batch_wherever_one_starts(folders: tuple[Path, Path], packed: bool) -> None:
    loader = make_loader(folders[1], packed, augment=SpecAugmentConfig(time_mask_ratio=0.2))
    count = 2 * loader.batches_per_epoch + 2
    from_start = list(islice(loader.iterate(0), count))
    for start in (1, loader.batches_per_epoch, count - 1):
        again = make_loader(folders[1], packed, augment=SpecAugmentConfig(time_mask_ratio=0.2))
        found = list(islice(again.iterate(start), count - start))
        assert all(same(one, two) for one, two in zip(found, from_start[start:], strict=True))
    assert loader.position_to_epoch(loader.batches_per_epoch + 1) == (1, 1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")
@pytest.mark.parametrize("packed", [True, False])
def test_workers_change_nothing(folders: tuple[Path, Path], packed: bool) -> None:
    """Over the end of an epoch."""
    loader = make_loader(folders[1], packed, augment=SpecAugmentConfig(time_mask_ratio=0.2))
    start, count = loader.batches_per_epoch - 2, 6
    expected = [loader[start + number] for number in range(count)]
    for workers in (0, 1, 2, 4):
        again = make_loader(folders[1], packed, augment=loader.augment, num_workers=workers)
        found = list(islice(again.iterate(start), count))
        assert all(same(one, two) for one, two in zip(found, expected, strict=True))


def test_what_a_loader_process_raises_arrives_as_it_is(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "data")
    wav = {utt_id: str(tmp_path / f"{utt_id}.flac") for utt_id in kaldi_dir.read(folders[0]).wav_scp}
    for utt_id, path in wav.items():
        shutil.copy(folders[0].parent / f"{utt_id}.flac", path)
    tables.write_table(tmp_path / "data" / "wav.scp", wav)
    for path in wav.values():
        Path(path).write_bytes(b"no audio")
    for workers in (0, 1):
        config = DataConfig(**{**CONFIG.__dict__, "features": "online", "num_workers": workers})
        loader = TrainLoader(Corpus([tmp_path / "data"], config, None, None), config, seed=0, packed=False)
        with pytest.raises(AudioError, match=r"(s\d-u\d\d)\.flac: undecodable: \1: not an audio file") as caught:
            next(loader.iterate(0))
        assert caught.value.reason == "undecodable"
    for path in wav.values():
        Path(path).unlink()
    with pytest.raises(DataError, match=r"^(s\d-u\d\d): .*\1\.flac: .*No such file"):
        next(loader.iterate(0))


def test_an_epoch_has_every_utterance_once_and_the_next_another_order(folders: tuple[Path, Path]) -> None:
    loader = make_loader(folders[1], False)
    per_epoch = loader.batches_per_epoch
    ids = [utt_id for batch in islice(loader.iterate(0), 2 * per_epoch) for utt_id in batch.utt_ids]
    half = len(ids) // 2
    assert sorted(ids[:half]) == sorted(ids[half:]) == list(loader.corpus.utt_ids)
    assert ids[:half] != ids[half:]


@pytest.mark.parametrize("packed", [True, False])
def test_ranks_deal_a_global_batch(folders: tuple[Path, Path], packed: bool) -> None:
    whole = make_loader(folders[1], packed, batch_seconds=8.0)
    ranks = [make_loader(folders[1], packed, batch_seconds=8.0, rank=rank, world_size=2) for rank in (0, 1)]
    assert {rank.digest for rank in ranks} == {whole.digest}
    for position in range(2 * whole.batches_per_epoch):
        dealt = [rank[position] for rank in ranks]
        for row, utt_id in enumerate(whole[position].utt_ids):
            one, place = dealt[row % 2], row // 2
            assert one.utt_ids[place] == utt_id
            length = int(one.feat_lens[place])
            assert length == int(whole[position].feat_lens[row])
            assert torch.equal(one.feats[place, :length], whole[position].feats[row, :length])
        assert sum(len(one.utt_ids) for one in dealt) == len(whole[position].utt_ids)


def test_features_online_are_those_of_the_dump(folders: tuple[Path, Path]) -> None:
    data, dump = folders
    stats = FeatureStats.load(dump / "feature_stats.safetensors")
    online = Corpus([data], DataConfig(features="online"), stats, None)
    stored = Corpus([dump], DataConfig(), stats, None)
    assert list(online.utt_ids) == list(stored.utt_ids)
    assert online.num_frames.tolist() == stored.num_frames.tolist() and online.digest == stored.digest
    for index in range(len(stored.utt_ids)):
        (piece,) = stored.whole(index)
        torch.testing.assert_close(online.feats(piece), stored.feats(piece), atol=1e-5, rtol=1e-5)
    copies = Corpus([data], DataConfig(features="online"), stats, None, speeds=(1.0, 1.1))
    assert len(copies.utt_ids) == 2 * len(online.utt_ids) and "sp1.1-s0-u00" in copies.utt_ids


def test_several_folders_and_speeds_are_one_corpus_in_byte_order(tmp_path: Path) -> None:
    """Against a plain list of everything, sorted."""
    names = {"one": ["b-2", "sp1.1-a", "é-1", "a-1"], "two": ["b-1", "é", "a-10", "B-3"]}
    expected = []
    for folder, ids in names.items():
        durations = {utt_id: 0.5 + number / 7 for number, utt_id in enumerate(ids)}
        kaldi_dir.write(
            tmp_path / folder,
            wav_scp={utt_id: f"/{utt_id}.wav" for utt_id in ids},
            utt2spk={utt_id: utt_id[0] for utt_id in ids},
            utt2dur=durations,
            text={utt_id: f"SAYS {utt_id}" for utt_id in ids} if folder == "one" else None,
        )
        for prefix, speed in (("sp0.9-", 0.9), ("", 1.0), ("sp1.25-", 1.25)):
            for utt_id in ids:
                frames = FbankConfig().num_frames(int(durations[utt_id] * 16000 / speed))
                text = f"SAYS {utt_id}" if folder == "one" else ""
                expected.append((prefix + utt_id, frames, text, prefix + utt_id[0]))
    expected.sort(key=lambda entry: entry[0].encode())
    config = DataConfig(features="online")
    orders = (["one", "two"], ["two", "one"])
    corpora = [Corpus([tmp_path / name for name in order], config, None, None, (1.25, 1.0, 0.9)) for order in orders]
    for corpus in corpora:
        found = zip(corpus.utt_ids, corpus.num_frames.tolist(), corpus.texts, strict=True)
        assert list(found) == [entry[:3] for entry in expected]
        speakers = sorted({entry[3] for entry in expected})
        assert [speakers[number] for number in corpus.speakers] == [entry[3] for entry in expected]
    assert corpora[0].digest == corpora[1].digest
    one, two = ([path] for path in (tmp_path / "one", tmp_path / "two"))
    digests = {Corpus(some, config, None, None, speeds).digest for some in (one, two) for speeds in ((1.0,), (0.9,))}
    assert len(digests) == 4 and corpora[0].digest not in digests
    (tmp_path / "bpe.model").write_bytes(tokenizers.train(["SAYS"], 8))
    with pytest.raises(DataError, match=r"two: 4 utterance\(s\) without text, the first B-3"):
        Corpus([*one, *two], config, None, tokenizers.Tokenizer(tmp_path / "bpe.model"))


def test_a_cost_of_tokens_counts_what_is_encoded(folders: tuple[Path, Path]) -> None:
    loader = make_loader(folders[1], False, cell_frames=0.05)
    corpus = loader.corpus
    assert corpus.token_counts.tolist() == [len(tokens) for tokens in corpus.tokens]
    plain = make_loader(folders[1], False)
    assert loader.batches_per_epoch > plain.batches_per_epoch
    for one in (loader, plain, make_loader(folders[1], True)):
        batches = [one[position] for position in range(one.batches_per_epoch)]
        padded = [(len(b.utt_ids), float(b.feat_lens.max()), float(b.token_lens.max())) for b in batches]
        costs = [size * one.cost.of(frames, tokens) for size, frames, tokens in padded]
        assert same(one.dearest(), one[costs.index(max(costs))])


def test_batches_hold_what_the_archives_hold_and_zeros(folders: tuple[Path, Path]) -> None:
    loader = make_loader(folders[1], False)
    corpus = loader.corpus
    for batch in islice(loader.iterate(0), loader.batches_per_epoch):
        for row, utt_id in enumerate(batch.utt_ids):
            index = corpus.utt_ids.index(utt_id)
            length = int(corpus.num_frames[index])
            assert int(batch.feat_lens[row]) == length and not batch.feats[row, length:].any()
            torch.testing.assert_close(batch.feats[row, :length], corpus.feats(corpus.whole(index)[0]))
            assert batch.tokens[row, : batch.token_lens[row]].tolist() == corpus.tokens[index]


@pytest.mark.parametrize("packed", [False, True])
def test_few_lengths_occur_where_frames_are_rounded_up(folders: tuple[Path, Path], packed: bool) -> None:
    plain, rounded = make_loader(folders[1], packed), make_loader(folders[1], packed, pad_frames=64)
    for position in range(6):
        batch, wider = plain[position], rounded[position]
        frames = batch.feats.shape[1]
        assert wider.feats.shape[1] == -(-frames // 64) * 64
        assert torch.equal(wider.feats[:, :frames], batch.feats) and not wider.feats[:, frames:].any()
        assert torch.equal(wider.feat_lens, batch.feat_lens) and wider.utt_ids == batch.utt_ids


def test_dev_is_the_same_pass_every_time(folders: tuple[Path, Path]) -> None:
    corpus = make_loader(folders[1], False).corpus
    loader = EvalLoader(corpus, CONFIG, packed=False)
    first, second = list(loader), list(loader)
    assert all(same(one, two) for one, two in zip(first, second, strict=True))
    assert sorted(utt_id for batch in first for utt_id in batch.utt_ids) == list(corpus.utt_ids)


def test_nothing_left_and_missing_features_are_said(folders: tuple[Path, Path]) -> None:
    data, dump = folders
    stats = FeatureStats.load(dump / "feature_stats.safetensors")
    config = DataConfig(min_seconds=30.0)
    with pytest.raises(DataError, match="nothing left to train on: none of 14"):
        TrainLoader(Corpus([dump], config, stats, None), config, seed=0, packed=False)
    with pytest.raises(DataError, match="run stage 1"):
        Corpus([data], DataConfig(), stats, None)
    with pytest.raises(DataError, match="stand in two"):
        Corpus([dump, dump], DataConfig(), stats, None)


def test_more_ranks_than_items_in_a_batch_are_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="for 16 ranks"):
        make_loader(folders[1], False, rank=0, world_size=16)
