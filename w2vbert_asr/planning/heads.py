"""What the parts outside the encoder's blocks hold in memory during a step, and the order of all parts of a model.

As in activations.py. Dimension letters: B items, T frames (40 ms), E features of the feature encoder, D model,
G codebooks, C codes a book, M masked frames of an item, P projection, U tokens, V vocabulary, J joiner, R cells of the
lattice that exist at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from w2vbert_asr.losses.joint import Limits, groups
from w2vbert_asr.models.transducer import TransducerConfig
from w2vbert_asr.models.w2vbert import W2VBertConfig
from w2vbert_asr.planning.activations import FLOAT, INT, Component, Widths, blocks, subsampling
from w2vbert_asr.planning.flops import cells_of_frame, feature_dim, masked_frames
from w2vbert_asr.planning.training import BatchShape, Lens

_DRAW = 3 * INT  # a random number of counter_random while it is mixed
_LSTM_ROW = 44  # a unit of an LSTM layer at one position: gates and states
_CELL = 4 * FLOAT + 7 * INT  # a cell beside probabilities and hidden units: scores, and where it lies
_COUNTING = 0.6  # of a lattice's cells take gradients; fewer the larger it is
_LATTICE_ARRAYS = 8  # of float64, skewed


def components(
    model: W2VBertConfig | TransducerConfig, shape: BatchShape, widths: Widths, vocab_size: int
) -> list[Component]:
    """Every part of the model in the order of the forward pass."""
    encoder = model.encoder
    first = subsampling(encoder.subsampling, shape, widths)
    if not isinstance(model, W2VBertConfig):
        middle = blocks(encoder, shape, widths, 0, encoder.num_layers)
        return [first, _projection(model, shape, widths), *middle, *_transducer(model, shape, widths, vocab_size)]
    quantizer, start = _quantizer(model, shape, widths), _projection(model, shape, widths)
    parts = [first, quantizer, start, *blocks(encoder, shape, widths, 0, model.contrastive_layers)]
    parts.append(_contrastive(model, shape, widths))
    if model.has_prediction:
        parts += blocks(encoder, shape, widths, model.contrastive_layers, encoder.num_layers)
        parts.append(_prediction(model, shape, widths))
    return parts


def _projection(model: W2VBertConfig | TransducerConfig, shape: BatchShape, widths: Widths) -> Component:
    """Features (masked first in pre-training), linear, dropout."""
    rows, dim = shape.items * shape.frames, model.encoder.block.model_dim
    features = rows * feature_dim(model.encoder.subsampling)
    saved = features * widths.product + rows * dim * widths.mask(model.encoder.block.dropout)
    until_end = features * widths.norm if widths.norm != widths.product else 0.0
    draws = 0.0
    if isinstance(model, W2VBertConfig):
        draws = features * masked_frames(model.span_mask, shape.frames) / shape.frames * (_DRAW + INT)
    return Component(
        prefixes=("encoder.projection.",),
        saved=saved,
        until_end=until_end,
        forward=saved + until_end + rows * dim * widths.product + draws,
        backward=saved + 2 * features * widths.norm,
    )


def _quantizer(model: W2VBertConfig, shape: BatchShape, widths: Widths) -> Component:
    """Features in float32 (centred and scaled first with input_norm), logits, Gumbel noise, two softmaxes."""
    rows = shape.items * shape.frames
    features = rows * feature_dim(model.encoder.subsampling)
    codes = rows * model.quantizer.num_codebooks * model.quantizer.num_codes
    is_normed = model.quantizer.input_norm == "batch"
    saved = features * FLOAT * (3 if is_normed else 1) + 2 * codes * FLOAT
    until_end = 2.0 * codes * FLOAT + (features * widths.norm if is_normed or widths.norm != FLOAT else 0.0)
    return Component(
        prefixes=("quantizer.",),
        saved=saved,
        until_end=until_end,
        forward=saved + until_end + codes * (_DRAW - 3 * FLOAT),
        backward=saved + features * FLOAT * (2 if is_normed else 1) + 2 * codes * FLOAT,
    )


def _contrastive(model: W2VBertConfig, shape: BatchShape, widths: Widths) -> Component:
    """Context and quantized vectors of masked frames, their (M, M) similarities; statistics of all frames' codes."""
    quantizer, dim = model.quantizer, model.encoder.block.model_dim
    per_row = quantizer.num_codebooks * quantizer.num_codes
    masked = masked_frames(model.span_mask, shape.frames)
    rows, pairs = shape.items * masked, shape.items * masked**2
    saved = 0.0
    if model.contrastive_weight:
        vectors = 4 * FLOAT * quantizer.code_dim
        saved = rows * (widths.product * dim + vectors + FLOAT * per_row) + pairs * (FLOAT + 2)
    statistics = 5 * FLOAT * shape.items * shape.frames * per_row
    return Component(
        prefixes=("context.",),
        saved=saved,
        forward=saved + max(statistics, pairs * (_DRAW + INT)),
        backward=saved + pairs * 3 * FLOAT + shape.items * shape.frames * dim * widths.norm,
    )


def _prediction(model: W2VBertConfig, shape: BatchShape, widths: Widths) -> Component:
    """Logits, log-softmax and one-hot targets of masked frames."""
    quantizer, dim = model.quantizer, model.encoder.block.model_dim
    per_row = quantizer.num_codebooks * quantizer.num_codes
    all_rows = shape.items * shape.frames
    rows = shape.items * masked_frames(model.span_mask, shape.frames)
    saved = rows * (widths.product * dim + 2 * FLOAT * per_row)
    if model.targets == "straight_through":
        saved += rows * FLOAT * per_row + all_rows * FLOAT * per_row
    return Component(
        prefixes=("prediction.",),
        saved=saved,
        forward=saved + 2 * rows * FLOAT * per_row,
        backward=saved + 2 * rows * FLOAT * per_row + all_rows * dim * widths.norm,
    )


def _transducer(model: TransducerConfig, shape: BatchShape, widths: Widths, vocab_size: int) -> list[Component]:
    """Projection block, decoder, joiner with the lattice, CTC head."""
    rows, positions = shape.items * shape.frames, shape.items * (shape.tokens + 1)
    dim, projected, product = model.encoder.block.model_dim, model.projection_dim, widths.product
    decoder, joiner_dim = model.decoder, model.joiner.joiner_dim
    cast = product != FLOAT
    saved = rows * (product * dim + projected * (2 * product + 2 * FLOAT + widths.mask(model.projection_dropout)))
    until_end = rows * (projected * FLOAT + dim * widths.norm) if cast else 0.0
    projection = Component(
        prefixes=("projection.",),
        saved=saved,
        until_end=until_end,
        forward=saved + until_end + rows * projected * 2 * FLOAT,
        backward=saved + rows * projected * 3 * FLOAT,
    )
    mask = widths.mask(decoder.dropout)
    layers = decoder.num_layers * decoder.hidden_dim * (_LSTM_ROW + product + mask)
    saved = positions * (decoder.embedding_dim * (product + mask) + layers + decoder.hidden_dim * product)
    lstm = Component(prefixes=("decoder.",), saved=saved, forward=2 * saved, backward=2 * saved)

    inputs = (rows + positions) * joiner_dim
    gradients = (inputs + vocab_size * (joiner_dim + 1)) * FLOAT
    saved = inputs * product + gradients
    lattice = Component(
        prefixes=("joiner.",),
        saved=saved,
        forward=saved + lattice_bytes(model, [shape.lens] * shape.items, vocab_size, widths),
        backward=saved + gradients,
        kind="lattice",
    )
    parts = [projection, lstm, lattice]
    if model.loss == "pruned":  # scores, their exponentials and the normalizers, and the lattice of arcs
        scores = (rows + positions) * vocab_size * FLOAT + rows * (shape.tokens + 1) * (2 * FLOAT + _CELL)
        additive = Component(prefixes=("additive.",), saved=2 * scores, forward=3 * scores, backward=3 * scores)
        parts.insert(2, additive)
    if not model.ctc_weight:
        return parts
    scores = rows * vocab_size * FLOAT
    saved = scores + rows * (2 * shape.tokens + 1) * FLOAT + (rows * dim * FLOAT if cast else 0)
    ctc = Component(prefixes=("ctc.",), saved=saved, forward=saved + scores, backward=saved + 2 * scores)
    return [*parts, ctc]


def lattice_bytes(
    model: TransducerConfig, lens: Sequence[Lens], vocab_size: int, widths: Widths, limits: Limits | None = None
) -> float:
    """The most that losses/joint.py holds at a time, of one group of utterances with these lengths (padded to the
    longest): as many neighbours as `limits` allow, by default those of the device.
    """
    limits = limits or Limits.on(widths.device)
    joiner_dim, product, is_cast = model.joiner.joiner_dim, widths.product, widths.product != FLOAT
    kept_row = (vocab_size + joiner_dim) * product
    cells = [frames * cells_of_frame(model, tokens) for frames, tokens in lens]
    inputs = sum(map(max, zip(*lens, strict=True)), 1) * joiner_dim * FLOAT
    weights = vocab_size * joiner_dim * product
    most = 0.0
    for first, end in groups([rows * kept_row for rows in cells], limits.group_bytes):
        rows = sum(cells[first:end])
        is_kept = rows * kept_row <= limits.kept_bytes
        chunk = min(rows, max(1, limits.chunk_elements // max(vocab_size, joiner_dim)))
        scores = chunk * max(2 * vocab_size * FLOAT + joiner_dim * product, 2 * joiner_dim * FLOAT)
        counting = min(chunk, rows * _COUNTING)
        products = max(weights, counting * joiner_dim * (2 * product + is_cast * FLOAT))
        gradients = max(is_cast * counting * vocab_size * FLOAT, products)
        gradients += counting * (vocab_size + joiner_dim) * product
        skewed = _LATTICE_ARRAYS * (end - first) * INT
        skewed *= max(sum(one) for one in lens[first:end]) * (max(tokens for _, tokens in lens[first:end]) + 2)
        held = rows * (_CELL + is_kept * kept_row) + (end - first) * inputs + is_cast * weights
        most = max(most, held + max(scores, gradients, skewed))
    return most
