#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "histogram.hpp"
#include "parallel.hpp"
#include "prefetch.hpp"

namespace fastmed {
namespace {

// Scores below which another thread costs more than it saves.
constexpr int64_t kScoresPerThread = int64_t{1} << 15;
// Scores encoded at a time; their rows, columns and cells stay in the L1 cache.
constexpr int64_t kBlock = 512;
// A private counter has 32 bits.
constexpr int64_t kScoresPerFlush = int64_t{1} << 31;
// An increment waits for the store of the one before it: neighbours that may be equal, because they belong to
// one task, go to different copies of the table, unless it is large.
constexpr int64_t kCopies = 4;
constexpr int64_t kMaxCellsCopied = 1 << 16;

struct Rectangle {
    int64_t rows;
    int64_t columns;
};

// The elements of a rectangle one after another: where they are, or gathered into the buffer.
template <class Element>
const Element* packed(const Element* data, Rectangle size, int64_t stride_row, int64_t stride_column,
                      Element* buffer) {
    const bool columns_packed = size.columns == 1 || stride_column == 1;
    if (columns_packed && (size.rows == 1 || stride_row == size.columns)) return data;
    Element* out = buffer;
    for (int64_t row = 0; row < size.rows; ++row, data += stride_row)
        for (int64_t column = 0; column < size.columns; ++column) *out++ = data[column * stride_column];
    return buffer;
}

template <Transform transform>
struct ToColumn {
    template <class Score>
    FASTMED_INLINE uint32_t operator()(Score score, uint32_t) const {
        return column_of<transform>(static_cast<float>(score), bins);
    }
    Bins bins;
};

struct ToRow {
    template <class Label>
    FASTMED_INLINE uint32_t operator()(Label label, uint32_t) const {
        return row_of(label);
    }
};

struct WithoutMasked {
    FASTMED_INLINE uint32_t operator()(uint8_t kept, uint32_t row) const {
        return kept != 0 ? row : static_cast<uint32_t>(kMissing);
    }
};

// codes[i] = code(data[i], codes[i])
template <class Element, class Code>
FASTMED_INLINE void encode_inline(const Element* data, int64_t count, const Code code, uint32_t* codes) {
    for (int64_t i = 0; i < count; ++i) codes[i] = code(data[i], codes[i]);
}

// Wheels are built for any x86-64, whose oldest vectors are short and cannot blend.
#if defined(__x86_64__) && defined(__GNUC__)
const bool kHasAvx2 = __builtin_cpu_supports("avx2");

template <class Element, class Code>
__attribute__((target("avx2"))) void encode_avx2(const Element* data, int64_t count, const Code code,
                                                 uint32_t* codes) {
    encode_inline(data, count, code, codes);
}
#endif

template <class Element, class Code>
void encode(const Element* data, int64_t count, const Code code, uint32_t* codes) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (kHasAvx2) return encode_avx2(data, count, code, codes);
#endif
    encode_inline(data, count, code, codes);
}

// The private table of one thread, and its share of the work.
//
// Scores are taken in rectangles of voxels and tasks, whose inner side is the one along which they lie in
// memory.
class Worker {
  public:
    Worker(const HistogramProblem& problem, std::mutex& mutex)
        : problem_(problem),
          mutex_(mutex),
          task_cells_(cells_of(problem.bins)),
          cells_(problem.tasks * task_cells_),
          width_(std::abs(problem.scores.stride_c) < std::abs(problem.scores.stride_v)
                     ? std::min(problem.tasks, kBlock)
                     : 1),
          copies_(width_ < kCopies && cells_ <= kMaxCellsCopied ? kCopies : 1),
          table_(static_cast<size_t>(cells_ * copies_)) {}

    // Counts voxels [first, last) of the batch, numbered sample by sample.
    void run(int64_t first, int64_t last) {
        const int64_t voxels_per_flush = std::max<int64_t>(kScoresPerFlush / problem_.tasks, 1);
        while (first < last) {
            const int64_t sample = first / problem_.voxels;
            const int64_t begin = first % problem_.voxels;
            const int64_t count = std::min({last - first, problem_.voxels - begin, voxels_per_flush});
            for (int64_t task = 0; task < problem_.tasks; task += width_)
                count_tasks(sample, task, std::min(width_, problem_.tasks - task), begin, begin + count);
            unflushed_ += count;
            if (unflushed_ >= voxels_per_flush) flush();
            first += count;
        }
    }

    // Adds the table to the output, and clears it.
    void flush() {
        const std::lock_guard<std::mutex> lock(mutex_);
        const int64_t counted = task_cells_ - 2;
        for (int64_t copy = 0; copy < copies_; ++copy)
            for (int64_t task = 0; task < problem_.tasks; ++task) {
                const uint32_t* cells = table_.data() + copy * cells_ + task * task_cells_;
                int64_t* counts = problem_.counts + task * counted;
                for (int64_t cell = 0; cell < counted; ++cell) counts[cell] += cells[cell];
                problem_.invalid[task] += cells[counted + 1];
            }
        std::fill(table_.begin(), table_.end(), 0);
        unflushed_ = 0;
    }

  private:
    void count_tasks(int64_t sample, int64_t task, int64_t width, int64_t begin, int64_t end) {
        const int64_t rows_per_block = kBlock / width;
        // First cell of the task of each score of a block, in the copy of the table that is its turn.
        uint32_t bases[kBlock];
        for (int64_t i = 0; i < rows_per_block * width; ++i)
            bases[i] = static_cast<uint32_t>((task + i % width) * task_cells_ + i % copies_ * cells_);
        for (int64_t voxel = begin; voxel < end; voxel += rows_per_block)
            count_block(sample, task, voxel, {std::min(rows_per_block, end - voxel), width}, bases);
    }

    void count_block(int64_t sample, int64_t task, int64_t voxel, Rectangle size, const uint32_t* bases) {
        alignas(64) double buffer[kBlock];
        alignas(64) uint32_t columns[kBlock];
        alignas(64) uint32_t rows[kBlock];
        const int64_t count = size.rows * size.columns;
        const auto block = [&](const Operand& operand, const auto* data) {
            using Element = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
            data += sample * operand.stride_n + task * operand.stride_c + voxel * operand.stride_v;
            const Element* elements =
                packed(data, size, operand.stride_v, operand.stride_c, reinterpret_cast<Element*>(buffer));
            if (elements == data) prefetch(data + count, count);
            return elements;
        };
        visit_floating(problem_.scores, [&](const auto* data) {
            const auto* scores = block(problem_.scores, data);
            visit_transform(problem_.bins.transform, [&](auto transform) {
                encode(scores, count, ToColumn<decltype(transform)::value>{problem_.bins}, columns);
            });
        });
        visit(problem_.target,
              [&](const auto* data) { encode(block(problem_.target, data), count, ToRow(), rows); });
        if (problem_.mask)
            encode(block(*problem_.mask, static_cast<const uint8_t*>(problem_.mask->data)), count,
                   WithoutMasked(), rows);
        for (int64_t i = 0; i < count; ++i)
            columns[i] = bases[i] + cell_of(rows[i], columns[i], problem_.bins);
        uint32_t* const table = table_.data();
        for (int64_t i = 0; i < count; ++i) ++table[columns[i]];
    }

    const HistogramProblem& problem_;
    std::mutex& mutex_;
    int64_t task_cells_;
    int64_t cells_;
    int64_t width_;
    int64_t copies_;
    int64_t unflushed_ = 0;
    std::vector<uint32_t> table_;
};

}  // namespace

void count_histogram_cpu(const HistogramProblem& problem, int threads) {
    const int64_t voxels = problem.samples * problem.voxels;
    if (voxels == 0 || problem.tasks == 0) return;
    // A table is cleared and added once a thread, which must not take longer than to count.
    const int64_t least = std::max<int64_t>(kScoresPerThread, problem.tasks * cells_of(problem.bins));
    const int64_t useful = std::clamp<int64_t>(voxels * problem.tasks / least, 1, std::max(threads, 1));
    std::mutex mutex;
    share_pieces(voxels, std::max<int64_t>(kScoresPerThread / problem.tasks, 1), useful,
                 [&] { return Worker(problem, mutex); });
}

}  // namespace fastmed
