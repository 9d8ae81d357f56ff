"""W2V-BERT: sizes of the paper's models, losses against slow loops, ablations, invariance to batching."""

import dataclasses

import pytest
import torch

from w2vbert_asr import config as configuration
from w2vbert_asr.batch import Batch, lengths_to_pad_mask
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig, masked_frames
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.modules.quantizer import QuantizerConfig
from w2vbert_asr.modules.spans import draw_span_mask
from w2vbert_asr.modules.subsampling import SubsamplingConfig

TINY = W2VBertConfig(
    encoder=EncoderConfig(
        num_layers=2,
        subsampling=SubsamplingConfig(channels=4),
        block=ConformerConfig(model_dim=16, num_heads=2, feed_forward_dim=32, kernel_size=3, dropout=0.0),
    ),
    contrastive_layers=1,
    quantizer=QuantizerConfig(num_codes=8, code_dim=12),
)


def make_batch(lengths: list[int], seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lens = torch.tensor(lengths)
    feats = torch.randn(len(lengths), max(lengths), 80, generator=generator)
    feats = feats.masked_fill(lengths_to_pad_mask(lens, max(lengths))[:, :, None], 0.0)
    none = torch.zeros(len(lengths), dtype=torch.int64)
    return Batch(
        feats=feats,
        feat_lens=lens,
        tokens=none[:, None][:, :0],
        token_lens=none,
        utt_ids=tuple(f"u{i}" for i in range(len(lengths))),
    )


def select(batch: Batch, row: int, extra: int = 0) -> Batch:
    length = int(batch.feat_lens[row]) + extra
    return Batch(
        feats=batch.feats[row : row + 1, :length],
        feat_lens=batch.feat_lens[row : row + 1],
        tokens=batch.tokens[row : row + 1],
        token_lens=batch.token_lens[row : row + 1],
        utt_ids=batch.utt_ids[row : row + 1],
    )


@pytest.mark.parametrize(("contrastive", "prediction", "millions"), [(12, 12, 600), (12, 30, 1000)])
def test_the_papers_models_have_their_sizes(contrastive: int, prediction: int, millions: int) -> None:
    block = ConformerConfig(model_dim=1024, num_heads=8, feed_forward_dim=4096, kernel_size=5)
    encoder = EncoderConfig(
        num_layers=contrastive + prediction, subsampling=SubsamplingConfig(channels=256), block=block
    )
    config = W2VBertConfig(
        encoder=encoder, contrastive_layers=contrastive, quantizer=QuantizerConfig(num_codes=1024, code_dim=1024)
    )
    with torch.device("meta"):
        model = W2VBert(config, max_steps=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(millions * 1e6, rel=0.05)


def test_losses_of_a_batch_are_the_sums_of_its_utterances() -> None:
    torch.manual_seed(0)
    model = W2VBert(TINY, max_steps=100).train()
    batch = make_batch([400, 161, 230])
    together = model(batch, seed=3, step=7)
    alone = [model(select(batch, row), seed=3, step=7) for row in range(3)]
    for name in ("contrastive", "masked_prediction"):
        assert int(together.terms[name].count) == sum(int(one.terms[name].count) for one in alone)
        total = sum(float(one.terms[name].total.detach()) for one in alone)
        assert float(together.terms[name].total.detach()) == pytest.approx(total, rel=1e-5)


def test_what_is_drawn_depends_on_seed_step_and_utterance() -> None:
    model = W2VBert(TINY, max_steps=100).train()
    batch = make_batch([300, 200])

    def loss(seed: int, step: int) -> float:
        return float(model(batch, seed=seed, step=step).terms["masked_prediction"].total)

    assert loss(1, 5) == loss(1, 5)
    assert loss(1, 5) != loss(2, 5)
    assert loss(1, 5) != loss(1, 6)


def test_encoder_ignores_padding_and_neighbours() -> None:
    torch.manual_seed(1)
    model = W2VBert(TINY, max_steps=1).eval()
    batch = make_batch([333, 120, 57])
    encoded, lens = model.encoder(batch.feats, batch.feat_lens)
    for row in range(3):
        alone, alone_lens = model.encoder(select(batch, row).feats, batch.feat_lens[row : row + 1])
        assert alone_lens[0] == lens[row] == (int(batch.feat_lens[row]) + 3) // 4
        torch.testing.assert_close(encoded[row, : lens[row]], alone[0], atol=1e-5, rtol=0)


def test_detached_targets_leave_the_quantizer_alone_and_straight_through_ones_reach_it() -> None:
    batch = make_batch([300])
    gradients = {}
    for targets in ("detached", "straight_through"):
        torch.manual_seed(0)
        model = W2VBert(dataclasses.replace(TINY, targets=targets), max_steps=100).train()  # type: ignore[arg-type]
        model(batch, seed=0, step=0).terms["masked_prediction"].total.backward()
        gradients[targets] = model.quantizer.logits.weight.grad
    assert gradients["detached"] is None
    assert float(gradients["straight_through"].abs().sum()) > 0


def test_ablations_leave_out_their_task() -> None:
    batch = make_batch([300, 180])
    without = W2VBert(dataclasses.replace(TINY, contrastive_layers=0, contrastive_weight=0.0), max_steps=1).train()
    assert set(without(batch, seed=0, step=0).terms) == {"diversity", "masked_prediction"}
    every = W2VBert(dataclasses.replace(TINY, contrastive_layers=2), max_steps=1).train()
    assert set(every(batch, seed=0, step=0).terms) == {"diversity", "contrastive"}
    assert not any(name.startswith("prediction") for name, _ in every.named_parameters())


def test_no_task_at_all_is_refused() -> None:
    with pytest.raises(configuration.ConfigError, match="no task"):
        configuration.load(W2VBertConfig, None, ["contrastive_weight=0", "contrastive_layers=12"])


def test_every_parameter_takes_part() -> None:
    model = W2VBert(TINY, max_steps=10).train()
    output = model(make_batch([320, 200]), seed=0, step=0)
    sum(term.weight * term.total / term.count for term in output.terms.values()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []


def test_a_healthy_start_is_chance_and_the_code_window_fills() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, quantizer=QuantizerConfig(num_codes=64, code_dim=64))
    model = W2VBert(config, max_steps=10).train()
    output = model(make_batch([1600, 1600, 1600]), seed=0, step=0)
    loss = output.terms["contrastive"]
    assert float(loss.total / loss.count) == pytest.approx(4.6, abs=0.5)  # ln(100 + 1)
    total, count = output.stats["masked_share"]
    assert float(total / count) == pytest.approx(0.49, abs=0.06)
    assert int(model.code_counts.sum()) == 3 * 400


def test_masked_frames_lists_them_in_order() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0]]).bool()
    frames, valid = masked_frames(mask)
    assert frames[0].tolist() == [1, 2, 4] and valid.tolist() == [[True] * 3, [True, False, False]]
    assert int(frames[1, 0]) == 0


def test_masking_draw_does_not_depend_on_padding() -> None:
    config = TINY.span_mask
    together = draw_span_mask(torch.tensor([100, 40]), 100, ("u0", "u1"), 0, 3, config)
    alone = draw_span_mask(torch.tensor([40]), 40, ("u1",), 0, 3, config)
    assert torch.equal(together[1, :40], alone[0]) and not together[1, 40:].any()
