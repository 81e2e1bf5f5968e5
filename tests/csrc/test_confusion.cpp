// Runs the counting over awkward shapes and values for the sanitizers, and checks it against a plain loop.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "confusion.hpp"

using namespace fastmed;

namespace {

struct Case {
    Input kind;
    int64_t samples, voxels, stride_v;
    uint32_t classes;
    std::optional<int64_t> ignore_index;
    bool masked, pooled;
    int threads;
};

template <class Value>
constexpr Dtype kDtype = Dtype::kUInt8;
template <>
constexpr Dtype kDtype<int8_t> = Dtype::kInt8;
template <>
constexpr Dtype kDtype<int16_t> = Dtype::kInt16;
template <>
constexpr Dtype kDtype<uint16_t> = Dtype::kUInt16;
template <>
constexpr Dtype kDtype<int32_t> = Dtype::kInt32;
template <>
constexpr Dtype kDtype<uint32_t> = Dtype::kUInt32;
template <>
constexpr Dtype kDtype<int64_t> = Dtype::kInt64;
template <>
constexpr Dtype kDtype<Float16> = Dtype::kFloat16;
template <>
constexpr Dtype kDtype<BFloat16> = Dtype::kBFloat16;
template <>
constexpr Dtype kDtype<float> = Dtype::kFloat32;
template <>
constexpr Dtype kDtype<double> = Dtype::kFloat64;

template <class Value>
double number(Value value) {
    return static_cast<double>(comparable(value));
}

// Labels from 0 to `limit`, and some of the type's extremes.
template <class Label>
std::vector<Label> random_labels(size_t count, uint32_t limit, std::mt19937& random) {
    std::vector<Label> labels(count);
    for (Label& label : labels) {
        const auto draw = static_cast<uint32_t>(random());
        if (draw % 50 == 0)
            label = std::numeric_limits<Label>::max();
        else if (draw % 50 == 1)
            label = std::numeric_limits<Label>::min();
        else
            label = static_cast<Label>(draw / 64 % (limit + 1));
    }
    return labels;
}

// Few different scores, so that there are ties, and some infinities and NaN.
std::vector<float> random_scores(size_t count, std::mt19937& random) {
    const float specials[] = {std::nanf(""), INFINITY, -INFINITY, -0.0f};
    std::vector<float> scores(count);
    for (float& score : scores) {
        const auto draw = static_cast<uint32_t>(random());
        score = draw % 20 == 0 ? specials[draw / 64 % 4] : static_cast<float>(draw / 64 % 9) - 4.0f;
    }
    return scores;
}

template <class Value>
std::vector<Value> random_values(size_t count, uint32_t limit, std::mt19937& random) {
    if constexpr (std::is_integral_v<Value>) {
        return random_labels<Value>(count, limit, random);
    } else {
        std::vector<Value> values(count);
        const std::vector<float> scores = random_scores(count, random);
        for (size_t i = 0; i < count; ++i) {
            uint32_t bits;
            std::memcpy(&bits, &scores[i], sizeof(bits));
            if constexpr (std::is_same_v<Value, BFloat16>)
                values[i] = {static_cast<uint16_t>(bits >> 16)};
            else if constexpr (std::is_same_v<Value, Float16>)
                values[i] = {static_cast<uint16_t>(random())};
            else
                values[i] = static_cast<Value>(scores[i]);
        }
        return values;
    }
}

struct Counts {
    std::vector<int64_t> counts, invalid;
};

// One voxel after the other, in double precision.
template <class In, class Target>
Counts count_plainly(const Case& c, const ConfusionProblem& problem, const std::vector<In>& input,
                     const std::vector<Target>& target, const std::vector<uint8_t>& mask, Counts result) {
    const auto index = [](const Operand& operand, int64_t n, int64_t channel, int64_t v) {
        return static_cast<size_t>(n * operand.stride_n + channel * operand.stride_c + v * operand.stride_v);
    };
    const int64_t classes = problem.table_classes();
    for (int64_t n = 0; n < c.samples; ++n)
        for (int64_t t = 0; t < problem.tables(); ++t)
            for (int64_t v = 0; v < c.voxels; ++v) {
                if (c.masked && mask[index(problem.mask, n, t, v)] == 0) continue;
                const double row = number(target[index(problem.target, n, t, v)]);
                if (c.ignore_index && static_cast<double>(*c.ignore_index) == row) continue;
                double column = 0;
                if (c.kind == Input::kLabels) column = number(input[index(problem.input, n, 0, v)]);
                if (c.kind == Input::kScores) {
                    double best = number(input[index(problem.input, n, 0, v)]);
                    for (int64_t k = 1; k < c.classes; ++k) {
                        const double score = number(input[index(problem.input, n, k, v)]);
                        if (std::isnan(best) || !(score > best || std::isnan(score))) continue;
                        best = score;
                        column = static_cast<double>(k);
                    }
                }
                if (c.kind == Input::kMultiLabel) {
                    if (std::isnan(row) || row == -1) continue;
                    column = number(input[index(problem.input, n, t, v)]) > problem.thresholds[t];
                }
                const int64_t sample = c.pooled ? 0 : n;
                const auto is_class = [classes](double label) {
                    return label >= 0 && label < static_cast<double>(classes) && label == std::floor(label);
                };
                if (is_class(row) && is_class(column))
                    ++result.counts[static_cast<size_t>(
                        ((sample * problem.tables() + t) * classes + static_cast<int64_t>(row)) * classes +
                        static_cast<int64_t>(column))];
                else
                    ++result.invalid[static_cast<size_t>(sample)];
            }
    return result;
}

template <class In, class Target>
void check(const Case& c, bool channels_last = false) {
    std::mt19937 random(static_cast<uint32_t>(c.voxels + c.classes));
    const auto channels = [&](bool has_channels) { return has_channels ? int64_t{c.classes} : int64_t{1}; };
    const auto strided = [&](bool has_channels) {
        const int64_t size = channels(has_channels) * c.voxels * c.stride_v;
        if (!has_channels) return Operand{nullptr, {}, size, 0, c.stride_v};
        return channels_last ? Operand{nullptr, {}, size, 1, c.classes * c.stride_v}
                             : Operand{nullptr, {}, size, c.voxels * c.stride_v, c.stride_v};
    };
    const auto size = [&](bool has_channels) {
        return static_cast<size_t>(c.samples * channels(has_channels) * c.voxels * c.stride_v);
    };
    const bool has_scores = c.kind != Input::kLabels, has_tasks = c.kind == Input::kMultiLabel;
    // A buffer of the exact size, so that any step beyond it is seen.
    const auto input = random_values<In>(size(has_scores), c.classes + 1, random);
    const auto target = random_values<Target>(size(has_tasks), has_tasks ? 2 : c.classes + 1, random);
    std::vector<uint8_t> mask(size(has_tasks));
    for (uint8_t& kept : mask) kept = random() % 4 != 0;
    std::vector<double> thresholds;
    for (uint32_t k = 0; k < c.classes; ++k) thresholds.push_back(static_cast<double>(k % 3) - 1);

    ConfusionProblem problem{};
    problem.kind = c.kind;
    problem.input = strided(has_scores);
    problem.input.data = input.data();
    problem.input.dtype = kDtype<In>;
    problem.target = strided(has_tasks);
    problem.target.data = target.data();
    problem.target.dtype = kDtype<Target>;
    if (c.masked) {
        problem.mask = strided(has_tasks);
        problem.mask.data = mask.data();
    }
    problem.samples = c.samples;
    problem.voxels = c.voxels;
    problem.classes = c.classes;
    problem.thresholds = thresholds.data();
    problem.ignore_index = c.ignore_index;
    problem.pooled = c.pooled;

    const auto outputs = static_cast<size_t>(c.pooled ? 1 : c.samples);
    const size_t cells = size_t{problem.tables()} * problem.table_classes() * problem.table_classes();
    const Counts zero{std::vector<int64_t>(outputs * cells), std::vector<int64_t>(outputs)};
    const Counts expected = count_plainly(c, problem, input, target, mask, zero);
    Counts got = zero;
    problem.counts = got.counts.data();
    problem.invalid = got.invalid.data();
    count_confusion_cpu(problem, c.threads);
    if (got.counts != expected.counts || got.invalid != expected.invalid) {
        std::fprintf(stderr,
                     "wrong: kind %d, %ld samples of %ld voxels, stride %ld, %u classes, %d threads\n",
                     static_cast<int>(c.kind), static_cast<long>(c.samples), static_cast<long>(c.voxels),
                     static_cast<long>(c.stride_v), c.classes, c.threads);
        std::exit(1);
    }
}

void check_labels(Case c) {
    c.kind = Input::kLabels;
    check<uint8_t, uint8_t>(c);
    check<int64_t, int64_t>(c);
    check<int8_t, uint16_t>(c);
    check<uint32_t, int16_t>(c);
    check<int32_t, int8_t>(c);
}

void check_scores(Case c) {
    c.kind = Input::kScores;
    for (const bool channels_last : {false, true}) {
        check<float, uint8_t>(c, channels_last);
        check<double, int64_t>(c, channels_last);
        check<Float16, int16_t>(c, channels_last);
        check<BFloat16, int8_t>(c, channels_last);
    }
}

void check_tasks(Case c) {
    c.kind = Input::kMultiLabel;
    for (const bool channels_last : {false, true}) {
        check<float, uint8_t>(c, channels_last);
        check<double, float>(c, channels_last);
        check<Float16, double>(c, channels_last);
        check<BFloat16, int64_t>(c, channels_last);
        check<uint8_t, BFloat16>(c, channels_last);
        check<int64_t, int8_t>(c, channels_last);
    }
}

void check_all(const Case& c) {
    check_labels(c);
    check_scores(c);
    check_tasks(c);
}

}  // namespace

int main() {
    constexpr Input kAny = Input::kLabels;
    const std::optional<int64_t> none;
    for (const uint32_t classes : {2u, 5u, 9u})
        for (const std::optional<int64_t> ignore_index : {none, std::optional<int64_t>(1)})
            for (const bool masked : {false, true})
                for (const bool pooled : {false, true}) {
                    check_all({kAny, 0, 5, 1, classes, ignore_index, masked, pooled, 2});
                    check_all({kAny, 3, 0, 1, classes, ignore_index, masked, pooled, 2});
                    check_all({kAny, 3, 2051, 1, classes, ignore_index, masked, pooled, 1});
                    check_all({kAny, 2, 777, 3, classes, ignore_index, masked, pooled, 1});
                }
    for (const uint32_t classes : {200u, 300u})
        for (const std::optional<int64_t> ignore_index :
             {none, std::optional<int64_t>(-1), std::optional<int64_t>(255)}) {
            check_labels({kAny, 3, 2051, 1, classes, ignore_index, true, false, 1});
            check_labels({kAny, 2, 777, 3, classes, ignore_index, false, true, 1});
            check_scores({kAny, 2, 101, 1, classes, ignore_index, false, false, 1});
        }
    check_labels({kAny, 3, 100'003, 1, 4, 255, true, false, 4});
    check_labels({kAny, 1, 300'000, 2, 300, none, false, true, 3});
    check_all({kAny, 3, 40'003, 1, 4, none, true, true, 4});

    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i)
        callers.emplace_back([] { check_all({kAny, 2, 70'001, 1, 3, 0, false, false, 2}); });
    for (std::thread& caller : callers) caller.join();
}
