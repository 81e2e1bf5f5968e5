"""The faults: what a tired hand could have written, in kernels, formulas and wrappers."""

from __future__ import annotations

from typing import NamedTuple

SUMS = "tests/test_region_sums.py"
FORMULAS = "tests/test_formulas.py"
LOSSES = "tests/test_losses.py"
MONAI = "tests/test_losses_monai.py"
COUNTS = "tests/test_confusion_counts.py"
SCORES = "tests/test_confusion_scores.py"
HISTOGRAM = "tests/test_score_histogram.py"
SANITIZERS = "tests/test_csrc_sanitizers.py"


class Fault(NamedTuple):
    """A fault.

    Attributes:
        kind: what sort of mistake it is.
        file: where it is planted.
        before: the code, which occurs once in the file.
        after: the code with the fault.
        tests: arguments of pytest that choose the tests meant to find it.
    """

    kind: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


_FORMULAS = "fastmed/formulas.py"
_REFERENCE = "fastmed/backends/reference.py"
_FEW = "fastmed/backends/cpu_numba/few_classes.py"
_LABEL_MAP = "fastmed/backends/cpu_numba/label_map.py"
_SOFTMAX = "fastmed/backends/cpu_numba/softmax.py"
_POINTWISE = "fastmed/backends/cpu_numba/pointwise.py"
_TILES = "fastmed/backends/cpu_numba/tiles.py"
_STEP = "fastmed/backends/cpu_numba/step.py"
_TRITON = "fastmed/backends/gpu_triton"
_CONFUSION = "csrc/confusion_cpu.cpp"
_NUMBA = (SUMS, "-k", "numba")

FAULTS = (
    # Formulas.
    Fault(
        "sign",
        _FORMULAS,
        "1.0 - _quotient(numerator, denominator,",
        "1.0 + _quotient(numerator, denominator,",
        (FORMULAS,),
    ),
    Fault(
        "dropped term",
        _FORMULAS,
        "return numerator, denominator + loss.smooth_denominator",
        "return numerator, denominator",
        (FORMULAS,),
    ),
    Fault(
        "wrong axis",
        _FORMULAS,
        "lambda field: field.sum(0, keepdim=True)",
        "lambda field: field.sum(1, keepdim=True)",
        (FORMULAS,),
    ),
    Fault("off by one", _FORMULAS, "field[:, loss.first_class :]", "field[:, loss.first_class + 1 :]", (FORMULAS,)),
    Fault("sign", _FORMULAS, "tp * tn - fp * fn, root", "tp * tn + fp * fn, root", (LOSSES,)),
    Fault(
        "dropped weight",
        _FORMULAS,
        "return overlap if weights.region is None else overlap * weights.region[loss.first_class :]",
        "return overlap",
        (FORMULAS, MONAI),
    ),
    Fault("dropped factor", _FORMULAS, "by_ratio = by_ratio / by_ratio.numel()", "by_ratio = by_ratio", (FORMULAS,)),
    Fault(
        "swapped",
        _FORMULAS,
        "pos = pos * torch.where(total == 0, 0.0, 1.0 - prevalence)",
        "pos = pos * prevalence",
        ("tests/test_multitask.py",),
    ),
    # The definition.
    Fault(
        "missing mask",
        _REFERENCE,
        "weight = weight * (target != ignore_index).unsqueeze(1)",
        "weight = weight * torch.ones_like(target).unsqueeze(1)",
        _NUMBA,
    ),
    Fault(
        "dropped factor",
        _REFERENCE,
        "by_p = weight * (tp * target + by_pred + 2.0 * by_sq * pred)",
        "by_p = weight * (tp * target + by_pred + by_sq * pred)",
        (SUMS, "-k", "reference"),
    ),
    Fault(
        "wrong axis",
        _REFERENCE,
        "log_pred, share = torch.log_softmax(logits, 1)",
        "log_pred, share = torch.log_softmax(logits, 2)",
        _NUMBA,
    ),
    # Numba.
    Fault(
        "wrong class",
        _FEW,
        "margin[i] = of_last_two if labels[i] >= 2",
        "margin[i] = of_last_two if labels[i] >= 3",
        _NUMBA,
    ),
    Fault("wrong class", _FEW, "dx_d[i] = r_d - p_d * shared", "dx_d[i] = r_d - p_c * shared", _NUMBA),
    Fault("missing mask", _FEW, "        remove(x, kept)\n", "        pass\n", _NUMBA),
    Fault(
        "overflow",
        _LABEL_MAP,
        "e[i] = exp_non_positive(x[i] - highest[i])",
        "e[i] = np.exp(x[i])",
        ("tests/test_numba.py",),
    ),
    Fault(
        "off by one",
        _LABEL_MAP,
        "for c in range(2, classes, 2):",
        "for c in range(3, classes, 2):",
        _NUMBA,
    ),
    Fault("missing mask", _LABEL_MAP, "            remove(e[c], kept)\n", "            pass\n", _NUMBA),
    Fault("wrong term", _LABEL_MAP, "slope + by_sq * p[i] - total[i]", "slope + by_sq * p[i] - total[0]", _NUMBA),
    Fault(
        "dropped weight",
        _SOFTMAX,
        "wp, wg = weight[i] * p[i], weight[i] * target[i]",
        "wp, wg = p[i], weight[i] * target[i]",
        _NUMBA,
    ),
    Fault(
        "dropped term",
        _SOFTMAX,
        "share = weight[i] * (kept * target[i] + spread)\n        cost = share * (log_total",
        "share = weight[i] * (kept * target[i])\n        cost = share * (log_total",
        _NUMBA,
    ),
    Fault(
        "off by one",
        _TILES,
        "limit, outside = np.uint32(classes), np.int32(0)",
        "limit, outside = np.uint32(classes + 1), np.int32(0)",
        _NUMBA,
    ),
    Fault(
        "missing mask",
        _TILES,
        "kept = mask * (_F(1.0) if value == value else _F(0.0))",
        "kept = mask",
        ("tests/test_multitask.py",),
    ),
    Fault(
        "missing mask",
        _STEP,
        "    return x if weight != _F(0.0) else _F(0.0)",
        "    return x",
        ("tests/test_multitask.py",),
    ),
    Fault(
        "swapped",
        _STEP,
        "_factors(target, weight, smoothing, pos[i], neg[i])",
        "_factors(target, weight, smoothing, neg[i], pos[i])",
        ("tests/test_multitask.py",),
    ),
    Fault("dropped poison", _TILES, "poison = np.nan if wrong > 0.0 else 0.0", "poison = 0.0", _NUMBA),
    # Triton.
    Fault(
        "missing mask",
        f"{_TRITON}/primitives.py",
        "inside = start + lane < voxels",
        "inside = start + lane <= voxels",
        (SUMS, "-k", "triton"),
    ),
    Fault(
        "missing mask",
        f"{_TRITON}/primitives.py",
        "return tl.where(kept, weight, 0.0)",
        "return weight",
        (SUMS, "-k", "triton"),
    ),
    Fault(
        "dropped factor", f"{_TRITON}/softmax_few.py", "tl.sum(nll, 0) * LN_2", "tl.sum(nll, 0)", (SUMS, "-k", "triton")
    ),
    Fault(
        "off by one",
        f"{_TRITON}/softmax_few.py",
        "for c in tl.static_range(1, C):\n        largest",
        "for c in tl.static_range(2, C):\n        largest",
        (SUMS, "-k", "triton"),
    ),
    Fault(
        "wrong branch",
        f"{_TRITON}/sigmoid.py",
        "return tl.where(logits >= 0.0, larger, smaller)",
        "return tl.where(logits <= 0.0, larger, smaller)",
        (SUMS, "-k", "triton"),
    ),
    # Operators, arguments and the rest of a call.
    Fault(
        "swapped",
        "fastmed/ops/passes.py",
        "total - pred - target + tp, pred - tp, target - tp, tp",
        "total - pred - target + tp, target - tp, pred - tp, tp",
        (LOSSES, "-k", "hard_counts"),
    ),
    Fault(
        "dropped check",
        "fastmed/ops/library.py",
        "return looked_at and any(invalid.tolist())",
        "return False",
        (SUMS, "-k", "out_of_range"),
    ),
    Fault(
        "dropped factor",
        "fastmed/ops/autograd.py",
        "return gradient if is_one else gradient * by_value, None",
        "return gradient, None",
        ("tests/test_multitask.py",),
    ),
    Fault(
        "dropped scale",
        "fastmed/functional/terms.py",
        "[term.factor * term.formula(sums) for",
        "[term.formula(sums) for",
        (LOSSES,),
    ),
    Fault(
        "dropped samples",
        "fastmed/functional/terms.py",
        "counts += of_passes[0].counts.sum(0)",
        "counts += of_passes[0].counts[0]",
        (LOSSES,),
    ),
    Fault(
        "dropped pass",
        "fastmed/ops/passes.py",
        "region_sums_backward(operands, by_sums[:rows], None, total)",
        "region_sums_backward(operands, by_sums[:rows], None, None)",
        (LOSSES,),
    ),
    Fault(
        "swapped",
        "fastmed/labels.py",
        "np.divide([total - positives, positives], total",
        "np.divide([positives, total - positives], total",
        ("tests/test_labels.py",),
    ),
    Fault(
        "off by one",
        "fastmed/losses/deep_supervision.py",
        "device=labels.device) + 0.5) * (of_labels",
        "device=labels.device)) * (of_labels",
        (LOSSES,),
    ),
    Fault(
        "dropped collective",
        "fastmed/distributed.py",
        "        _add_over_ranks(total, ctx.group)\n",
        "",
        ("tests/test_distributed.py", "-k", "two_ranks"),
    ),
    Fault(
        "dropped share",
        "fastmed/sampling.py",
        "kept = length // num_replicas * num_replicas",
        "kept = length",
        ("tests/test_sampling.py",),
    ),
    # Counting.
    Fault(
        "off by one",
        _CONFUSION,
        "for (; i < count; ++i) ++table[cells[i]];",
        "for (; i + 1 < count; ++i) ++table[cells[i]];",
        (COUNTS,),
    ),
    Fault(
        "overflow",
        _CONFUSION,
        "constexpr int64_t kVoxelsPerFlush = int64_t{1} << 31;",
        "constexpr int64_t kVoxelsPerFlush = int64_t{1} << 33;",
        (COUNTS, "tests/test_limits.py"),
    ),
    Fault(
        "missing case",
        _CONFUSION,
        "                count_equal<kColumns>(cells, padded, row * kColumns, table);",
        "                (void)row;",
        (COUNTS,),
    ),
    Fault(
        "stale scratch",
        _CONFUSION,
        "std::fill(cells + count, cells + padded, kNoCell);",
        "std::fill(cells + count, cells + count, kNoCell);",
        (COUNTS,),
    ),
    Fault("race", _CONFUSION, "        const std::lock_guard<std::mutex> lock(mutex_);\n", "", (SANITIZERS,)),
    Fault(
        "race", "csrc/histogram_cpu.cpp", "        const std::lock_guard<std::mutex> lock(mutex_);\n", "", (SANITIZERS,)
    ),
    Fault(
        "tie",
        "csrc/confusion.hpp",
        "return int{best == best} & int{!(score <= best)};",
        "return int{best == best} & int{!(score < best)};",
        (SCORES,),
    ),
    Fault(
        "off by one",
        "csrc/confusion.hpp",
        "static_cast<Code>(wide < classes_ ? wide : classes_)",
        "static_cast<Code>(wide < classes_ ? wide : classes_ - 1)",
        (COUNTS,),
    ),
    Fault(
        "missing case",
        "csrc/histogram.hpp",
        "return score != score ? bins.count + 2 : column;",
        "return column;",
        (HISTOGRAM,),
    ),
    Fault(
        "out of bounds",
        "csrc/histogram.hpp",
        "column = value > bins.high ? bins.count + 1 : column;",
        "column = value > bins.high ? bins.count + 3 : column;",
        (HISTOGRAM,),
    ),
    # Figures.
    Fault(
        "swapped",
        "fastmed/metrics/functional/figures.py",
        '"specificity": lambda table: (table.tn, table.tn + table.fp)',
        '"specificity": lambda table: (table.tn, table.tn + table.fn)',
        ("tests/test_metrics_functional.py",),
    ),
    Fault(
        "dropped term",
        "fastmed/metrics/functional/intervals.py",
        "(found * (cases - found) / cases + z**2 / 4.0)",
        "(found * (cases - found) / cases)",
        ("tests/test_intervals.py",),
    ),
    Fault(
        "off by one",
        "fastmed/metrics/functional/delong.py",
        "return ratio(spread, number * (number - 1.0))",
        "return ratio(spread, number * number)",
        ("tests/test_intervals.py", "tests/test_rank_statistics.py"),
    ),
    Fault(
        "state lost",
        "fastmed/metrics/counting.py",
        "setattr(self, self._names[name], self._sum(name) + value)",
        "setattr(self, self._names[name], value)",
        ("tests/test_metrics.py",),
    ),
)
