// What the CPU and the CUDA count have in common: the operands, and the cell in which a voxel is counted.
//
// A voxel is counted in a table of (C + 2) rows and (C + 1) columns, so that no label needs a branch: row C
// holds targets out of range, row C + 1 ignored ones, and column C predictions out of range.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "operand.hpp"

namespace fastmed {

// More, and the cells of the table could not be numbered in 32 bits.
constexpr uint32_t kMaxClasses = 65533;

// A label map (N, V); strides count elements.
struct Labels {
    const void* data;
    Dtype dtype;
    int64_t stride_n;
    int64_t stride_v;
};

struct ConfusionProblem {
    Labels prediction;
    Labels target;
    int64_t samples;
    int64_t voxels;
    uint32_t classes;
    std::optional<int64_t> ignore_index;
    int64_t* counts;   // (N, C, C), zero on entry
    int64_t* invalid;  // (N,), zero on entry
};

// Row or column of a label: itself if it is a class, C if it is out of range, C + 1 if it is ignored.
template <class Label, class Code>
class Encoder {
  public:
    FASTMED_HOST_DEVICE Encoder(uint32_t classes, bool ignores, int64_t ignore_index)
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

// Calls `function` with a pointer to the labels in their C++ type.
template <class Function>
FASTMED_HOST_DEVICE void visit(const Labels& labels, Function&& function) {
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
