#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "histogram.hpp"

namespace fastmed {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 4;
// Scores that a thread reads before it counts them.
constexpr int kItems = 4;
constexpr int kMaxGridY = 65535;
// Voxels that a block walks at a time, for one task after another or for all of its tasks side by side.
constexpr int64_t kTile = 1024;
// Shared memory that a block has without opting in to more.
constexpr uint32_t kCountersPerBlock = 48 * 1024 / sizeof(uint32_t);
// A block counts in 32 bits.
constexpr int64_t kScoresPerBlock = int64_t{1} << 31;

struct Operands {
    Operand scores;
    Operand target;
    Operand mask;  // no data if every label counts
    int64_t samples;
    int64_t tasks;
    int64_t voxels;
    Bins bins;
    bool tasks_side_by_side;
    unsigned long long* counts;
    unsigned long long* invalid;
};

// The scores of a tile: `voxels` of one sample from `voxel` on, for `tasks` tasks from `task` on.
struct Tile {
    int64_t sample;
    int64_t voxel;
    uint32_t voxels;
    int64_t task;
    uint32_t tasks;
};

struct Position {
    uint32_t task;
    uint32_t voxel;
};

// Where the i-th score of a tile is, in the order in which they lie in memory.
__device__ Position position_of(uint32_t i, const Tile& tile, bool tasks_side_by_side) {
    if (tasks_side_by_side) return {i % tile.tasks, i / tile.tasks};
    return {i / tile.voxels, i % tile.voxels};
}

// codes[i] = code(element i, codes[i]) for the items of this thread that are in the tile.
template <class Element, class Code>
__device__ void encode(const Operand& operand, const Element* data, const Tile& tile,
                       const Position (&positions)[kItems], int items, Code&& code,
                       uint32_t (&codes)[kItems]) {
    data += tile.sample * operand.stride_n + tile.task * operand.stride_c + tile.voxel * operand.stride_v;
#pragma unroll
    for (int i = 0; i < kItems; ++i)
        if (i < items)
            codes[i] = code(
                data[positions[i].task * operand.stride_c + positions[i].voxel * operand.stride_v], codes[i]);
}

// Calls `count(task, cell)`, the task within the tile, for the scores of this thread.
template <class Count>
__device__ void for_each_score(const Operands& operands, const Tile& tile, Count&& count) {
    const uint32_t scores = tile.voxels * tile.tasks;
    for (uint32_t first = threadIdx.x; first < scores; first += kThreads * kItems) {
        const int items = min(kItems, static_cast<int>((scores - first + kThreads - 1) / kThreads));
        Position positions[kItems];
        uint32_t columns[kItems] = {};
        uint32_t rows[kItems] = {};
#pragma unroll
        for (int i = 0; i < kItems; ++i)
            positions[i] = position_of(first + i * kThreads, tile, operands.tasks_side_by_side);
        visit_transform(operands.bins.transform, [&](auto transform) {
            visit_floating(operands.scores, [&](const auto* data) {
                encode(
                    operands.scores, data, tile, positions, items,
                    [&](auto score, uint32_t) {
                        return column_of<decltype(transform)::value>(static_cast<float>(score),
                                                                     operands.bins);
                    },
                    columns);
            });
        });
        visit(operands.target, [&](const auto* data) {
            encode(
                operands.target, data, tile, positions, items,
                [](auto label, uint32_t) { return row_of(label); }, rows);
        });
        if (operands.mask.data != nullptr)
            encode(
                operands.mask, static_cast<const uint8_t*>(operands.mask.data), tile, positions, items,
                [](uint8_t kept, uint32_t row) { return kept != 0 ? row : static_cast<uint32_t>(kMissing); },
                rows);
#pragma unroll
        for (int i = 0; i < kItems; ++i)
            if (i < items) count(positions[i].task, cell_of(rows[i], columns[i], operands.bins));
    }
}

// Calls `visitor(tile)` for the tiles of this block among all samples and voxels of some tasks.
template <class Visitor>
__device__ void for_each_tile(const Operands& operands, int64_t task, uint32_t tasks, Visitor&& visitor) {
    const int64_t tiles = (operands.voxels + kTile - 1) / kTile;
    for (int64_t i = blockIdx.x; i < operands.samples * tiles; i += gridDim.x) {
        const int64_t voxel = i % tiles * kTile;
        const int64_t left = operands.voxels - voxel;
        visitor(Tile{i / tiles, voxel, static_cast<uint32_t>(left < kTile ? left : kTile), task, tasks});
    }
}

__device__ void add(const Operands& operands, int64_t task, uint32_t cell, uint32_t count) {
    const uint32_t cells = cells_of(operands.bins);
    if (cell < cells - 2)
        atomicAdd(operands.counts + task * (cells - 2) + cell, count);
    else if (cell == cells - 1)
        atomicAdd(operands.invalid + task, count);
}

// A thread adds up its scores in one cell before it counts them, so that a constant score does not make all
// threads wait for each other.
template <class Count>
class Run {
  public:
    __device__ explicit Run(Count count) : count_(count) {}
    __device__ ~Run() { finish(); }

    __device__ void operator()(uint32_t task, uint32_t cell) {
        if (task != task_ || cell != cell_) {
            finish();
            task_ = task;
            cell_ = cell;
            length_ = 0;
        }
        ++length_;
    }

  private:
    __device__ void finish() {
        if (length_ > 0) count_(task_, cell_, length_);
    }

    Count count_;
    uint32_t task_ = 0;
    uint32_t cell_ = 0;
    uint32_t length_ = 0;
};

// Tables of up to `group` tasks in shared memory.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    histogram_shared_kernel(Operands operands, uint32_t group) {
    extern __shared__ uint32_t table[];
    const uint32_t cells = cells_of(operands.bins);
    for (int64_t task = int64_t{blockIdx.y} * group; task < operands.tasks;
         task += int64_t{gridDim.y} * group) {
        const uint32_t tasks = static_cast<uint32_t>(min(operands.tasks - task, int64_t{group}));
        for (uint32_t i = threadIdx.x; i < tasks * cells; i += kThreads) table[i] = 0;
        __syncthreads();
        {
            Run run([&](uint32_t task_in_group, uint32_t cell, uint32_t length) {
                atomicAdd(table + task_in_group * cells + cell, length);
            });
            for_each_tile(operands, task, tasks,
                          [&](const Tile& tile) { for_each_score(operands, tile, run); });
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < tasks * cells; i += kThreads)
            if (table[i] > 0) add(operands, task + i / cells, i % cells, table[i]);
        __syncthreads();
    }
}

// Many bins: straight to the output.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    histogram_global_kernel(Operands operands) {
    for (int64_t task = blockIdx.y; task < operands.tasks; task += gridDim.y) {
        Run run([&](uint32_t, uint32_t cell, uint32_t length) { add(operands, task, cell, length); });
        for_each_tile(operands, task, 1, [&](const Tile& tile) { for_each_score(operands, tile, run); });
    }
}

void check(cudaError_t status) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("score_histogram on CUDA: ") + cudaGetErrorString(status));
}

int64_t divide_up(int64_t numerator, int64_t denominator) {
    return (numerator + denominator - 1) / denominator;
}

}  // namespace

void count_histogram_cuda(const HistogramProblem& problem, int device, void* stream) {
    if (problem.samples == 0 || problem.tasks == 0 || problem.voxels == 0) return;
    check(cudaSetDevice(device));
    int multiprocessors = 0;
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device));

    const Operand no_mask{nullptr, Dtype::kUInt8, 0, 0, 0};
    const Operands operands{problem.scores,
                            problem.target,
                            problem.mask.value_or(no_mask),
                            problem.samples,
                            problem.tasks,
                            problem.voxels,
                            problem.bins,
                            problem.scores.stride_c < problem.scores.stride_v,
                            reinterpret_cast<unsigned long long*>(problem.counts),
                            reinterpret_cast<unsigned long long*>(problem.invalid)};

    const uint32_t cells = cells_of(problem.bins);
    const int64_t fitting = std::min<int64_t>(kCountersPerBlock / cells, problem.tasks);
    const int64_t group = std::max<int64_t>(fitting, 1);
    const int64_t grid_y = std::min<int64_t>(divide_up(problem.tasks, group), kMaxGridY);
    const int64_t tiles = problem.samples * divide_up(problem.voxels, kTile);
    const int64_t resident = divide_up(int64_t{multiprocessors} * kBlocksPerMultiprocessor, grid_y);
    const int64_t exact = divide_up(tiles * kTile * group, kScoresPerBlock);
    const dim3 grid(static_cast<unsigned>(std::min(std::max(resident, exact), tiles)),
                    static_cast<unsigned>(grid_y));

    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (fitting > 0) {
        const size_t bytes = static_cast<size_t>(group) * cells * sizeof(uint32_t);
        histogram_shared_kernel<<<grid, kThreads, bytes, cuda_stream>>>(operands,
                                                                        static_cast<uint32_t>(group));
    } else {
        histogram_global_kernel<<<grid, kThreads, 0, cuda_stream>>>(operands);
    }
    check(cudaGetLastError());
}

}  // namespace fastmed
