"""Each pre-training loss against a slow loop."""

import math

import pytest
import torch

from w2vbert_asr.losses.contrastive import ContrastiveConfig, contrastive_loss, draw_distractors
from w2vbert_asr.losses.diversity import diversity_loss, mean_code_probs, perplexity
from w2vbert_asr.losses.masked_prediction import masked_prediction_loss, num_correct

torch.manual_seed(0)


def slow_contrastive(context, quantized, codes, distractors, temperature):  # type: ignore[no-untyped-def]
    """One utterance: (M, D), (M, D), (M, G), rows of distractor indices."""
    loss, correct, equal = 0.0, 0, 0
    for t in range(len(context)):

        def similarity(k: int, t: int = t) -> float:
            return float(torch.cosine_similarity(context[t], quantized[k], dim=0)) / temperature

        rivals = [k for k in distractors[t] if codes[k].tolist() != codes[t].tolist()]
        equal += len(distractors[t]) - len(rivals)
        scores = [similarity(t)] + [similarity(k) for k in rivals]
        loss += math.log(sum(math.exp(score) for score in scores)) - scores[0]
        correct += all(scores[0] > score for score in scores[1:])
    return loss, correct, equal


@pytest.mark.parametrize("num_distractors", [3, 50])
def test_contrastive_equals_a_loop(num_distractors: int) -> None:
    lengths = [7, 4, 1, 0]
    size = 7
    valid = torch.arange(size)[None] < torch.tensor(lengths)[:, None]
    frames = torch.arange(size).repeat(4, 1) * 3
    context, quantized = torch.randn(4, size, 6), torch.randn(4, size, 6)
    codes = torch.randint(0, 3, (4, size, 2))
    config = ContrastiveConfig(num_distractors=num_distractors)
    distractors = draw_distractors(valid, frames, ("a", "b", "c", "d"), 0, 1, num_distractors)
    output = contrastive_loss(context, quantized, codes, valid, distractors, config)
    loss = correct = equal = drawn = 0
    for row, length in enumerate(lengths):
        if length < 2:
            continue
        chosen = [distractors[row, t].nonzero().flatten().tolist() for t in range(length)]
        assert all(len(some) == min(num_distractors, length - 1) for some in chosen)
        assert all(t not in some and max(some) < length for t, some in enumerate(chosen))
        one = slow_contrastive(context[row][:length], quantized[row], codes[row], chosen, config.temperature)
        loss, correct, equal = loss + one[0], correct + one[1], equal + one[2]
        drawn += sum(map(len, chosen))
    assert float(output.loss.sum()) == pytest.approx(loss, rel=1e-5)
    assert int(output.count) == 11  # an utterance with one masked frame leaves the loss
    assert int(output.correct) == correct
    assert (int(output.equal_distractors), int(output.num_distractors)) == (equal, drawn)


def test_contrastive_has_finite_gradients_where_an_utterance_has_no_distractor() -> None:
    valid = torch.tensor([[True, True, True], [True, False, False]])
    context = torch.randn(2, 3, 4, requires_grad=True)
    codes = torch.tensor([[[0], [0], [0]], [[1], [0], [0]]])  # all equal: every distractor is masked out
    distractors = draw_distractors(valid, torch.arange(3).repeat(2, 1), ("a", "b"), 0, 0, 100)
    output = contrastive_loss(context, torch.randn(2, 3, 4), codes, valid, distractors, ContrastiveConfig())
    output.loss.sum().backward()
    assert float(output.loss.detach().sum()) == 0.0 and torch.isfinite(context.grad).all()


def test_distractors_are_uniform_and_do_not_depend_on_the_batch() -> None:
    size, num = 12, 4
    valid = torch.ones(1, size, dtype=torch.bool)
    frames = torch.arange(size)[None]
    counts = torch.zeros(size, size)
    for step in range(600):
        counts += draw_distractors(valid, frames, ("a",), 0, step, num)[0]
    expected = 600 * num / (size - 1)
    others = counts[~torch.eye(size, dtype=torch.bool)]
    assert float((others - expected).abs().max()) < 5 * math.sqrt(expected)
    wide = torch.cat([valid, torch.zeros(1, 5, dtype=torch.bool)], 1)
    padded = draw_distractors(wide, torch.arange(size + 5)[None], ("a",), 0, 3, num)
    assert torch.equal(padded[:, :size, :size], draw_distractors(valid, frames, ("a",), 0, 3, num))


def test_diversity_equals_a_loop_and_knows_collapse() -> None:
    logits = torch.randn(50, 2, 4) * 2
    probs = [[0.0] * 4 for _ in range(2)]
    for frame in logits:
        for book in range(2):
            total = sum(math.exp(float(value)) for value in frame[book])
            for code in range(4):
                probs[book][code] += math.exp(float(frame[book, code])) / total / 50
    expected = (8 - sum(math.exp(-sum(p * math.log(p) for p in book)) for book in probs)) / 8
    assert float(diversity_loss(mean_code_probs(logits))) == pytest.approx(expected, rel=1e-5)
    assert float(diversity_loss(torch.full((1, 4), 0.25))) == pytest.approx(0.0, abs=1e-6)
    assert float(diversity_loss(torch.eye(4)[:1])) == pytest.approx(0.75)
    assert float(perplexity(torch.eye(4))[0]) == pytest.approx(1.0)


def test_masked_prediction_equals_torchs_cross_entropy() -> None:
    logits, ids = torch.randn(9, 2, 5), torch.randint(0, 5, (9, 2))
    choice = torch.nn.functional.one_hot(ids, 5).float()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="sum") / 2
    torch.testing.assert_close(masked_prediction_loss(logits, choice).sum(), expected)
    logits[0] = 9 * choice[0]
    assert float(num_correct(logits, ids)) == float((logits.argmax(-1) == ids).float().sum() / 2)
