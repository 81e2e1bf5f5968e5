#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "confusion.hpp"

namespace fastmed {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 5;
// Consecutive voxels that a thread reads at once.
constexpr int kItems = 8;
constexpr int kMaxGridY = 65535;
// Shared memory that lets all of these blocks be resident, and what a block has without opting
// in.
constexpr uint32_t kCountersForOccupancy = 24 * 1024 / sizeof(uint32_t);
constexpr uint32_t kCountersPerBlock = 48 * 1024 / sizeof(uint32_t);
// A block counts in 32 bits.
constexpr int64_t kVoxelsPerBlock = int64_t{1} << 31;

struct Operands {
    Labels prediction;
    Labels target;
    int64_t samples;
    int64_t voxels;
    uint32_t classes;
    bool ignores;
    int64_t ignore_index;
    unsigned long long* counts;
    unsigned long long* invalid;
};

template <class Label>
struct alignas(sizeof(Label) * kItems < 16 ? sizeof(Label) * kItems : 16) Pack {
    Label labels[kItems];
};

// Rows or columns of the voxels [first, first + kItems) of a sample, and `past_end` behind its last voxel.
__device__ void encode(const Labels& labels, const Operands& operands, int64_t sample, int64_t first,
                       bool ignores, uint32_t past_end, uint32_t (&codes)[kItems]) {
    visit(labels, [&](const auto* data) {
        using Label = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
        const Encoder<Label, uint32_t> encoder(operands.classes, ignores, operands.ignore_index);
        data += sample * labels.stride_n + first * labels.stride_v;
        const bool packed =
            labels.stride_v == 1 && reinterpret_cast<uintptr_t>(data) % alignof(Pack<Label>) == 0;
        if (packed && first + kItems <= operands.voxels) {
            const auto pack = *reinterpret_cast<const Pack<Label>*>(data);
#pragma unroll
            for (int i = 0; i < kItems; ++i) codes[i] = encoder(pack.labels[i]);
        } else {
#pragma unroll
            for (int i = 0; i < kItems; ++i)
                codes[i] = first + i < operands.voxels ? encoder(data[i * labels.stride_v]) : past_end;
        }
    });
}

// Calls `count(row, column)` for this thread's voxels of a sample; all threads of a block call equally often.
template <class Count>
__device__ void for_each_voxel(const Operands& operands, int64_t sample, Count&& count) {
    constexpr int64_t kTile = int64_t{kThreads} * kItems;
    for (int64_t tile = blockIdx.x * kTile; tile < operands.voxels; tile += gridDim.x * kTile) {
        const int64_t first = tile + threadIdx.x * kItems;
        uint32_t rows[kItems];
        uint32_t columns[kItems];
        encode(operands.target, operands, sample, first, operands.ignores, operands.classes + 1, rows);
        encode(operands.prediction, operands, sample, first, false, 0, columns);
#pragma unroll
        for (int i = 0; i < kItems; ++i) count(rows[i], columns[i]);
    }
}

__device__ void add(const Operands& operands, int64_t sample, uint32_t row, uint32_t column, uint32_t count) {
    const uint32_t classes = operands.classes;
    if (row < classes && column < classes)
        atomicAdd(operands.counts + (sample * classes + row) * classes + column, count);
    else if (row <= classes)
        atomicAdd(operands.invalid + sample, count);
}

// Few classes: a table per block in shared memory, in `copies` copies side by side, so that lanes that count
// in one cell do not wait for each other. A thread adds up a run of voxels in one cell before it counts them.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    confusion_shared_kernel(Operands operands, uint32_t copies) {
    extern __shared__ uint32_t table[];
    const uint32_t table_columns = operands.classes + 1;
    const uint32_t cells = (table_columns + 1) * table_columns;
    uint32_t* const own = table + threadIdx.x % copies;
    for (int64_t sample = blockIdx.y; sample < operands.samples; sample += gridDim.y) {
        for (uint32_t i = threadIdx.x; i < cells * copies; i += kThreads) table[i] = 0;
        __syncthreads();
        uint32_t run_cell = 0;
        uint32_t run = 0;
        for_each_voxel(operands, sample, [&](uint32_t row, uint32_t column) {
            const uint32_t cell = row * table_columns + column;
            if (cell != run_cell) {
                atomicAdd(own + run_cell * copies, run);
                run_cell = cell;
                run = 0;
            }
            ++run;
        });
        atomicAdd(own + run_cell * copies, run);
        __syncthreads();
        for (uint32_t cell = threadIdx.x; cell < cells; cell += kThreads) {
            uint32_t count = 0;
            for (uint32_t copy = 0; copy < copies; ++copy) count += table[cell * copies + copy];
            if (count > 0) add(operands, sample, cell / table_columns, cell % table_columns, count);
        }
        __syncthreads();
    }
}

// Many classes: straight to the output, once for all lanes of a warp that count in one cell.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    confusion_global_kernel(Operands operands) {
    const uint32_t table_columns = operands.classes + 1;
    const uint32_t lanes_below = (1u << (threadIdx.x % warpSize)) - 1;
    for (int64_t sample = blockIdx.y; sample < operands.samples; sample += gridDim.y)
        for_each_voxel(operands, sample, [&](uint32_t row, uint32_t column) {
            const uint32_t peers = __match_any_sync(0xffffffffu, row * table_columns + column);
            if ((peers & lanes_below) == 0) add(operands, sample, row, column, __popc(peers));
        });
}

void check(cudaError_t status) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("confusion_counts on CUDA: ") + cudaGetErrorString(status));
}

int64_t divide_up(int64_t numerator, int64_t denominator) {
    return (numerator + denominator - 1) / denominator;
}

}  // namespace

void count_confusion_cuda(const ConfusionProblem& problem, int device, void* stream) {
    if (problem.samples == 0 || problem.voxels == 0) return;
    check(cudaSetDevice(device));
    int multiprocessors = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));

    const Operands operands{problem.prediction,
                            problem.target,
                            problem.samples,
                            problem.voxels,
                            problem.classes,
                            problem.ignore_index.has_value(),
                            problem.ignore_index.value_or(0),
                            reinterpret_cast<unsigned long long*>(problem.counts),
                            reinterpret_cast<unsigned long long*>(problem.invalid)};

    const int64_t grid_y = std::min<int64_t>(problem.samples, kMaxGridY);
    const int64_t resident = divide_up(int64_t{multiprocessors} * kBlocksPerMultiprocessor, grid_y);
    const int64_t useful = divide_up(problem.voxels, int64_t{kThreads} * kItems);
    const int64_t exact = divide_up(problem.voxels, kVoxelsPerBlock);
    const dim3 grid(static_cast<unsigned>(std::max(std::min(resident, useful), exact)),
                    static_cast<unsigned>(grid_y));

    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    const uint64_t cells = uint64_t{problem.classes + 2} * (problem.classes + 1);
    if (cells <= kCountersPerBlock) {
        uint32_t copies = 32;
        while (copies > 1 && cells * copies > kCountersForOccupancy) copies /= 2;
        const size_t bytes = cells * copies * sizeof(uint32_t);
        confusion_shared_kernel<<<grid, kThreads, bytes, cuda_stream>>>(operands, copies);
    } else {
        confusion_global_kernel<<<grid, kThreads, 0, cuda_stream>>>(operands);
    }
    check(cudaGetLastError());
}

CudaBuild cuda_build() {
    CudaBuild build{CUDART_VERSION, {}};
    for (const int architecture : {__CUDA_ARCH_LIST__})
        build.architectures.push_back("sm_" + std::to_string(architecture / 10));
    return build;
}

}  // namespace fastmed
