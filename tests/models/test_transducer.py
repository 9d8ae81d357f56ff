"""The transducer as a whole: batch invariance in evaluation, its losses, what starts it."""

import dataclasses

import pytest
import torch

from w2vbert_asr.batch import Batch
from w2vbert_asr.commands.experiment import load_parts
from w2vbert_asr.errors import ConfigError
from w2vbert_asr.losses.transducer import transducer_loss
from w2vbert_asr.models.decoder import DecoderConfig
from w2vbert_asr.models.encoder import EncoderConfig
from w2vbert_asr.models.joiner import JoinerConfig
from w2vbert_asr.models.transducer import Transducer, TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBert, W2VBertConfig
from w2vbert_asr.modules.conformer import ConformerConfig
from w2vbert_asr.modules.quantizer import QuantizerConfig
from w2vbert_asr.modules.subsampling import SubsamplingConfig
from w2vbert_asr.search import SearchConfig, search

ENCODER = EncoderConfig(
    num_layers=2,
    subsampling=SubsamplingConfig(channels=4),
    block=ConformerConfig(model_dim=16, num_heads=2, feed_forward_dim=32, kernel_size=3, dropout=0.0),
)
CONFIG = TransducerConfig(
    encoder=ENCODER,
    projection_dim=12,
    decoder=DecoderConfig(embedding_dim=6, hidden_dim=10, num_layers=1),
    joiner=JoinerConfig(joiner_dim=8),
    ctc_weight=0.5,
)


def make_model(seed: int = 0) -> Transducer:
    torch.manual_seed(seed)
    model = Transducer(CONFIG, vocab_size=7, blank_id=0)
    model.projection.norm.running_mean.normal_()
    model.projection.norm.running_var.uniform_(0.5, 2.0)
    return model


def make_batch(lengths: list[int], num_tokens: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(1)
    feats = torch.zeros(len(lengths), max(lengths), 80)
    tokens = torch.zeros(len(lengths), max(num_tokens), dtype=torch.int64)
    for row, (length, number) in enumerate(zip(lengths, num_tokens, strict=True)):
        feats[row, :length] = torch.randn(length, 80, generator=generator)
        tokens[row, :number] = torch.randint(1, 7, (number,), generator=generator)
    ids = tuple(f"u{row}" for row in range(len(lengths)))
    return Batch(
        feats=feats, feat_lens=torch.tensor(lengths), tokens=tokens, token_lens=torch.tensor(num_tokens), utt_ids=ids
    )


def row_of(batch: Batch, row: int) -> Batch:
    frames, number = int(batch.feat_lens[row]), int(batch.token_lens[row])
    part = slice(row, row + 1)
    return Batch(
        feats=batch.feats[part, :frames],
        feat_lens=batch.feat_lens[part],
        tokens=batch.tokens[part, :number],
        token_lens=batch.token_lens[part],
        utt_ids=batch.utt_ids[part],
    )


def test_an_utterance_alone_and_among_longer_ones_is_the_same() -> None:
    model = make_model().eval()
    batch = make_batch([200, 90, 41], [9, 4, 0])
    encoder_out, lens = model.encode(batch.feats, batch.feat_lens)
    together = search(model, encoder_out, lens, SearchConfig(name="beam", beam_size=4))
    total = model(batch, seed=0, step=0).terms
    sums = dict.fromkeys(total, 0.0)
    for row in range(3):
        one = row_of(batch, row)
        alone, alone_lens = model.encode(one.feats, one.feat_lens)
        torch.testing.assert_close(encoder_out[row, : lens[row]], alone[0], atol=1e-5, rtol=0)
        hypothesis = search(model, alone, alone_lens, SearchConfig(name="beam", beam_size=4))[0][0]
        assert hypothesis.tokens == together[row][0].tokens
        assert hypothesis.score == pytest.approx(together[row][0].score, abs=1e-4)
        for name, term in model(one, seed=0, step=0).terms.items():
            sums[name] += float(term.total.detach())
    for name, value in sums.items():
        assert float(total[name].total.detach()) == pytest.approx(value, rel=1e-5)


def test_the_loss_is_the_transducer_loss_of_the_joiners_logits() -> None:
    model = make_model().eval()
    batch = make_batch([120, 88], [5, 3])
    encoder_out, lens = model.encode(batch.feats, batch.feat_lens)
    decoder_out = model.decoder(batch.tokens, batch.token_lens)
    logits = model.joiner(
        model.joiner.project_encoder(encoder_out)[:, :, None], model.joiner.project_decoder(decoder_out)[:, None]
    )
    expected = transducer_loss(logits, batch.tokens, lens, batch.token_lens, blank_id=0).sum()
    torch.testing.assert_close(model(batch, seed=0, step=0).terms["transducer"].total, expected, rtol=1e-5, atol=1e-4)


def test_a_pre_trained_encoder_fits_and_every_name_is_reported() -> None:
    pretrained = W2VBert(
        W2VBertConfig(encoder=ENCODER, contrastive_layers=1, quantizer=QuantizerConfig(num_codes=8)), 1
    )
    model = make_model()
    weights = pretrained.state_dict()
    report = load_parts(model, weights, ("encoder",), "exp/pretrain")
    assert torch.equal(model.encoder.blocks[1].norm.weight, pretrained.encoder.blocks[1].norm.weight)
    assert torch.equal(model.encoder.projection.weight, pretrained.encoder.projection.weight)
    assert set(report["loaded"]) | set(report["skipped"]) == set(weights)  # type: ignore[call-overload]
    assert all(name.startswith("encoder.") for name in report["loaded"])  # type: ignore[attr-defined]
    assert set(report["loaded"]) | set(report["fresh"]) == set(model.state_dict())  # type: ignore[call-overload]


def test_an_encoder_of_another_shape_is_refused_with_the_names() -> None:
    wide = dataclasses.replace(ENCODER, block=dataclasses.replace(ENCODER.block, feed_forward_dim=64))
    pretrained = W2VBert(W2VBertConfig(encoder=wide, contrastive_layers=1), 1)
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"blocks.0.feed_forward1.expand.weight: shape \(64, 16\), here \(32, 16\)"):
        load_parts(model, pretrained.state_dict(), ("encoder",), "exp/pretrain")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(ConfigError, match="decoder: no weight of that part"):
        load_parts(model, make_w2vbert().state_dict(), ("encoder", "decoder"), "exp/pretrain")


def make_w2vbert() -> W2VBert:
    return W2VBert(W2VBertConfig(encoder=ENCODER, contrastive_layers=1), 1)


def test_the_pruned_loss_warms_up_over_a_share_of_the_run_and_reaches_every_parameter() -> None:
    batch = make_batch([160, 90], [9, 4])
    config = dataclasses.replace(CONFIG, loss="pruned", prune_range=3, prune_warmup_share=0.25)
    torch.manual_seed(0)
    model = Transducer(config, vocab_size=7, blank_id=0, max_steps=80).train()
    weights = {}
    for step in (0, 10, 20, 60):
        terms = model(batch, seed=0, step=step).terms
        weights[step] = (round(terms["transducer"].weight, 6), round(terms["additive"].weight, 6))
    assert weights == {0: (0.1, 1.0), 10: (0.55, 0.75), 20: (1.0, 0.5), 60: (1.0, 0.5)}
    sum(term.weight * term.total for term in terms.values()).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    wide = dataclasses.replace(config, prune_range=99)
    whole = make_model()
    pruned = Transducer(wide, vocab_size=7, blank_id=0)
    pruned.load_state_dict(whole.state_dict(), strict=False)
    pairs = [one.eval()(batch, seed=0, step=0).terms["transducer"].total for one in (whole, pruned)]
    torch.testing.assert_close(*pairs)
