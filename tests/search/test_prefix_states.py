"""Prefixes keep their slots, a known prefix costs no decoder step, and what is in use is never given away."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from w2vbert_asr.models.decoder import DecoderConfig, LSTMDecoder
from w2vbert_asr.models.joiner import Joiner, JoinerConfig
from w2vbert_asr.search.prefix_states import ROOT_KEY, PrefixStates, extend_key


@dataclass
class Model:
    decoder: LSTMDecoder
    joiner: Joiner
    blank_id: int = 0


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    decoder = LSTMDecoder(50, 0, DecoderConfig(embedding_dim=4, hidden_dim=5, num_layers=2))
    return Model(decoder.eval(), Joiner(3, 5, 50, JoinerConfig(joiner_dim=6)).eval())


def exact(model: Model, tokens: list[int]) -> Tensor:
    out = model.decoder(torch.tensor([tokens]).long(), torch.tensor([len(tokens)]))
    return model.joiner.project_decoder(out)[0, -1]


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [25, 26])  # so many that the gates of all tokens are made at once, or not
def test_vectors_are_those_of_the_decoder_and_known_prefixes_cost_nothing(
    model: Model, num_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = PrefixStates(model, 2, 4, torch.device("cpu"), num_frames)
    assert (states.token_table is None) == (num_frames == 25)
    steps: list[int] = []
    branch, gates_of, prepared = model.decoder.branch, model.decoder.recurrent_gates, []
    monkeypatch.setattr(
        model.decoder, "branch", lambda tokens, *more: (steps.append(len(tokens)), branch(tokens, *more))[1]
    )
    monkeypatch.setattr(
        model.decoder, "recurrent_gates", lambda state: (prepared.append(state.hidden.shape[1]), gates_of(state))[1]
    )
    roots = states.root_slots

    def extend(in_use: Tensor, utterance: list[int], slots: Tensor, tokens: list[int], keys: Tensor) -> Tensor:
        return states.extend(in_use, torch.tensor(utterance), slots, torch.tensor(tokens), keys)

    root_keys = torch.full((3,), ROOT_KEY)
    first_keys = extend_key(root_keys, torch.tensor([7, 8, 7]))
    first = extend(roots, [0, 0, 1], roots[[0, 0, 1]], [7, 8, 7], first_keys)
    assert steps == [3] and len({*first.tolist(), *roots.tolist()}) == 5
    second_keys = extend_key(first_keys[1:], torch.tensor([9, 9]))
    second = extend(first, [0, 1], first[1:], [9, 9], second_keys)
    assert steps == [3, 2]
    for slot, tokens in zip([*roots, *first, *second], [[], [], [7], [8], [7], [8, 9], [7, 9]], strict=True):
        torch.testing.assert_close(states.vectors[slot], exact(model, tokens))

    again = extend(second, [0, 0, 1], roots[[0, 0, 1]], [8, 5, 7], extend_key(root_keys, torch.tensor([8, 5, 7])))
    assert steps == [3, 2, 1]  # only the 5 is new
    assert prepared == [2, 2]  # the roots, of which one has two continuations; what grew out of them
    assert again[0] == first[1] and again[2] == first[2]
    torch.testing.assert_close(states.vectors[again[1]], exact(model, [5]))
    assert again[1] not in [*second.tolist(), first[1].item()]


@torch.no_grad()
def test_the_longest_unused_slot_is_given_away_first(model: Model) -> None:
    states = PrefixStates(model, 1, 3, torch.device("cpu"), 10)
    slot, key, used = states.root_slots, torch.tensor([ROOT_KEY]), []
    tokens: list[int] = []
    for token in range(1, 9):
        key = extend_key(key, torch.tensor([token]))
        slot = states.extend(slot, torch.tensor([0]), slot, torch.tensor([token]), key)
        tokens.append(token)
        used.append(slot.item())
        torch.testing.assert_close(states.vectors[slot[0]], exact(model, tokens))
    assert set(used) == {0, 1, 2} and all(a != b for a, b in itertools.pairwise(used))


@torch.no_grad()
def test_a_prefix_found_again_is_not_overwritten_by_a_new_one_beside_it(model: Model) -> None:
    states = PrefixStates(model, 1, 3, torch.device("cpu"), 10)
    root, root_keys = states.root_slots, torch.tensor([ROOT_KEY, ROOT_KEY])
    for token in (1, 2):  # the 1 is now the longest unused
        one = torch.tensor([token])
        states.extend(root, torch.tensor([0]), root, one, extend_key(root_keys[:1], one))
    both = torch.tensor([1, 3])
    slots = states.extend(root, torch.tensor([0, 0]), root.repeat(2), both, extend_key(root_keys, both))
    for slot, token in zip(slots, both.tolist(), strict=True):
        torch.testing.assert_close(states.vectors[slot], exact(model, [token]))


def test_different_prefixes_have_different_keys() -> None:
    keys = torch.tensor([ROOT_KEY])
    seen = [keys]
    for _ in range(4):  # all prefixes of up to 4 of 20 tokens
        keys = extend_key(keys.repeat_interleave(20), torch.arange(20).repeat(len(keys)))
        seen.append(keys)
    every = torch.cat(seen)
    assert len(every.unique()) == len(every) == sum(20**n for n in range(5))
    repeated = torch.tensor([ROOT_KEY])
    lengths = []
    for _ in range(2000):  # the same token over and over
        repeated = extend_key(repeated, torch.tensor([3]))
        lengths.append(repeated.item())
    assert len(set(lengths)) == 2000
