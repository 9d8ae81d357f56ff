"""The decoder step by step equals the decoder at once."""

from __future__ import annotations

import pytest
import torch

from w2vbert_asr.models.decoder import DecoderConfig, DecoderState, LSTMDecoder


def make_decoder(num_layers: int = 2, dropout: float = 0.0, blank_id: int = 0) -> LSTMDecoder:
    torch.manual_seed(0)
    config = DecoderConfig(embedding_dim=3, hidden_dim=4, num_layers=num_layers, dropout=dropout)
    return LSTMDecoder(9, blank_id, config).eval()


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("blank_id", [0, 8])
def test_steps_equal_forward(num_layers: int, blank_id: int) -> None:
    decoder = make_decoder(num_layers, blank_id=blank_id)
    tokens = torch.randint(1, 8, (3, 6))
    expected = decoder(tokens, torch.tensor([6, 6, 6]))
    assert expected.shape == (3, 7, 4)
    state = decoder.initial_state(3, "cpu")
    for u in range(7):
        inputs = torch.full((3,), blank_id) if u == 0 else tokens[:, u - 1]
        out, state = decoder.step(inputs, state)
        torch.testing.assert_close(out, expected[:, u])


def test_padding_is_not_looked_at() -> None:
    decoder = make_decoder()
    tokens = torch.tensor([[1, 2, 3], [4, -1, 99]])
    out = decoder(tokens, torch.tensor([3, 1]))
    torch.testing.assert_close(out[1, :2], decoder(torch.tensor([[4]]), torch.tensor([1]))[0])
    assert decoder(torch.zeros(2, 0).long(), torch.tensor([0, 0])).shape == (2, 1, 4)


def test_the_start_is_zero_and_takes_no_gradient() -> None:
    decoder = make_decoder()
    assert not decoder.embedding.weight[0].any()
    decoder(torch.tensor([[1, 2]]), torch.tensor([2])).square().sum().backward()
    gradient = decoder.embedding.weight.grad
    assert gradient is not None and not gradient[0].any() and gradient[1].any() and not gradient[3:].any()


def test_states_are_selected_joined_and_overwritten() -> None:
    decoder = make_decoder()
    _, state = decoder.step(torch.tensor([1, 2, 3]), decoder.initial_state(3, "cpu"))
    picked = state.select(torch.tensor([2, 0, 2]))
    assert torch.equal(picked.cell[:, 0], state.cell[:, 2]) and torch.equal(picked.hidden[:, 1], state.hidden[:, 0])
    joined = DecoderState.concat([state, picked])
    assert torch.equal(joined.hidden[:, 3], state.hidden[:, 2]) and joined.cell.shape == (2, 6, 4)
    joined.put(torch.tensor([5, 0]), state.select(torch.tensor([0, 1])))
    assert torch.equal(joined.cell[:, 5], state.cell[:, 0]) and torch.equal(joined.hidden[:, 0], state.hidden[:, 1])
    assert torch.equal(joined.hidden[:, 1], state.hidden[:, 1])


def test_dropout_acts_in_training_only() -> None:
    decoder = make_decoder(num_layers=1, dropout=0.5)
    tokens, lens = torch.tensor([[1, 2, 3, 4]]), torch.tensor([4])
    assert torch.equal(decoder(tokens, lens), decoder(tokens, lens))
    assert (decoder.train()(tokens, lens) == 0).any()


def test_settings_out_of_range_are_named() -> None:
    problems = DecoderConfig(hidden_dim=0, dropout=1.0).problems()
    assert problems == [
        "hidden_dim: expected at least 1, found 0",
        "dropout: expected a probability below 1, found 1.0",
    ]


@pytest.mark.parametrize("num_layers", [1, 3])
def test_a_branch_is_a_step(num_layers: int) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(embedding_dim=4, hidden_dim=6, num_layers=num_layers)
    decoder = LSTMDecoder(9, 0, config).double().eval()
    _, state = decoder.step(torch.tensor([3, 0]), decoder.initial_state(2, "cpu"))
    parents, tokens = torch.tensor([0, 1, 1, 0]), torch.tensor([5, 5, 0, 7])
    gates = decoder.recurrent_gates(state).index_select(1, parents)
    out, new = decoder.branch(decoder.token_gates(tokens), gates, state.cell.index_select(1, parents))
    expected, after = decoder.step(tokens, state.select(parents))
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(new.hidden, after.hidden, atol=1e-12, rtol=0)
    torch.testing.assert_close(new.cell, after.cell, atol=1e-12, rtol=0)
