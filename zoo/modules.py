"""What is trained on a backbone: Rep-Net modules and a new classifier, their first weights and the scales of their activations.

Numbers of the trainable part (``docs/reference/numerics.md``; the paper leaves them open): see :mod:`sasimc.zoo.zoo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sasimc.isa.errors import SasError
from sasimc.zoo.arch import ConvSpec, RepModule
from sasimc.zoo.calibrate import Stats, affine_scale, power_of_two
from sasimc.zoo.options import LearnerOptions
from sasimc.zoo.weights import QuantWeights, Scale, load_npz

__all__ = ["calibrate_modules", "calibrate_pooled", "check_limits", "learner_scale", "new_classifier", "rep_weights"]

_OFF = 2.0**-20
"""Factor that all but switches a module off, exactly."""


def check_limits(options: Any, limits: Sequence[tuple[str, float, float]]) -> None:
    """Raise :class:`SasError` for the first field outside its limits (name, lowest, highest)."""
    for name, lo, hi in limits:
        if not lo <= getattr(options, name) <= hi:
            raise SasError(f"{name} is {getattr(options, name)}, allowed is {lo:g} to {hi:g}")


def new_classifier(features: int, classes: int, options: LearnerOptions) -> QuantWeights:
    """Weights of a new classifier: uniform within 1 / sqrt(features), which is about 16 steps."""
    bound = 1 / math.sqrt(features)
    exponent = options.head_weight_exponent if options.head_weight_exponent is not None else round(math.log2(bound / 16))
    scale = 2.0**exponent
    real = np.zeros((classes, features))
    if options.head_init == "random":
        real = np.random.default_rng([options.seed, 2]).uniform(-bound, bound, (classes, features))
    weight = np.clip(np.rint(real / scale), -127, 127).astype(np.int8)
    return QuantWeights(weight, np.array([scale], np.float32), np.zeros(classes))


def rep_weights(rng: np.random.Generator, modules: Sequence[RepModule], options: LearnerOptions) -> dict[str, QuantWeights]:
    """Int8 weights of the modules: random, at He's scale rounded to a power of two (conv2's is corrected by calibration), or those of the file that the options
    name, with as many steps.

    Raises:
        SasError: a file that cannot be read, or has no weights of this shape and name.
    """
    deviation = options.rep_weight_max / 3
    convs = [(conv, gain) for m in modules for conv, gain in ((m.conv1, 2.0), (m.conv2, 1.0))]
    if options.weights_file is not None and modules:
        given = load_npz(Path(options.weights_file))
        return {conv.name: _rounded(given, conv, deviation, options.weights_file) for conv, _ in convs}
    result = {}
    for conv, gain in convs:
        fan_in = math.prod(conv.weight_shape[1:])
        drawn = np.rint(rng.normal(0, deviation, conv.weight_shape))
        weight = np.clip(drawn, -options.rep_weight_max, options.rep_weight_max).astype(np.int8)
        exponent = round(math.log2(math.sqrt(gain / fan_in) / deviation))
        result[conv.name] = QuantWeights(weight, np.array([2.0**exponent], np.float32))
    return result


def _rounded(given: Mapping[str, npt.NDArray[Any]], conv: ConvSpec, deviation: float, file: str) -> QuantWeights:
    """Weights of a file in steps of a power of two, of which they deviate by about ``deviation``."""
    if conv.name not in given:
        raise SasError(f"there are no weights of {conv.name}", where=file, hint=f"it has {', '.join(given) or 'none at all'}")
    real = np.asarray(given[conv.name])
    if real.shape != tuple(conv.weight_shape) or real.dtype.kind != "f":
        raise SasError(
            f"weights of {conv.name} are {real.dtype} {list(real.shape)}, not float {list(conv.weight_shape)}", where=file
        )
    size = float(real.std(dtype=np.float64))
    if not (math.isfinite(size) and size > 0):
        raise SasError(f"weights of {conv.name} are all the same, or not numbers", where=file)
    scale = 2.0 ** round(math.log2(size / deviation))
    return QuantWeights(np.clip(np.rint(real / scale), -127, 127).astype(np.int8), np.array([scale], np.float32))


def calibrate_modules(
    modules: Sequence[RepModule], weights: Mapping[str, QuantWeights], scales: dict[str, Scale], block_site: Callable[[RepModule], str],
    look: Callable[[Mapping[str, QuantWeights]], dict[str, Stats]], options: LearnerOptions,
) -> dict[str, QuantWeights]:  # fmt: skip
    """Choose the exponents of the modules' second convolutions and the scales of their outputs and sums (added to ``scales``).

    ``look`` runs the network with these weights on the calibration images. Here it does so with the modules all but switched off, for the sizes of the
    blocks' and the modules' outputs; a second pass with the modules on is for everything behind them. ``block_site``: the block's output.
    """
    rep = dict(weights)
    quiet = {m.conv2.name: replace(rep[m.conv2.name], scale=rep[m.conv2.name].scale * np.float32(_OFF)) for m in modules}
    if options.module_scales == "channel":
        _balance_first(modules, rep, look({**rep, **quiet}))
    stats = look({**rep, **quiet})
    for m in modules:
        rep[m.conv2.name], correction = _module_scale(m, block_site(m), rep[m.conv2.name], stats, options)
        scales[m.conv2.name] = correction
        if m.pooled != m.size_out:
            scales[f"{m.name}.up"] = correction
        rep[m.conv2.name] = _started(rep[m.conv2.name], options)
        lo, hi = _block_bounds(block_site(m), scales, stats)
        grown = rep[m.conv2.name].scale.astype(np.float64) / weights[m.conv2.name].scale / _OFF
        room = _peak(stats[_out_site(m)], grown, options) * options.headroom
        scales[f"{m.name}.sum"] = affine_scale(lo - room, hi + room)
    return rep


def calibrate_pooled(
    modules: Sequence[RepModule], weights: Mapping[str, QuantWeights], scales: dict[str, Scale], features: str, joined: str,
    look: Callable[[Mapping[str, QuantWeights]], dict[str, Stats]], options: LearnerOptions,
) -> dict[str, QuantWeights]:  # fmt: skip
    """The same for modules whose pooled outputs join the features: all that meets at site ``joined``, the backbone's ``features`` too, has one scale."""
    rep = dict(weights)
    if options.module_scales == "channel":
        _balance_first(modules, rep, look(rep))
    stats = look(rep)
    own, peak = stats[features], stats[features].magnitude(options.percentile)
    for m in modules:
        pooled, w = stats[f"{m.name}.avgpool"], rep[m.conv2.name]
        exponent = round(math.log2(options.first_gain * own.rms / pooled.rms)) if own.rms > 0 and pooled.rms > 0 else 0
        factor = np.array([2.0**exponent], np.float32)
        if options.module_scales == "channel":
            factor = _balance(np.full(pooled.channel_rms.shape, options.first_gain * own.rms), pooled.channel_rms, exponent)
        grown = factor.astype(np.float64)
        rep[m.conv2.name] = _started(replace(w, scale=w.scale * factor), options)
        scales[m.conv2.name] = power_of_two(_peak(stats[m.conv2.name], grown, options), unsigned=True, headroom=options.headroom)
        peak = max(peak, _peak(pooled, grown, options) * options.headroom)
    common = power_of_two(peak, unsigned=own.lo >= 0)
    scales.update(dict.fromkeys((features, joined, *(f"{m.name}.avgpool" for m in modules)), common))
    return rep


def _balance_first(modules: Sequence[RepModule], rep: dict[str, QuantWeights], stats: Mapping[str, Stats]) -> None:
    """Make the channels of every first convolution equally large."""
    for m in modules:
        rms = stats[m.conv1.name].channel_rms
        factor = _balance(np.full(rms.shape, stats[m.conv1.name].rms), rms)
        rep[m.conv1.name] = replace(rep[m.conv1.name], scale=rep[m.conv1.name].scale * factor)


def _started(conv2: QuantWeights, options: LearnerOptions) -> QuantWeights:
    """A second convolution as training finds it: at zero where the gain is."""
    return replace(conv2, weight=np.zeros_like(conv2.weight)) if options.rep_gain == 0 else conv2


def _out_site(module: RepModule) -> str:
    return module.conv2.name if module.pooled == module.size_out else f"{module.name}.up"


def _block_bounds(site: str, scales: Mapping[str, Scale], stats: Mapping[str, Stats]) -> tuple[float, float]:
    return scales[site].bounds if site in scales else (stats[site].lo, stats[site].hi)


def _module_scale(
    m: RepModule, block_site: str, w: QuantWeights, stats: Mapping[str, Stats], options: LearnerOptions
) -> tuple[QuantWeights, Scale]:
    """conv2 with the exponent that gives the module its gain, and the scale of the module's output."""
    module = stats[_out_site(m)]
    # where the scale is the file's: the sum with the modules off is the block's output
    block = stats[block_site] if block_site in stats else stats[f"{m.name}.sum"]
    gain = options.first_gain
    own = module.rms / _OFF
    known = options.weights_file is None and own > 0 and block.rms > 0
    exponent = round(math.log2(gain * block.rms / own)) if known else 0
    factor = np.array([2.0**exponent], np.float32)
    if options.module_scales == "channel":
        factor = _balance(gain * block.channel_rms, module.channel_rms / _OFF, exponent)
    peak = _peak(stats[m.conv2.name], factor.astype(np.float64) / _OFF, options)
    return replace(w, scale=w.scale * factor), power_of_two(peak, unsigned=False, headroom=options.headroom)


def _balance(wanted: npt.NDArray[np.float64], have: npt.NDArray[np.float64], middle: int = 0) -> npt.NDArray[np.float32]:
    """Powers of two that bring ``have`` nearest to ``wanted``, at most 2^3 from 2^``middle``; that one where a channel is dead."""
    alive = (wanted > 0) & (have > 0)
    exponents = np.rint(np.log2(np.where(alive, wanted, 1) / np.where(alive, have, 1)))
    return np.exp2(np.where(alive, np.clip(exponents, middle - 3, middle + 3), middle)).astype(np.float32)


def _peak(stat: Stats, factor: npt.NDArray[np.float64], options: LearnerOptions) -> float:
    """Largest value when channels grow by ``factor``: by the percentile if all grow alike, else the largest seen."""
    if factor.size == 1:
        return stat.magnitude(options.percentile) * float(factor[0])
    return float((stat.channel_peak * factor).max())


def learner_scale(stat: Stats, options: LearnerOptions, *, grows: bool) -> Scale:
    """Scale of an activation that is trained, or that a trained layer reads; ``grows``: with head-room for training."""
    return power_of_two(stat.magnitude(options.percentile), unsigned=stat.lo >= 0, headroom=options.headroom if grows else 1.0)
