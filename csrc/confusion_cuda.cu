#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "confusion.hpp"

namespace fastmed {
namespace {

constexpr int kThreads = 256;
// Consecutive voxels that a thread reads at once.
constexpr int kItems = 8;
constexpr int kMaxGridY = 65535;
constexpr uint32_t kLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
// Counters in shared memory that let all of a multiprocessor's blocks be resident, and what a block has
// without opting in.
constexpr uint32_t kCountersForOccupancy = 24 * 1024 / sizeof(uint32_t);
constexpr uint32_t kCountersPerBlock = 48 * 1024 / sizeof(uint32_t);
// A block counts in 32 bits.
constexpr int64_t kVoxelsPerBlock = int64_t{1} << 31;

// Where a block counts.
enum class Table {
    kLanes,   // few classes: shared memory, a copy for each lane of a warp
    kShared,  // shared memory, one copy
    kGlobal   // many classes: the output itself
};

struct Operands {
    Operand input;
    Operand target;
    Operand mask;
    int64_t samples;
    int64_t voxels;
    uint32_t channels;  // of the scores; 1 for labels
    uint32_t tables;    // of a sample
    uint32_t classes;   // of a table
    const double* thresholds;
    bool ignores;
    int64_t ignore_index;
    bool pooled;
    unsigned long long* counts;
    unsigned long long* invalid;
};

// What a thread reads and counts at once: voxels [first, first + kItems) of a sample, of which `valid` exist.
struct Items {
    int64_t sample;
    int64_t channel;
    int64_t first;
    int64_t valid;
};

template <class Value>
struct alignas(sizeof(Value) * kItems < 16 ? sizeof(Value) * kItems : 16) Pack {
    Value values[kItems];
};

template <class Value>
__device__ void load(const Operand& operand, const Value* data, const Items& items, Value (&values)[kItems]) {
    data +=
        items.sample * operand.stride_n + items.channel * operand.stride_c + items.first * operand.stride_v;
    const bool packed =
        operand.stride_v == 1 && reinterpret_cast<uintptr_t>(data) % alignof(Pack<Value>) == 0;
    if (packed && items.valid >= kItems) {
        const auto pack = *reinterpret_cast<const Pack<Value>*>(data);
#pragma unroll
        for (int i = 0; i < kItems; ++i) values[i] = pack.values[i];
    } else {
#pragma unroll
        for (int i = 0; i < kItems; ++i) values[i] = i < items.valid ? data[i * operand.stride_v] : Value{};
    }
}

template <class Value, class Encoder>
__device__ void encode(const Operand& operand, const Value* data, const Items& items, const Encoder& encoder,
                       uint32_t (&codes)[kItems]) {
    Value values[kItems];
    load(operand, data, items, values);
#pragma unroll
    for (int i = 0; i < kItems; ++i) codes[i] = encoder(comparable(values[i]));
}

__device__ void encode_labels(const Operand& labels, uint32_t classes, bool ignores, int64_t ignore_index,
                              const Items& items, uint32_t (&codes)[kItems]) {
    visit_labels(labels, [&](const auto* data) {
        using Label = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
        encode(labels, data, items, LabelEncoder<Label, uint32_t>(classes, ignores, ignore_index), codes);
    });
}

template <Input kind>
__device__ void encode_rows(const Operands& operands, const Items& items, uint32_t (&rows)[kItems]) {
    if constexpr (kind == Input::kMultiLabel)
        visit(operands.target, [&](const auto* data) {
            using Value = Comparable<std::remove_cv_t<std::remove_pointer_t<decltype(data)>>>;
            const PresenceEncoder<Value, uint32_t> encoder(operands.ignores, operands.ignore_index);
            encode(operands.target, data, items, encoder, rows);
        });
    else
        encode_labels(operands.target, operands.classes, operands.ignores, operands.ignore_index, items,
                      rows);
    uint8_t kept[kItems];
    if (operands.mask.data != nullptr)
        load(operands.mask, static_cast<const uint8_t*>(operands.mask.data), items, kept);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
        const bool counts = i < items.valid && (operands.mask.data == nullptr || kept[i] != 0);
        rows[i] = counts ? rows[i] : operands.classes + 1;
    }
}

template <class Score>
__device__ void encode_argmax(const Operands& operands, const Score* data, Items items,
                              uint32_t (&columns)[kItems]) {
    using Value = Comparable<Score>;
    Value best[kItems];
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
        best[i] = -static_cast<Value>(INFINITY);
        columns[i] = 0;
    }
#pragma unroll 2
    for (items.channel = 0; items.channel < operands.channels; ++items.channel) {
        Score scores[kItems];
        load(operands.input, data, items, scores);
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            const Value score = comparable(scores[i]);
            const bool better = takes_over(score, best[i]);
            best[i] = better ? score : best[i];
            columns[i] = better ? static_cast<uint32_t>(items.channel) : columns[i];
        }
    }
}

template <Input kind>
__device__ void encode_columns(const Operands& operands, const Items& items, uint32_t (&columns)[kItems]) {
    if constexpr (kind == Input::kLabels)
        encode_labels(operands.input, operands.classes, false, 0, items, columns);
    else if constexpr (kind == Input::kScores)
        visit_floating(operands.input,
                       [&](const auto* data) { encode_argmax(operands, data, items, columns); });
    else
        visit(operands.input, [&](const auto* data) {
            const double threshold = operands.thresholds[items.channel];
            const auto encoder = [threshold](auto value) { return uint32_t{is_above(value, threshold)}; };
            encode(operands.input, data, items, encoder, columns);
        });
}

__device__ void add(const Operands& operands, int64_t sample, int64_t channel, uint32_t row, uint32_t column,
                    uint32_t count) {
    const uint32_t classes = operands.classes;
    const int64_t output = operands.pooled ? 0 : sample;
    if (row < classes && column < classes)
        atomicAdd(operands.counts + ((output * operands.tables + channel) * classes + row) * classes + column,
                  count);
    else if (row <= classes)
        atomicAdd(operands.invalid + output, count);
}

// Counts a run of voxels in one cell before it is added to a lane's own copy of the table. Copies lie side by
// side, one to a bank, so that no lane ever waits for another.
struct LaneTally {
    uint32_t* own;
    uint32_t cell = 0;
    uint32_t run = 0;

    __device__ void operator()(uint32_t next) {
        if (next != cell) {
            flush();
            cell = next;
            run = 0;
        }
        ++run;
    }

    __device__ void flush() const { atomicAdd(own + cell * kLanes, run); }
};

// Calls `count(cell, lanes)` once for all lanes of the warp that count in one cell, `lanes` of them.
template <class Count>
__device__ void for_each_cell_of_warp(uint32_t cell, Count&& count) {
    const uint32_t peers = __match_any_sync(kAllLanes, cell);
    const uint32_t lanes_below = (1u << (threadIdx.x % kLanes)) - 1;
    if ((peers & lanes_below) == 0) count(cell, __popc(peers));
}

// Blocks that a multiprocessor holds at once, for as many registers as each kind of input needs.
template <Input kind>
constexpr int kMinBlocks = kind == Input::kLabels ? 4 : (kind == Input::kMultiLabel ? 3 : 2);

template <Input kind, Table kTable>
__global__ void __launch_bounds__(kThreads, kMinBlocks<kind>) confusion_kernel(Operands operands) {
    extern __shared__ uint32_t table[];
    constexpr uint32_t kCopies = kTable == Table::kLanes ? kLanes : 1;
    constexpr int64_t kTile = int64_t{kThreads} * kItems;
    const uint32_t table_columns = operands.classes + 1;
    const uint32_t cells = (table_columns + 1) * table_columns;
    // All threads of a block count equally often.
    for (int64_t y = blockIdx.y; y < operands.samples * operands.tables; y += gridDim.y) {
        const int64_t sample = y / operands.tables, channel = y % operands.tables;
        if constexpr (kTable != Table::kGlobal) {
            for (uint32_t i = threadIdx.x; i < cells * kCopies; i += kThreads) table[i] = 0;
            __syncthreads();
        }
        LaneTally lane_tally{table + threadIdx.x % kLanes};
        for (int64_t tile = blockIdx.x * kTile; tile < operands.voxels; tile += gridDim.x * kTile) {
            const int64_t first = tile + threadIdx.x * kItems;
            const Items items{sample, channel, first, operands.voxels - first};
            uint32_t rows[kItems];
            uint32_t columns[kItems];
            encode_rows<kind>(operands, items, rows);
            encode_columns<kind>(operands, items, columns);
#pragma unroll
            for (int i = 0; i < kItems; ++i) {
                const uint32_t cell = rows[i] * table_columns + columns[i];
                if constexpr (kTable == Table::kLanes)
                    lane_tally(cell);
                else if constexpr (kTable == Table::kShared)
                    for_each_cell_of_warp(
                        cell, [&](uint32_t shared, uint32_t lanes) { atomicAdd(table + shared, lanes); });
                else
                    for_each_cell_of_warp(cell, [&](uint32_t, uint32_t lanes) {
                        add(operands, sample, channel, rows[i], columns[i], lanes);
                    });
            }
        }
        if constexpr (kTable != Table::kGlobal) {
            if constexpr (kTable == Table::kLanes) lane_tally.flush();
            __syncthreads();
            for (uint32_t cell = threadIdx.x; cell < cells; cell += kThreads) {
                uint32_t count = 0;
                for (uint32_t copy = 0; copy < kCopies; ++copy) count += table[cell * kCopies + copy];
                if (count > 0)
                    add(operands, sample, channel, cell / table_columns, cell % table_columns, count);
            }
            __syncthreads();
        }
    }
}

void check(cudaError_t status) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("confusion_counts on CUDA: ") + cudaGetErrorString(status));
}

int64_t divide_up(int64_t numerator, int64_t denominator) {
    return (numerator + denominator - 1) / denominator;
}

template <Input kind, Table kTable>
void launch(const Operands& operands, int device, cudaStream_t stream, uint32_t counters) {
    const auto kernel = confusion_kernel<kind, kTable>;
    const size_t bytes = counters * sizeof(uint32_t);
    int multiprocessors = 0;
    int blocks = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, bytes));
    const int64_t grid_y = std::min<int64_t>(operands.samples * operands.tables, kMaxGridY);
    const int64_t resident = divide_up(int64_t{multiprocessors} * blocks, grid_y);
    const int64_t useful = divide_up(operands.voxels, int64_t{kThreads} * kItems);
    const int64_t exact = divide_up(operands.voxels, kVoxelsPerBlock);
    const dim3 grid(static_cast<unsigned>(std::max(std::min(resident, useful), exact)),
                    static_cast<unsigned>(grid_y));
    kernel<<<grid, kThreads, bytes, stream>>>(operands);
    check(cudaGetLastError());
}

template <Input kind>
void launch(const Operands& operands, int device, cudaStream_t stream) {
    const uint64_t cells = uint64_t{operands.classes + 2} * (operands.classes + 1);
    if (cells * kLanes <= kCountersForOccupancy)
        launch<kind, Table::kLanes>(operands, device, stream, static_cast<uint32_t>(cells) * kLanes);
    else if (cells <= kCountersPerBlock)
        launch<kind, Table::kShared>(operands, device, stream, static_cast<uint32_t>(cells));
    else
        launch<kind, Table::kGlobal>(operands, device, stream, 0);
}

}  // namespace

void count_confusion_cuda(const ConfusionProblem& problem, int device, void* stream) {
    if (problem.samples == 0 || problem.voxels == 0) return;
    check(cudaSetDevice(device));
    const Operands operands{problem.input,
                            problem.target,
                            problem.mask,
                            problem.samples,
                            problem.voxels,
                            problem.classes,
                            problem.tables(),
                            problem.table_classes(),
                            problem.thresholds,
                            problem.ignore_index.has_value(),
                            problem.ignore_index.value_or(0),
                            problem.pooled,
                            reinterpret_cast<unsigned long long*>(problem.counts),
                            reinterpret_cast<unsigned long long*>(problem.invalid)};
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    switch (problem.kind) {
        case Input::kLabels:
            return launch<Input::kLabels>(operands, device, cuda_stream);
        case Input::kScores:
            return launch<Input::kScores>(operands, device, cuda_stream);
        case Input::kMultiLabel:
            // Two classes a table.
            return launch<Input::kMultiLabel, Table::kLanes>(operands, device, cuda_stream, 4 * 3 * kLanes);
    }
}

CudaBuild cuda_build() {
    CudaBuild build{CUDART_VERSION, {}};
    for (const int architecture : {__CUDA_ARCH_LIST__})
        build.architectures.push_back("sm_" + std::to_string(architecture / 10));
    return build;
}

}  // namespace fastmed
