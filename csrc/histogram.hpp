// What the CPU and the CUDA histogram have in common: the operands, and the cell in which a score is counted.
//
// A task has 2 (B + 3) + 2 cells, so that no score and no label needs a branch: negatives and then positives,
// each below the limits, in B bins, above the limits and NaN; then missing labels, and unknown ones.
#pragma once

#include <cstdint>
#include <optional>
#include <type_traits>

#include "operand.hpp"

namespace fastmed {

constexpr uint32_t kExtraColumns = 3;

enum class Transform { kIdentity, kSigmoid, kLogit };

struct Bins {
    Transform transform;
    uint32_t count;
    float low;
    float high;
    float scale;
};

struct HistogramProblem {
    Operand scores;
    Operand target;
    std::optional<Operand> mask;  // bytes; 0 leaves a label out
    int64_t samples;
    int64_t tasks;
    int64_t voxels;
    Bins bins;
    int64_t* counts;   // (T, 2, B + 3), zero on entry
    int64_t* invalid;  // (T,), zero on entry
};

// exp(x) for -88 <= x <= 0; lower arguments count as -88. To 2 ulp: Cephes' expf.
FASTMED_INLINE float exp_non_positive(float x) {
    x = x < -88.0f ? -88.0f : x;
    // Adding 1.5 * 2^23 rounds to a whole number.
    const float k = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * float_of_bits(static_cast<uint32_t>(static_cast<int32_t>(k) + 127) << 23);
}

// log(x) for x in [1, 2^127]; infinity counts as a number of this size. To 2 ulp: Cephes' logf.
FASTMED_INLINE float log_positive(float x) {
    const int32_t bits = static_cast<int32_t>(bits_of_float(x)) - 0x3f3504f3;
    const float k = static_cast<float>(bits >> 23);
    // The mantissa in [sqrt(1/2), sqrt(2)], less one.
    const float f = float_of_bits(static_cast<uint32_t>((bits & 0x007fffff) + 0x3f3504f3)) - 1.0f;
    const float f2 = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    return f + (f * f2 * p - 0.5f * f2) + k * -2.12194440e-4f + k * 0.693359375f;
}

template <Transform transform>
FASTMED_INLINE float transformed(float score) {
    if constexpr (transform == Transform::kSigmoid) {
        const float exp = exp_non_positive(score > 0.0f ? -score : score);
        return (score > 0.0f ? 1.0f : exp) / (1.0f + exp);
    } else if constexpr (transform == Transform::kLogit) {
        float p = score > 0.0f ? score : 0.0f;
        p = p < 1.0f ? p : 1.0f;
        const float q = 1.0f - p;
        const float larger = p > q ? p : q;
        const float smaller = q < p ? q : p;
        // Without a branch that keeps the loop from becoming vector instructions.
        const uint32_t sign = bits_of_float(p - 0.5f) & 0x80000000u;
        return float_of_bits(bits_of_float(log_positive(larger / smaller)) ^ sign);
    } else {
        return score;
    }
}

// Column of a score: 0 below the limits, 1 to B its bin, B + 1 above, B + 2 NaN.
template <Transform transform>
FASTMED_INLINE uint32_t column_of(float score, const Bins& bins) {
    const float value = transformed<transform>(score);
    float position = (value - bins.low) * bins.scale;
    const float last = static_cast<float>(bins.count - 1);
    position = position > 0.0f ? position : 0.0f;
    position = position < last ? position : last;
    uint32_t column = static_cast<uint32_t>(static_cast<int32_t>(position)) + 1;
    column = value < bins.low ? 0 : column;
    column = value > bins.high ? bins.count + 1 : column;
    return score != score ? bins.count + 2 : column;
}

enum Row : uint32_t { kNegative, kPositive, kMissing, kUnknown };

template <class Label>
FASTMED_INLINE bool is_missing(Label label) {
    if constexpr (std::is_signed_v<Label>) return label == static_cast<Label>(-1) || label != label;
    return false;
}

template <class Label>
FASTMED_INLINE uint32_t row_of(Label label) {
    uint32_t row = is_missing(label) ? kMissing : kUnknown;
    row = label == static_cast<Label>(1) ? kPositive : row;
    return label == static_cast<Label>(0) ? kNegative : row;
}

FASTMED_INLINE uint32_t row_of(Float16 label) { return row_of(static_cast<float>(label)); }
FASTMED_INLINE uint32_t row_of(BFloat16 label) { return row_of(static_cast<float>(label)); }

// Cells of one task.
FASTMED_INLINE uint32_t cells_of(const Bins& bins) { return 2 * (bins.count + kExtraColumns) + 2; }

// Cell of a score within its task.
FASTMED_INLINE uint32_t cell_of(uint32_t row, uint32_t column, const Bins& bins) {
    return row * (bins.count + kExtraColumns) + (row <= kPositive ? column : 0) -
           (row == kUnknown ? bins.count + kExtraColumns - 1 : 0);
}

// Calls `function` with the transform as a compile-time constant.
template <class Function>
FASTMED_HOST_DEVICE void visit_transform(Transform transform, Function&& function) {
    switch (transform) {
        case Transform::kIdentity:
            return function(std::integral_constant<Transform, Transform::kIdentity>());
        case Transform::kSigmoid:
            return function(std::integral_constant<Transform, Transform::kSigmoid>());
        case Transform::kLogit:
            return function(std::integral_constant<Transform, Transform::kLogit>());
    }
}

void count_histogram_cpu(const HistogramProblem& problem, int threads);

// Launches on the stream and returns; the outputs are zeroed before on the same stream.
void count_histogram_cuda(const HistogramProblem& problem, int device, void* stream);

}  // namespace fastmed
