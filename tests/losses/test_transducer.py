"""The transducer loss against a sum over all alignments, finite differences and torchaudio."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from w2vbert_asr.losses.joint import Limits
from w2vbert_asr.losses.transducer import joint_loss_in_bands, joint_transducer_loss, transducer_loss

BLANK = 0


def brute_force(logits: Tensor, tokens: list[int]) -> Tensor:
    """-log P of one utterance, logits (T, U + 1, V): an alignment is the number of tokens of each frame."""
    log_probs = logits.log_softmax(-1)
    num_frames = len(log_probs)
    paths = []
    for counts in itertools.product(range(len(tokens) + 1), repeat=num_frames):
        if sum(counts) != len(tokens):
            continue
        score, u = log_probs.new_zeros(()), 0
        for t, count in enumerate(counts):
            for _ in range(count):
                score, u = score + log_probs[t, u, tokens[u]], u + 1
            score = score + log_probs[t, u, BLANK]
        paths.append(score)
    return -torch.stack(paths).logsumexp(0)


def joint_logits(encoder_out: Tensor, decoder_out: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.tanh(encoder_out[:, :, None] + decoder_out[:, None]) @ weight.T + bias


def random_tokens(batch: int, num_tokens: int, vocab_size: int) -> Tensor:
    return torch.randint(1, vocab_size, (batch, num_tokens))


def limits(group_bytes: int = 64 << 20, kept_bytes: int = 256 << 20, chunk_elements: int = 1 << 19) -> Limits:
    return Limits(group_bytes=group_bytes, kept_bytes=kept_bytes, chunk_elements=chunk_elements)


def joint_problem(
    frame_lens: list[int], token_lens: list[int], vocab_size: int, joiner_dim: int, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], tuple[Tensor, Tensor, Tensor, int]]:
    """Leaves (encoder_out, decoder_out, weight, bias) and the arguments that follow them."""
    batch, longest = len(frame_lens), max(token_lens)
    shapes = [
        (batch, max(frame_lens) + 1, joiner_dim),
        (batch, longest + 1, joiner_dim),
        (vocab_size, joiner_dim),
        (vocab_size,),
    ]
    leaves = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    tokens = random_tokens(batch, longest, vocab_size)
    return leaves, (tokens, torch.tensor(frame_lens), torch.tensor(token_lens), BLANK)


def gradients(function: Callable[..., Tensor], leaves: list[Tensor], weights: Tensor) -> tuple[Tensor, list[Tensor]]:
    loss = function(*leaves)
    return loss.detach(), list(torch.autograd.grad((loss * weights).sum(), leaves))


def assert_near(actual: Tensor, expected: Tensor, relative: float) -> None:
    """Relative to the largest element, as a gradient's small elements are differences of large ones."""
    assert (actual - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("num_frames", range(1, 6))
@pytest.mark.parametrize("num_tokens", range(6))
def test_equals_the_sum_over_all_alignments(num_frames: int, num_tokens: int) -> None:
    torch.manual_seed(10 * num_frames + num_tokens)
    leaves, rest = joint_problem([num_frames], [num_tokens], 4, 3, torch.float64)
    logits = joint_logits(*leaves)
    expected = brute_force(logits[0, :num_frames], rest[0][0].tolist())
    assert (transducer_loss(logits, *rest)[0] - expected).abs() < 1e-10
    assert (joint_transducer_loss(*leaves, *rest)[0] - expected).abs() < 1e-10
    expected_gradients = torch.autograd.grad(expected, leaves, retain_graph=True)
    for function in (lambda *x: transducer_loss(joint_logits(*x), *rest), lambda *x: joint_transducer_loss(*x, *rest)):
        for actual, wanted in zip(gradients(function, leaves, torch.ones(1))[1], expected_gradients, strict=True):
            assert (actual - wanted).abs().max() < 1e-10


def paths(log_probs: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Posteriors of the arcs by enumeration: (T, U + 1) of blanks and of tokens; and -log P."""
    num_frames, blank, label = len(log_probs), [], []
    scores = []
    for counts in itertools.product(range(len(tokens) + 1), repeat=num_frames):
        if sum(counts) != len(tokens):
            continue
        score, u = log_probs.new_zeros(()), 0
        blanks, labels = torch.zeros_like(log_probs[..., 0]), torch.zeros_like(log_probs[..., 0])
        for t, count in enumerate(counts):
            for _ in range(count):
                score, labels[t, u], u = score + log_probs[t, u, tokens[u]], 1.0, u + 1
            score, blanks[t, u] = score + log_probs[t, u, BLANK], 1.0
        scores.append(score), blank.append(blanks), label.append(labels)
    share = torch.stack(scores).softmax(0)[:, None, None]
    return (share * torch.stack(blank)).sum(0), (share * torch.stack(label)).sum(0), -torch.stack(scores).logsumexp(0)


@pytest.mark.parametrize(("num_frames", "num_tokens"), [(1, 0), (2, 2), (3, 4), (5, 3)])
@pytest.mark.parametrize("fastemit", [0.0, 0.25, 2.0])
def test_fastemit_weighs_the_tokens_occupations_in_the_gradient_alone(
    num_frames: int, num_tokens: int, fastemit: float
) -> None:
    torch.manual_seed(num_frames)
    leaves, rest = joint_problem([num_frames], [num_tokens], 4, 3, torch.float64)
    logits = joint_logits(*leaves)[0, :num_frames]
    log_probs, tokens = logits.log_softmax(-1), rest[0][0].tolist()
    by_blank, by_label, loss = paths(log_probs.detach(), tokens)
    next_log_probs = log_probs.gather(2, torch.tensor([*tokens, BLANK]).expand(num_frames, -1)[:, :, None])[..., 0]
    surrogate = -(by_blank * log_probs[..., BLANK]).sum() - (1.0 + fastemit) * (by_label * next_log_probs).sum()
    expected = torch.autograd.grad(surrogate, leaves)
    for function in (
        lambda *x: transducer_loss(joint_logits(*x), *rest, fastemit=fastemit),
        lambda *x: joint_transducer_loss(*x, *rest, fastemit=fastemit),
    ):
        found = function(*leaves)
        assert (found[0] - loss).abs() < 1e-10
        for mine, wanted in zip(torch.autograd.grad(found.sum(), leaves), expected, strict=True):
            assert (mine - wanted).abs().max() < 1e-10


def test_gradcheck_with_unequal_lengths() -> None:
    torch.manual_seed(0)
    leaves, rest = joint_problem([1, 4, 2], [3, 2, 0], 3, 2, torch.float64)
    logits = torch.randn(3, 4, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: transducer_loss(x, *rest), logits)
    assert torch.autograd.gradcheck(lambda *x: joint_transducer_loss(*x, *rest), leaves)


@pytest.mark.parametrize("group_bytes", [1, 20_000, 1 << 30])
@pytest.mark.parametrize("weights", [[1.0] * 4, [0.3, 0.0, -2.0, 5.0]])
def test_joint_equals_plain_for_any_grouping_and_weighting(group_bytes: int, weights: list[float]) -> None:
    torch.manual_seed(1)
    leaves, rest = joint_problem([9, 2, 7, 1], [3, 6, 0, 5], 11, 8)
    plain = gradients(lambda *x: transducer_loss(joint_logits(*x), *rest), leaves, torch.tensor(weights))
    joint = gradients(
        lambda *x: joint_transducer_loss(*x, *rest, limits=limits(group_bytes)), leaves, torch.tensor(weights)
    )
    torch.testing.assert_close(joint[0], plain[0], rtol=1e-5, atol=1e-5)
    for actual, expected in zip(joint[1], plain[1], strict=True):
        assert_near(actual, expected, 1e-5)


@pytest.mark.parametrize("group_bytes", [1, 1 << 30])
@pytest.mark.parametrize("weights", [[1.0] * 4, [0.3, 0.0, -2.0, 5.0]])
@pytest.mark.parametrize("in_bands", [False, True])
def test_logits_made_again_give_the_same_numbers(group_bytes: int, weights: list[float], in_bands: bool) -> None:
    torch.manual_seed(9)
    lens = [9, 2, 7, 1], [3, 6, 0, 5]
    leaves, (tokens, *_) = joint_problem(*lens, 11, 8)
    bands = [(torch.zeros(n, dtype=torch.int64), u + 1) for n, u in zip(*lens, strict=True)] if in_bands else None
    kept, again = (
        gradients(
            lambda *x: joint_loss_in_bands(
                *x,
                tokens,
                *lens,
                BLANK,
                0.1,
                bands,
                limits(group_bytes, kept_bytes, 100),  # noqa: B023
            ),  # nine cells at a time
            leaves,
            torch.tensor(weights),
        )
        for kept_bytes in (1 << 30, 0)
    )
    torch.testing.assert_close(again[0], kept[0], rtol=1e-6, atol=1e-6)
    for one, other in zip(again[1], kept[1], strict=True):
        assert_near(one, other, 1e-6)


def test_inputs_in_any_layout() -> None:
    torch.manual_seed(10)
    leaves, rest = joint_problem([6, 4, 5], [3, 2, 1], 9, 4)
    wanted = gradients(lambda *x: joint_transducer_loss(*x, *rest), leaves, torch.ones(3))[1]
    turned = [leaf.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for leaf in leaves]
    assert not turned[0].is_contiguous()
    for one, other in zip(
        gradients(lambda *x: joint_transducer_loss(*x, *rest), turned, torch.ones(3))[1], wanted, strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
def test_cells_that_the_alignment_does_not_pass_are_no_loss(sharpness: float) -> None:
    """In float32, against all cells in float64: the products that are left out are within the rounding of the rest."""
    torch.manual_seed(11)
    leaves, rest = joint_problem([150, 90], [60, 20], 30, 16, torch.float64)
    with torch.no_grad():
        leaves[2].mul_(sharpness)
    exact = gradients(lambda *x: transducer_loss(joint_logits(*x), *rest), leaves, torch.ones(2))
    halves = [leaf.detach().float().requires_grad_() for leaf in leaves]
    cells = 150 * 61 + 90 * 21
    for kept_bytes, most in [(1 << 30, 3), (0, 4)]:
        with FlopCounterMode(display=False) as flops:
            found = gradients(
                lambda *x: joint_transducer_loss(*x, *rest, limits=limits(kept_bytes=kept_bytes)),  # noqa: B023
                halves,
                torch.ones(2),
            )
        product = 2 * cells * 30 * 16
        assert 1.1 * product < flops.get_total_flops() < 0.9 * most * product
        torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-6, atol=0)
        for one, other in zip(found[1], exact[1], strict=True):
            assert_near(one, other, 5e-6)


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchaudio(seed: int) -> None:
    functional = pytest.importorskip("torchaudio.functional")
    torch.manual_seed(seed)
    lens = torch.randint(1, 60, (5,)).tolist(), torch.randint(0, 30, (5,)).tolist()
    leaves, rest = joint_problem(*lens, vocab_size=40, joiner_dim=16)

    def peer(*inputs: Tensor) -> Tensor:
        logits = joint_logits(*inputs)[:, : max(lens[0])].contiguous()
        tokens, frame_lens, token_lens = (part.int() for part in rest[:3])
        loss: Tensor = functional.rnnt_loss(logits, tokens, frame_lens, token_lens, BLANK, -1.0, "none")
        return loss

    wanted = gradients(peer, leaves, torch.ones(5))
    for function in (lambda *x: transducer_loss(joint_logits(*x), *rest), lambda *x: joint_transducer_loss(*x, *rest)):
        loss, grads = gradients(function, leaves, torch.ones(5))
        torch.testing.assert_close(loss, wanted[0], rtol=1e-4, atol=1e-4)
        for actual, expected in zip(grads, wanted[1], strict=True):
            assert_near(actual, expected, 1e-4)


def test_long_utterance_stays_exact_in_float32() -> None:
    """log P is below -2000 here: sums of such numbers in float32 would blur the gradient by 2e-3."""
    torch.manual_seed(2)
    logits = torch.randn(1, 400, 101, 50) * 3
    tokens = random_tokens(1, 100, 50)
    lens = torch.tensor([400]), torch.tensor([100])
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype).requires_grad_()
        results.append(gradients(lambda x: transducer_loss(x, tokens, *lens, BLANK), [leaf], torch.ones(1)))
    (loss, (grad,)), (exact_loss, (exact_grad,)) = results
    assert (loss - exact_loss).abs() < 1e-7 * exact_loss
    assert (grad - exact_grad).abs().max() < 1e-5


def test_padding_is_never_looked_at_and_gets_exactly_zero() -> None:
    torch.manual_seed(3)
    logits = torch.randn(2, 6, 5, 7)
    tokens = random_tokens(2, 4, 7)
    lens = torch.tensor([6, 3]), torch.tensor([4, 2])
    spoiled, spoiled_tokens = logits.clone(), tokens.clone()
    spoiled[1, 3:], spoiled[1, :, 3:], spoiled_tokens[1, 2:] = torch.nan, torch.nan, -1
    loss, (grad,) = gradients(
        lambda x: transducer_loss(x, spoiled_tokens, *lens, BLANK), [spoiled.requires_grad_()], torch.ones(2)
    )
    clean, (clean_grad,) = gradients(
        lambda x: transducer_loss(x, tokens, *lens, BLANK), [logits.requires_grad_()], torch.ones(2)
    )
    assert torch.equal(loss, clean) and torch.equal(grad, clean_grad)
    assert not grad[1, 3:].any() and not grad[1, :, 3:].any()

    leaves, rest = joint_problem([6, 3], [4, 2], 7, 5)
    _, (by_encoder, by_decoder, *_) = gradients(lambda *x: joint_transducer_loss(*x, *rest), leaves, torch.ones(2))
    assert not by_encoder[:, 6:].any() and not by_encoder[1, 3:].any() and not by_decoder[1, 3:].any()
    assert by_encoder[1, :3].all() and by_decoder[1, :3].all()


def test_alone_equals_in_a_batch() -> None:
    torch.manual_seed(4)
    leaves, (tokens, frame_lens, token_lens, _) = joint_problem([5, 30, 12], [2, 9, 4], 20, 8)
    together = joint_transducer_loss(*leaves, tokens, frame_lens, token_lens, BLANK)
    encoder_out, decoder_out, weight, bias = leaves
    alone = joint_transducer_loss(
        encoder_out[:1, :5], decoder_out[:1, :3], weight, bias, tokens[:1, :2], frame_lens[:1], token_lens[:1], BLANK
    )
    torch.testing.assert_close(alone[0], together[0], rtol=1e-5, atol=1e-5)


def test_bf16_products_are_near_float32() -> None:
    torch.manual_seed(5)
    leaves, rest = joint_problem([40, 25], [12, 20], 30, 64)
    with torch.no_grad():
        leaves[2].mul_(0.3)
    exact_loss, exact = gradients(lambda *x: joint_transducer_loss(*x, *rest), leaves, torch.ones(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss, grads = gradients(lambda *x: joint_transducer_loss(*x, *rest), leaves, torch.ones(2))
    assert loss.dtype == torch.float32 and not torch.equal(loss, exact_loss)
    torch.testing.assert_close(loss, exact_loss, rtol=5e-3, atol=0)
    for actual, expected in zip(grads, exact, strict=True):
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() < 0.02 * expected.norm()
    halves = [leaf.detach().bfloat16().requires_grad_() for leaf in leaves]
    loss, grads = gradients(lambda *x: joint_transducer_loss(*x, *rest), halves, torch.ones(2))
    torch.testing.assert_close(loss, exact_loss, rtol=1e-2, atol=0)
    assert all(grad.dtype == torch.bfloat16 for grad in grads)


def train_projections(compiled: bool, halves: int = 1, bf16: bool = False) -> tuple[float, list[Tensor]]:
    """Loss and gradients of two projections and an output layer, over micro-batches of a batch of four."""
    torch.manual_seed(13)
    layers = [torch.nn.Linear(6, 8), torch.nn.Linear(5, 8), torch.nn.Linear(8, 11)]
    frames, positions = torch.randn(4, 12, 6), torch.randn(4, 7, 5)
    tokens, lens = random_tokens(4, 6, 11), (torch.tensor([12, 5, 9, 7]), torch.tensor([6, 2, 0, 4]))

    def project(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return layers[0](one), layers[1](other)

    ready = torch.compile(project, backend="aot_eager") if compiled else project
    total = 0.0
    for part in torch.arange(4).chunk(halves):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            joined = ready(frames[part], positions[part])
            output = (layers[2].weight, layers[2].bias)
            loss = joint_transducer_loss(*joined, *output, tokens[part], *(one[part] for one in lens), BLANK).sum() / 12
        loss.backward()
        total += loss.item()
    return total, [parameter.grad for layer in layers for parameter in layer.parameters()]  # type: ignore[misc]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("halves", [1, 2])
def test_the_same_when_the_rest_is_compiled_and_when_gradients_accumulate(halves: int, bf16: bool) -> None:
    wanted = train_projections(compiled=False, bf16=bf16)
    found = train_projections(compiled=True, halves=halves, bf16=bf16)
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    for one, other in zip(found[1], wanted[1], strict=True):
        assert_near(one, other, 0.01 if bf16 else 1e-5)  # in bf16 the sum of two products is rounded twice


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    torch.manual_seed(6)
    leaves, rest = joint_problem([4, 6], [2, 3], 5, 4)
    wanted = joint_transducer_loss(*leaves, *rest)
    with torch.no_grad():
        loss = joint_transducer_loss(*leaves, *rest)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, wanted.detach())


@pytest.mark.parametrize(("num_frames", "num_tokens"), [(1, 0), (1, 40), (3, 200), (50, 0)])
def test_extreme_lengths_are_finite(num_frames: int, num_tokens: int) -> None:
    torch.manual_seed(7)
    leaves, rest = joint_problem([num_frames, 2], [num_tokens, 1], 6, 4)
    loss, grads = gradients(lambda *x: joint_transducer_loss(*x, *rest), leaves, torch.ones(2))
    assert loss.isfinite().all() and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize(
    ("frame_lens", "token_lens", "said"),
    [
        ([4, 0], [2, 2], "utterance 1 of the batch has 0 frames"),
        ([4, 4], [3, 2], "3 tokens"),
        ([5, 4], [2, 2], "5 frames"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(frame_lens: list[int], token_lens: list[int], said: str) -> None:
    logits, tokens = torch.randn(2, 4, 3, 5), random_tokens(2, 2, 5)
    lens = torch.tensor(frame_lens), torch.tensor(token_lens)
    with pytest.raises(ValueError, match=said):
        transducer_loss(logits, tokens, *lens, BLANK)
    with pytest.raises(ValueError, match=said):
        joint_transducer_loss(
            torch.randn(2, 4, 6), torch.randn(2, 3, 6), torch.randn(5, 6), torch.randn(5), tokens, *lens, BLANK
        )
