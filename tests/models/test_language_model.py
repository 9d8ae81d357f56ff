"""The Transformer language model: sentences in a row apart, no look ahead, the loss, and steps with kept keys."""

from __future__ import annotations

import math

import pytest
import torch

from w2vbert_asr.batch import Batch
from w2vbert_asr.models.language_model import LanguageModel, LanguageModelConfig, LanguageModelSteps

V = 11


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    config = LanguageModelConfig(num_layers=3, model_dim=16, num_heads=2, feed_forward_dim=32)
    made = LanguageModel(config, V, 0).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.0)  # far from uniform
    return made


def batch(rows: list[list[int]]) -> Batch:
    lens = torch.tensor([len(row) for row in rows])
    tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return Batch(
        feats=torch.zeros(len(rows), 0, 0),
        feat_lens=torch.zeros_like(lens),
        tokens=tokens,
        token_lens=lens,
        utt_ids=tuple(map(str, range(len(rows)))),
    )


@torch.no_grad()
def test_sentences_of_a_row_do_not_see_one_another(model: LanguageModel) -> None:
    first, second, third = [3, 4, 5], [6, 3, 3, 9], [2]
    row = model.logits(torch.tensor([[*first, 0, *second, 0, *third]]))[0]
    alone = torch.cat([model.logits(torch.tensor([one]))[0] for one in (first, second, third)])
    torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_look_ahead(model: LanguageModel) -> None:
    tokens = torch.randint(1, V, (1, 9))
    whole = model.logits(tokens)
    for at in range(9):
        changed = tokens.clone()
        changed[0, at] = tokens[0, at] % (V - 1) + 1
        other = model.logits(changed)
        torch.testing.assert_close(other[:, : at + 1], whole[:, : at + 1], atol=1e-5, rtol=1e-5)
        assert (other[:, at + 1] - whole[:, at + 1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_loss_is_a_sum_over_tokens_and_ends(model: LanguageModel) -> None:
    sentences = [[3, 4, 5], [6, 3, 3, 9], [2], [7, 7]]
    term = model(batch([[*sentences[0], 0, *sentences[1]], [*sentences[2], 0, *sentences[3]]]), seed=0, step=0).terms[
        "lm"
    ]
    expected = 0.0
    for sentence in sentences:
        log_probs = model.logits(torch.tensor([sentence]))[0].log_softmax(-1)
        expected -= sum(log_probs[at, token].item() for at, token in enumerate([*sentence, V]))
    assert term.total.item() == pytest.approx(expected, rel=1e-5)
    assert term.count.item() == sum(len(one) + 1 for one in sentences)
    assert term.by_utterance is not None and term.by_utterance.sum().item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_steps_equal_the_whole_model(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of prefixes of different lengths, grown in any order, past the first store's size."""
    monkeypatch.setattr("w2vbert_asr.models.language_model._FIRST_SLOTS", 4)
    monkeypatch.setattr("w2vbert_asr.models.language_model._FIRST_LENGTH", 2)
    steps = LanguageModelSteps(model)
    steps.start()
    for _ in range(2):  # the second start forgets the first
        prefixes: list[list[int]] = [[]]
        states = steps.start()
        for _ in range(9):
            parents = torch.randint(len(prefixes), (5,))
            tokens = torch.randint(1, V, (5,))
            states = torch.cat([states, steps.advance(states[parents], tokens)])
            prefixes += [[*prefixes[p], t] for p, t in zip(parents.tolist(), tokens.tolist(), strict=True)]
        assert len({len(prefix) for prefix in prefixes}) > 3
        found = steps.log_probs(states)
        for prefix, own in zip(prefixes, found, strict=True):
            expected = model.logits(torch.tensor([prefix], dtype=torch.long))[0, -1].log_softmax(-1)
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)
            assert own.exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_it_learns_what_follows_what() -> None:
    torch.manual_seed(0)
    model = LanguageModel(
        LanguageModelConfig(num_layers=1, model_dim=32, num_heads=2, feed_forward_dim=64, dropout=0.0), V, 0
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    rows = batch([[1, 2, 3, 4, 0, 1, 2, 3, 4], [4, 3, 2, 1]])
    for _ in range(60):
        term = model(rows, seed=0, step=0).terms["lm"]
        optimizer.zero_grad()
        (term.total / term.count).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    least = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)) * 3 / 15  # only the first token is left to chance
    assert (term.total / term.count).item() == pytest.approx(least, abs=0.02)


def test_the_size_of_the_paper() -> None:
    with torch.device("meta"):
        config = LanguageModelConfig(num_layers=8, model_dim=1024, num_heads=8, feed_forward_dim=4096)
        model = LanguageModel(config, 1024, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(103, abs=0.5)


def test_settings_out_of_range_are_named() -> None:
    wrong = LanguageModelConfig(num_layers=0, dropout=1.0).problems()
    assert [one.split(":")[0] for one in wrong] == ["num_layers", "dropout"]
    assert "multiple of num_heads" in LanguageModelConfig(model_dim=30).problems()[0]
    assert LanguageModelConfig().problems() == []
