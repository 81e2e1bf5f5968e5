// What the CPU and the CUDA count have in common: the operands, and the cell in which a voxel is counted.
//
// A voxel is counted in a table of (K + 2) rows and (K + 1) columns, so that no label needs a branch: row K
// holds targets out of range, row K + 1 ignored and masked voxels, and column K predictions out of range.
// K is the number of classes, or 2 where each class has a table of its own (multi-label).
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "operand.hpp"

namespace fastmed {

// More, and the cells of the table could not be numbered in 32 bits.
constexpr uint32_t kMaxClasses = 65533;

// What the input holds.
enum class Input {
    kLabels,      // a label per voxel
    kScores,      // a score per class and voxel, of which the largest gives the label
    kMultiLabel,  // a score per class and voxel, positive above the threshold of its class; the target
                  // likewise
};

struct ConfusionProblem {
    Input kind;
    Operand input;
    Operand target;
    Operand mask;  // one byte a voxel, 0 or 1; no data if all voxels count
    int64_t samples;
    int64_t voxels;
    uint32_t classes;
    const double* thresholds;  // (C,), multi-label only
    std::optional<int64_t> ignore_index;
    bool pooled;       // whether all samples count in one table
    int64_t* counts;   // (N, C, C) or (N, C, 4), N = 1 if pooled; zero on entry
    int64_t* invalid;  // (N,), N = 1 if pooled; zero on entry

    uint32_t tables() const { return kind == Input::kMultiLabel ? classes : 1; }
    uint32_t table_classes() const { return kind == Input::kMultiLabel ? 2 : classes; }
};

// Encoders take no branch and choose by bits, not by `?:`: compilers make vector instructions of that.
template <class Mask, class Value>
FASTMED_INLINE Value select(Mask mask, Value value, Value otherwise) {
    static_assert(sizeof(Mask) == sizeof(Value));
    Mask a, b;
    memcpy(&a, &value, sizeof(a));
    memcpy(&b, &otherwise, sizeof(b));
    a = (mask & a) | (~mask & b);
    memcpy(&value, &a, sizeof(value));
    return value;
}

// A value in the type in which it is compared.
template <class Value>
FASTMED_INLINE auto comparable(Value value) {
    if constexpr (std::is_arithmetic_v<Value>)
        return value;
    else
        return static_cast<float>(value);
}

template <class Value>
using Comparable = decltype(comparable(Value{}));

// Whether the label goes over to the class of this score: the first of equal scores stays, and the first NaN
// wins, as in torch.argmax.
template <class Score>
FASTMED_INLINE bool takes_over(Score score, Score best) {
    return int{best == best} & int{!(score <= best)};
}

// Whether a score is positive. Thresholds of integers are whole numbers, so that float holds those that
// matter to 16 bits.
template <class Value>
FASTMED_INLINE bool is_above(Value value, double threshold) {
    using Wide = std::conditional_t<(sizeof(Value) > 2 && !std::is_same_v<Value, float>), double, float>;
    return static_cast<Wide>(value) > static_cast<Wide>(threshold);
}

// Row or column of a label: itself if it is a class, C if it is out of range, C + 1 if it is ignored.
template <class Label, class Code>
class LabelEncoder {
  public:
    FASTMED_HOST_DEVICE LabelEncoder(uint32_t classes, bool ignores, int64_t ignore_index)
        : classes_(classes),
          ignores_(ignores && static_cast<int64_t>(static_cast<Label>(ignore_index)) == ignore_index),
          ignored_(static_cast<Label>(ignore_index)) {}

    FASTMED_HOST_DEVICE Code operator()(Label label) const {
        // As unsigned numbers, negative labels lie above every class.
        const Wide wide = static_cast<Wide>(label);
        const Code code = static_cast<Code>(wide < classes_ ? wide : classes_);
        return ignores_ && label == ignored_ ? static_cast<Code>(classes_ + 1) : code;
    }

  private:
    using Bits = std::make_unsigned_t<Label>;
    using Wide = std::conditional_t<(sizeof(Label) > sizeof(Code)), Bits, Code>;

    Wide classes_;
    bool ignores_;
    Label ignored_;
};

// Row of a multi-label target: 0 or 1; 2 if it is neither; 3 if it is missing (NaN or -1) or ignored.
template <class Value, class Code>
class PresenceEncoder {
  public:
    FASTMED_HOST_DEVICE PresenceEncoder(bool ignores, int64_t ignore_index)
        : ignores_(ignores && (!std::is_integral_v<Value> ||
                               static_cast<int64_t>(static_cast<Value>(ignore_index)) == ignore_index)),
          ignored_(static_cast<Value>(ignore_index)) {}

    FASTMED_HOST_DEVICE Code operator()(Value value) const {
        const int code = 2 - 2 * (value == Value{0}) - (value == Value{1});
        // In an unsigned type -1 is the largest label, which is out of range.
        const int missing = int{std::is_signed_v<Value>} & int{value == static_cast<Value>(-1)};
        const int ignored = int{ignores_} & int{value == ignored_};
        return static_cast<Code>(code | (3 * (missing | ignored | int{value != value})));
    }

  private:
    bool ignores_;
    Value ignored_;
};

// Calls `function` with a pointer to the labels in their C++ type.
template <class Function>
FASTMED_HOST_DEVICE void visit_labels(const Operand& labels, Function&& function) {
    switch (labels.dtype) {
        case Dtype::kUInt8:
            return function(static_cast<const uint8_t*>(labels.data));
        case Dtype::kInt8:
            return function(static_cast<const int8_t*>(labels.data));
        case Dtype::kInt16:
            return function(static_cast<const int16_t*>(labels.data));
        case Dtype::kUInt16:
            return function(static_cast<const uint16_t*>(labels.data));
        case Dtype::kInt32:
            return function(static_cast<const int32_t*>(labels.data));
        case Dtype::kUInt32:
            return function(static_cast<const uint32_t*>(labels.data));
        case Dtype::kInt64:
            return function(static_cast<const int64_t*>(labels.data));
        default:
            return;
    }
}

void count_confusion_cpu(const ConfusionProblem& problem, int threads);

// Launches on the stream and returns; the outputs are zeroed before on the same stream.
void count_confusion_cuda(const ConfusionProblem& problem, int device, void* stream);

struct CudaBuild {
    int version;  // as CUDART_VERSION: 13000 is 13.0
    std::vector<std::string> architectures;
};
CudaBuild cuda_build();

}  // namespace fastmed
