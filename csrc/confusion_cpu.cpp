#include <algorithm>
#include <mutex>
#include <vector>

#include "confusion.hpp"
#include "parallel.hpp"
#include "prefetch.hpp"

namespace fastmed {
namespace {

// Elements read below which another thread costs more than it saves.
constexpr int64_t kElementsPerThread = int64_t{1} << 16;
// Voxels encoded at a time; their codes stay in the L1 cache.
constexpr int64_t kBlock = 2048;
// Fewer where the voxels of a class are not neighbours in memory: then the classes of a voxel are, and the
// cache should hold them until the last class has been read.
constexpr int64_t kScoresPerStridedBlock = 8192;
constexpr int64_t kMinStridedBlock = 16;
// Classes whose scores are compared before the winner is written down.
constexpr int64_t kClassesPerStep = 4;
// Voxels between two requests for the scores of those that come so much later, of each of these classes.
constexpr int64_t kPiece = 64;
constexpr int64_t kAhead = 512;
// A private counter has 32 bits.
constexpr int64_t kVoxelsPerFlush = int64_t{1} << 31;
// Neighbours mostly fall into one cell, and an increment waits for the store of the one before it:
// consecutive voxels go to different copies of the table, unless it is large.
constexpr int64_t kCopies = 4;
constexpr int64_t kMaxCellsCopied = 1 << 16;
// Where there are few classes, nothing is incremented: the voxels of each cell are found by comparison, those
// of a row of cells at once, in vectors of so many voxels. A lane counts those of a block.
constexpr int64_t kMaxClassesCompared = 5;
constexpr int64_t kLanes = 32;
constexpr uint8_t kNoCell = std::numeric_limits<uint8_t>::max();
static_assert(kBlock % kLanes == 0 && kBlock / kLanes <= std::numeric_limits<uint8_t>::max());
static_assert((kMaxClassesCompared + 2) * (kMaxClassesCompared + 1) <= kNoCell);

// Runs a loop, which must be an inlined lambda, in the widest vectors there are: wheels are built for any
// x86-64, whose oldest vectors are half as wide and cannot compare 64-bit labels.
#if defined(__x86_64__) && defined(__GNUC__)
#define FASTMED_LOOP __attribute__((always_inline))
const bool kHasAvx2 = __builtin_cpu_supports("avx2");

template <class Loop>
__attribute__((target("avx2"))) void run_avx2(const Loop& captured) {
    // A copy, which no store of the loop can change.
    const Loop loop = captured;
    loop();
}

template <class Loop>
void vectorised(const Loop& loop) {
    if (kHasAvx2)
        run_avx2(loop);
    else
        loop();
}
#else
#define FASTMED_LOOP
template <class Loop>
void vectorised(const Loop& loop) {
    loop();
}
#endif

// Calls `function` with a number from 1 to `most` as a constant.
template <int64_t most, class Function>
void with_constant(int64_t number, const Function& function) {
    if constexpr (most > 1)
        if (number < most) return with_constant<most - 1>(number, function);
    function(std::integral_constant<int64_t, most>());
}

// Voxels [first, first + count) of a sample and channel.
struct Run {
    int64_t sample;
    int64_t channel;
    int64_t first;
    int64_t count;
};

template <class Value>
const Value* begin(const Operand& operand, const Value* data, const Run& run) {
    return data + run.sample * operand.stride_n + run.channel * operand.stride_c +
           run.first * operand.stride_v;
}

// codes[i] = encoder(value of voxel i)
template <class Value, class Encoder, class Code>
void encode(const Value* values, int64_t stride, int64_t count, const Encoder& encoder, Code* codes) {
    if (stride == 1)
        vectorised([=]() FASTMED_LOOP {
            for (int64_t i = 0; i < count; ++i) codes[i] = encoder(comparable(values[i]));
        });
    else
        for (int64_t i = 0; i < count; ++i) codes[i] = encoder(comparable(values[i * stride]));
}

template <class Code>
void encode_labels(const Operand& labels, const Run& run, uint32_t classes,
                   std::optional<int64_t> ignore_index, Code* codes) {
    visit_labels(labels, [&](const auto* data) {
        using Label = std::remove_cv_t<std::remove_pointer_t<decltype(data)>>;
        const LabelEncoder<Label, Code> encoder(classes, ignore_index.has_value(), ignore_index.value_or(0));
        encode(begin(labels, data, run), labels.stride_v, run.count, encoder, codes);
    });
}

template <class Code>
void encode_presence(const Operand& target, const Run& run, std::optional<int64_t> ignore_index,
                     Code* codes) {
    visit(target, [&](const auto* data) {
        using Value = Comparable<std::remove_cv_t<std::remove_pointer_t<decltype(data)>>>;
        const PresenceEncoder<Value, Code> encoder(ignore_index.has_value(), ignore_index.value_or(0));
        encode(begin(target, data, run), target.stride_v, run.count, encoder, codes);
    });
}

template <class Code>
void encode_above(const Operand& input, const Run& run, double threshold, Code* codes) {
    visit(input, [&](const auto* data) {
        const auto encoder = [threshold](auto value)
                                 FASTMED_LOOP { return static_cast<Code>(is_above(value, threshold)); };
        encode(begin(input, data, run), input.stride_v, run.count, encoder, codes);
    });
}

// The scores of `width` more classes from `first_class` on, `stride_c` apart: the winner so far of each voxel
// and its score are read, unless these are the first classes, and written.
template <int64_t width, bool first, class Score, class Code>
void compare_classes(const Score* scores, int64_t stride_c, int64_t count, int64_t first_class,
                     Comparable<Score>* best, Code* codes) {
    using Value = Comparable<Score>;
    // As wide as the scores, so that one mask chooses both.
    using Class = std::conditional_t<sizeof(Value) == 8, int64_t, int32_t>;
    vectorised([=]() FASTMED_LOOP {
        for (int64_t start = 0; start < count; start += kPiece) {
            for (int k = 0; k < width; ++k) prefetch(scores + k * stride_c + start + kAhead, kPiece);
            const int64_t stop = std::min(start + kPiece, count);
// Scores and buffers never overlap.
#pragma GCC ivdep
            for (int64_t i = start; i < stop; ++i) {
                Value top = first ? -std::numeric_limits<Value>::infinity() : best[i];
                Class winner = first ? Class{0} : static_cast<Class>(codes[i]);
                for (int k = 0; k < width; ++k) {
                    const Value score = comparable(scores[k * stride_c + i]);
                    const Class better = -Class{takes_over(score, top)};
                    top = select(better, score, top);
                    winner = select(better, static_cast<Class>(first_class + k), winner);
                }
                best[i] = top;
                codes[i] = static_cast<Code>(winner);
            }
        }
    });
}

template <class Score, class Code>
void encode_argmax(const Operand& input, const Score* scores, int64_t classes, int64_t count, Code* codes) {
    Comparable<Score> best[kBlock];
    Score packed[kClassesPerStep * kBlock];
    for (int64_t first = 0; first < classes; first += kClassesPerStep) {
        const int64_t width = std::min<int64_t>(kClassesPerStep, classes - first);
        const Score* step = scores + first * input.stride_c;
        int64_t stride_c = input.stride_c;
        if (input.stride_v != 1) {
            for (int64_t k = 0; k < width; ++k)
                for (int64_t i = 0; i < count; ++i)
                    packed[k * kBlock + i] = step[k * input.stride_c + i * input.stride_v];
            step = packed;
            stride_c = kBlock;
        }
        with_constant<kClassesPerStep>(width, [&](auto w) {
            if (first == 0)
                compare_classes<w, true>(step, stride_c, count, first, best, codes);
            else
                compare_classes<w, false>(step, stride_c, count, first, best, codes);
        });
    }
}

// From rows and columns to cells.
template <class Cell>
void locate(const Cell* rows, Cell columns, int64_t count, Cell* cells) {
    vectorised([=]() FASTMED_LOOP {
        for (int64_t i = 0; i < count; ++i) cells[i] = static_cast<Cell>(rows[i] * columns + cells[i]);
    });
}

// Whether sixteen voxels fall into one cell.
template <class Cell>
bool is_uniform(const Cell* cells) {
    constexpr int kWords = 16 * sizeof(Cell) / sizeof(uint64_t);
    uint64_t words[kWords];
    std::memcpy(words, cells, sizeof(words));
    const uint64_t wanted = words[0] & std::numeric_limits<Cell>::max();
    uint64_t difference = words[0] ^ (wanted * (~uint64_t{0} / std::numeric_limits<Cell>::max()));
    for (int i = 1; i < kWords; ++i) difference |= words[i] ^ words[0];
    return difference == 0;
}

template <int64_t copies, class Cell>
void increment(const Cell* cells, int64_t count, int64_t stride, uint32_t* table) {
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        if (is_uniform(cells + i)) {
            table[cells[i]] += 16;
            continue;
        }
        for (int64_t k = 0; k < 16; ++k) ++table[k % copies * stride + cells[i + k]];
    }
    for (; i < count; ++i) ++table[cells[i]];
}

// Adds the voxels of `width` cells, from `first` on, to the table. Returns how many they are.
template <int64_t width>
int64_t count_equal(const uint8_t* voxels, int64_t count, int64_t first, uint32_t* table) {
    using Vector [[gnu::vector_size(kLanes)]] = uint8_t;
    int64_t found = 0;
    int64_t* const total = &found;
    vectorised([=]() FASTMED_LOOP {
        Vector counts[width] = {};
        for (int64_t i = 0; i < count; i += kLanes) {
            Vector some;
            memcpy(&some, voxels + i, sizeof(some));
            // Where a comparison holds it gives -1.
            for (int64_t k = 0; k < width; ++k)
                counts[k] -= reinterpret_cast<Vector>(some == static_cast<uint8_t>(first + k));
        }
        for (int64_t k = 0; k < width; ++k) {
            uint32_t number = 0;
            for (int64_t lane = 0; lane < kLanes; ++lane) number += counts[k][lane];
            table[first + k] += number;
            *total += number;
        }
    });
    return found;
}

// The private tables of one thread, and its share of the work.
class Worker {
  public:
    Worker(const ConfusionProblem& problem, std::mutex& mutex)
        : problem_(problem),
          mutex_(mutex),
          classes_(problem.table_classes()),
          columns_(classes_ + 1),
          cells_((columns_ + 1) * columns_),
          copies_(is_compared() || cells_ > kMaxCellsCopied ? 1 : kCopies),
          block_(problem.kind == Input::kLabels || problem.input.stride_v == 1
                     ? kBlock
                     : std::clamp(kScoresPerStridedBlock / problem.classes, kMinStridedBlock, kBlock)),
          table_(static_cast<size_t>(problem.tables() * cells_ * copies_)) {}

    // Counts voxels [first, last) of the batch, numbered sample by sample.
    void run(int64_t first, int64_t last) {
        while (first < last) {
            const int64_t sample = first / problem_.voxels;
            const int64_t begin = first % problem_.voxels;
            if (unflushed_ == kVoxelsPerFlush || (sample != sample_ && !problem_.pooled)) flush();
            sample_ = sample;
            const int64_t count =
                std::min({last - first, problem_.voxels - begin, kVoxelsPerFlush - unflushed_});
            if (is_compared())
                count_voxels<uint8_t>(sample, begin, begin + count);
            else if (copies_ == kCopies)
                count_voxels<uint16_t>(sample, begin, begin + count);
            else
                count_voxels<uint32_t>(sample, begin, begin + count);
            first += count;
            unflushed_ += count;
        }
    }

    // Adds the tables to the output, of the sample if samples are kept apart, and clears them.
    void flush() {
        const int64_t sample = problem_.pooled ? 0 : sample_;
        const std::lock_guard<std::mutex> lock(mutex_);
        int64_t* counts = problem_.counts + sample * problem_.tables() * classes_ * classes_;
        const uint32_t* table = table_.data();
        for (int64_t channel = 0; channel < problem_.tables(); ++channel) {
            for (int64_t row = 0; row <= classes_; ++row)
                for (int64_t column = 0; column <= classes_; ++column) {
                    int64_t count = 0;
                    for (int64_t copy = 0; copy < copies_; ++copy)
                        count += table[copy * cells_ + row * columns_ + column];
                    const bool valid = row < classes_ && column < classes_;
                    (valid ? counts[row * classes_ + column] : problem_.invalid[sample]) += count;
                }
            counts += classes_ * classes_;
            table += copies_ * cells_;
        }
        std::fill(table_.begin(), table_.end(), 0);
        unflushed_ = 0;
    }

  private:
    bool is_compared() const { return classes_ <= kMaxClassesCompared; }

    template <class Cell>
    void count_voxels(int64_t sample, int64_t begin, int64_t end) {
        Cell rows[kBlock];
        Cell cells[kBlock];
        const Cell columns = static_cast<Cell>(columns_);
        for (int64_t first = begin; first < end; first += block_) {
            const int64_t count = std::min(block_, end - first);
            uint32_t* table = table_.data();
            for (int64_t channel = 0; channel < problem_.tables(); ++channel, table += cells_ * copies_) {
                const Run run{sample, channel, first, count};
                encode_rows(run, rows);
                encode_columns(run, cells);
                locate(rows, columns, count, cells);
                tally(cells, count, table);
            }
        }
    }

    void tally(uint8_t* cells, int64_t count, uint32_t* table) const {
        const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
        std::fill(cells + count, cells + padded, kNoCell);
        with_constant<kMaxClassesCompared>(classes_, [&](auto classes) {
            constexpr int64_t kColumns = classes + 1;
            int64_t counted = 0;
            for (int64_t row = 0; row < classes; ++row)
                counted += count_equal<classes>(cells, padded, row * kColumns, table);
            // Mostly all labels are of classes.
            if (counted == count) return;
            for (int64_t row = 0; row < classes; ++row)
                count_equal<1>(cells, padded, row * kColumns + classes, table);
            for (int64_t row = classes; row < classes + 2; ++row)
                count_equal<kColumns>(cells, padded, row * kColumns, table);
        });
    }

    void tally(const uint16_t* cells, int64_t count, uint32_t* table) const {
        increment<kCopies>(cells, count, cells_, table);
    }

    void tally(const uint32_t* cells, int64_t count, uint32_t* table) const {
        increment<1>(cells, count, cells_, table);
    }

    template <class Code>
    void encode_rows(const Run& run, Code* rows) const {
        if (problem_.kind == Input::kMultiLabel)
            encode_presence(problem_.target, run, problem_.ignore_index, rows);
        else
            encode_labels(problem_.target, run, problem_.classes, problem_.ignore_index, rows);
        if (problem_.mask.data == nullptr) return;
        const uint8_t* mask = begin(problem_.mask, static_cast<const uint8_t*>(problem_.mask.data), run);
        const int64_t stride = problem_.mask.stride_v, count = run.count;
        const Code ignored = static_cast<Code>(classes_ + 1);
        if (stride == 1)
            vectorised([=]() FASTMED_LOOP {
                for (int64_t i = 0; i < count; ++i) rows[i] = mask[i] != 0 ? rows[i] : ignored;
            });
        else
            for (int64_t i = 0; i < count; ++i) rows[i] = mask[i * stride] != 0 ? rows[i] : ignored;
    }

    template <class Code>
    void encode_columns(const Run& run, Code* columns) const {
        switch (problem_.kind) {
            case Input::kLabels:
                return encode_labels(problem_.input, run, problem_.classes, std::nullopt, columns);
            case Input::kScores:
                return visit_floating(problem_.input, [&](const auto* data) {
                    encode_argmax(problem_.input, begin(problem_.input, data, run), problem_.classes,
                                  run.count, columns);
                });
            case Input::kMultiLabel:
                return encode_above(problem_.input, run, problem_.thresholds[run.channel], columns);
        }
    }

    const ConfusionProblem& problem_;
    std::mutex& mutex_;
    int64_t classes_;
    int64_t columns_;
    int64_t cells_;
    int64_t copies_;
    int64_t block_;
    int64_t sample_ = 0;
    int64_t unflushed_ = 0;
    std::vector<uint32_t> table_;
};

}  // namespace

void count_confusion_cpu(const ConfusionProblem& problem, int threads) {
    const int64_t voxels = problem.samples * problem.voxels;
    const int64_t channels = problem.kind == Input::kLabels ? 1 : int64_t{problem.classes};
    const int64_t useful =
        std::clamp<int64_t>(voxels * channels / kElementsPerThread, 1, std::max(threads, 1));
    std::mutex mutex;
    share_pieces(voxels, std::max<int64_t>(kElementsPerThread / channels, 1), useful,
                 [&] { return Worker(problem, mutex); });
}

}  // namespace fastmed
