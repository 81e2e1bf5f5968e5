#include <algorithm>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "confusion.hpp"

namespace fastmed {
namespace {

// Voxels below which another thread costs more than it saves.
constexpr int64_t kVoxelsPerThread = int64_t{1} << 16;
// Voxels encoded at a time; two such blocks of codes stay in the L1 cache.
constexpr int64_t kBlock = 2048;
// A private counter has 32 bits.
constexpr int64_t kVoxelsPerFlush = int64_t{1} << 31;
// Neighbours mostly fall into one cell, and an increment waits for the store of the one before it:
// consecutive voxels go to different copies of the table, unless it is large.
constexpr int64_t kCopies = 4;
constexpr int64_t kMaxCellsCopied = 1 << 16;

template <class Label, class Code>
inline void encode_packed(const Label* data, int64_t count, const Encoder<Label, Code>& encoder,
                          Code* codes) {
    for (int64_t i = 0; i < count; ++i) codes[i] = encoder(data[i]);
}

// Wheels are built for any x86-64, and its oldest vectors cannot compare 64-bit labels.
#if defined(__x86_64__) && defined(__GNUC__)
const bool kHasAvx2 = __builtin_cpu_supports("avx2");

template <class Label, class Code>
__attribute__((target("avx2"))) void encode_packed_avx2(const Label* data, int64_t count,
                                                        const Encoder<Label, Code>& encoder, Code* codes) {
    for (int64_t i = 0; i < count; ++i) codes[i] = encoder(data[i]);
}
#endif

template <class Code>
void encode(const Labels& labels, int64_t sample, int64_t first, int64_t count,
            const ConfusionProblem& problem, std::optional<int64_t> ignore_index, Code* codes) {
    visit(labels, [&](const auto* data) {
        using Label = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
        const Encoder<Label, Code> encoder(problem.classes, ignore_index.has_value(),
                                           ignore_index.value_or(0));
        data += sample * labels.stride_n + first * labels.stride_v;
        if (labels.stride_v == 1) {
#if defined(__x86_64__) && defined(__GNUC__)
            if (kHasAvx2) return encode_packed_avx2(data, count, encoder, codes);
#endif
            encode_packed(data, count, encoder, codes);
        } else {
            for (int64_t i = 0; i < count; ++i) codes[i] = encoder(data[i * labels.stride_v]);
        }
    });
}

// The private table of one thread, and its share of the work.
class Worker {
  public:
    Worker(const ConfusionProblem& problem, std::mutex& mutex)
        : problem_(problem),
          mutex_(mutex),
          columns_(int64_t{problem.classes} + 1),
          cells_((columns_ + 1) * columns_),
          copies_(cells_ <= kMaxCellsCopied ? kCopies : 1),
          table_(static_cast<size_t>(cells_ * copies_)) {}

    // Counts voxels [first, last) of the batch, numbered sample by sample.
    void run(int64_t first, int64_t last) {
        while (first < last) {
            const int64_t sample = first / problem_.voxels;
            const int64_t begin = first % problem_.voxels;
            const int64_t count = std::min({last - first, problem_.voxels - begin, kVoxelsPerFlush});
            if (copies_ == kCopies)
                count_voxels<uint16_t, kCopies>(sample, begin, begin + count);
            else
                count_voxels<uint32_t, 1>(sample, begin, begin + count);
            flush(sample);
            first += count;
        }
    }

  private:
    template <class Cell, int64_t copies>
    void count_voxels(int64_t sample, int64_t begin, int64_t end) {
        Cell rows[kBlock];
        Cell cells[kBlock];
        uint32_t* const table = table_.data();
        const Cell columns = static_cast<Cell>(columns_);
        const int64_t stride = cells_;
        for (int64_t first = begin; first < end; first += kBlock) {
            const int64_t count = std::min(kBlock, end - first);
            encode(problem_.target, sample, first, count, problem_, problem_.ignore_index, rows);
            encode(problem_.prediction, sample, first, count, problem_, std::nullopt, cells);
            for (int64_t i = 0; i < count; ++i) cells[i] = static_cast<Cell>(rows[i] * columns + cells[i]);
            int64_t i = 0;
            for (; i + copies <= count; i += copies)
                for (int64_t copy = 0; copy < copies; ++copy) ++table[copy * stride + cells[i + copy]];
            for (; i < count; ++i) ++table[cells[i]];
        }
    }

    // Adds the table to the output of the sample, and clears it.
    void flush(int64_t sample) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const int64_t classes = problem_.classes;
        int64_t* counts = problem_.counts + sample * classes * classes;
        const uint32_t* cell = table_.data();
        for (int64_t row = 0; row <= classes; ++row)
            for (int64_t column = 0; column <= classes; ++column, ++cell) {
                int64_t count = 0;
                for (int64_t copy = 0; copy < copies_; ++copy) count += cell[copy * cells_];
                const bool valid = row < classes && column < classes;
                (valid ? counts[row * classes + column] : problem_.invalid[sample]) += count;
            }
        std::fill(table_.begin(), table_.end(), 0);
    }

    const ConfusionProblem& problem_;
    std::mutex& mutex_;
    int64_t columns_;
    int64_t cells_;
    int64_t copies_;
    std::vector<uint32_t> table_;
};

}  // namespace

void count_confusion_cpu(const ConfusionProblem& problem, int threads) {
    const int64_t voxels = problem.samples * problem.voxels;
    const int64_t shares = std::clamp<int64_t>(voxels / kVoxelsPerThread, 1, std::max(threads, 1));
    std::mutex mutex;
    std::vector<Worker> workers(static_cast<size_t>(shares), Worker(problem, mutex));
    const auto run = [&](int64_t share) {
        const int64_t each = voxels / shares, rest = voxels % shares;
        const int64_t first = share * each + std::min(share, rest);
        workers[static_cast<size_t>(share)].run(first, first + each + (share < rest));
    };
    // Threads live for one call: a pool would not survive a fork.
    std::vector<std::thread> running;
    running.reserve(static_cast<size_t>(shares));
    int64_t share = 1;
    try {
        for (; share < shares; ++share) running.emplace_back(run, share);
    } catch (const std::system_error&) {
        // No more threads to be had: this one does the rest.
    }
    run(0);
    for (; share < shares; ++share) run(share);
    for (std::thread& thread : running) thread.join();
}

}  // namespace fastmed
