// The tensors that come in, of any type and strides, and what host and device compilers call a function that
// both compile.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define FASTMED_HOST_DEVICE __host__ __device__
#define FASTMED_INLINE __host__ __device__ __forceinline__
#else
#define FASTMED_HOST_DEVICE
// Inlined at any cost, so that a loop compiled for wider vectors takes it along.
#define FASTMED_INLINE inline __attribute__((always_inline))
#endif

namespace fastmed {

enum class Dtype {
    kUInt8,
    kInt8,
    kInt16,
    kUInt16,
    kInt32,
    kUInt32,
    kInt64,
    kFloat16,
    kBFloat16,
    kFloat32,
    kFloat64
};

inline bool is_floating(Dtype dtype) { return dtype >= Dtype::kFloat16; }

FASTMED_INLINE float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

FASTMED_INLINE uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

struct BFloat16 {
    uint16_t bits;

    FASTMED_INLINE explicit operator float() const { return float_of_bits(uint32_t{bits} << 16); }
};

struct Float16 {
    uint16_t bits;

    FASTMED_INLINE explicit operator float() const {
        const uint32_t magnitude = (bits & 0x7fffu) << 13;
        const uint32_t exponent = magnitude & 0x0f800000u;
        const uint32_t normal = magnitude + (exponent == 0x0f800000u ? 224u << 23 : 112u << 23);
        // The bits of a subnormal as those of a number above 2^-14, less 2^-14: exact.
        const float subnormal = float_of_bits(magnitude + (113u << 23)) - float_of_bits(113u << 23);
        const uint32_t unsigned_bits = exponent == 0 ? bits_of_float(subnormal) : normal;
        return float_of_bits(unsigned_bits | (bits & 0x8000u) << 16);
    }
};

// A tensor (N, C, V); strides count elements.
struct Operand {
    const void* data;
    Dtype dtype;
    int64_t stride_n;
    int64_t stride_c;
    int64_t stride_v;
};

// Calls `function` with a pointer to the elements in their C++ type.
template <class Function>
FASTMED_HOST_DEVICE void visit_floating(const Operand& operand, Function&& function) {
    switch (operand.dtype) {
        case Dtype::kFloat16:
            return function(static_cast<const Float16*>(operand.data));
        case Dtype::kBFloat16:
            return function(static_cast<const BFloat16*>(operand.data));
        case Dtype::kFloat32:
            return function(static_cast<const float*>(operand.data));
        case Dtype::kFloat64:
            return function(static_cast<const double*>(operand.data));
        default:
            return;
    }
}

template <class Function>
FASTMED_HOST_DEVICE void visit(const Operand& operand, Function&& function) {
    switch (operand.dtype) {
        case Dtype::kUInt8:
            return function(static_cast<const uint8_t*>(operand.data));
        case Dtype::kInt8:
            return function(static_cast<const int8_t*>(operand.data));
        case Dtype::kInt16:
            return function(static_cast<const int16_t*>(operand.data));
        case Dtype::kUInt16:
            return function(static_cast<const uint16_t*>(operand.data));
        case Dtype::kInt32:
            return function(static_cast<const int32_t*>(operand.data));
        case Dtype::kUInt32:
            return function(static_cast<const uint32_t*>(operand.data));
        case Dtype::kInt64:
            return function(static_cast<const int64_t*>(operand.data));
        default:
            return visit_floating(operand, function);
    }
}

}  // namespace fastmed
