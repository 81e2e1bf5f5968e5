// Runs the histogram over awkward shapes, scores and labels for the sanitizers, and checks it against a plain
// loop over the same templates that the CUDA kernels count with.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "histogram.hpp"

using namespace fastmed;

namespace {

struct Case {
    int64_t samples, tasks, voxels;
    uint32_t bins;
    bool tasks_side_by_side;
    bool masked;
    int threads;
};

class Random {
  public:
    explicit Random(uint32_t seed) : state_(seed) {}
    uint32_t operator()() { return (state_ = state_ * 1664525u + 1013904223u) >> 8; }

  private:
    uint32_t state_;
};

float random_score(Random& random) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr float kSpecial[] = {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN(), 0.0f,
                                  -0.0f,     1.0f,       std::numeric_limits<float>::max(),       1e-45f};
    if (random() % 20 == 0) return kSpecial[random() % 8];
    return static_cast<float>(random() % 14000) / 10000.0f - 0.2f;
}

template <class Label>
Label random_label(Random& random) {
    const uint32_t draw = random() % 40;
    if (draw == 0) return std::numeric_limits<Label>::max();
    if (draw == 1) return std::numeric_limits<Label>::lowest();
    if (draw == 2) return static_cast<Label>(-1);
    if (draw == 3) return std::numeric_limits<Label>::quiet_NaN();  // 0 for integers
    return static_cast<Label>(draw % 2);
}

template <class Score, class Label>
void check(const Case& c, Dtype score_dtype, Dtype label_dtype, Transform transform) {
    Random random(static_cast<uint32_t>(c.voxels + c.bins));
    const auto size = static_cast<size_t>(c.samples * c.tasks * c.voxels);
    std::vector<Score> scores(size);
    std::vector<Label> labels(size);
    std::vector<uint8_t> mask(size);
    for (size_t i = 0; i < size; ++i) {
        scores[i] = static_cast<Score>(random_score(random));
        labels[i] = random_label<Label>(random);
        mask[i] = random() % 3 != 0;
    }
    const int64_t stride_n = c.tasks * c.voxels;
    const int64_t stride_c = c.tasks_side_by_side ? 1 : c.voxels;
    const int64_t stride_v = c.tasks_side_by_side ? c.tasks : 1;
    const float low = transform == Transform::kLogit ? -4.0f : 0.0f;
    const float high = transform == Transform::kLogit ? 4.0f : 1.0f;
    const Bins bins{transform, c.bins, low, high, static_cast<float>(c.bins) / (high - low)};
    const int64_t columns = c.bins + kExtraColumns;
    std::vector<int64_t> counts(static_cast<size_t>(c.tasks * 2 * columns)), expected(counts);
    std::vector<int64_t> invalid(static_cast<size_t>(c.tasks)), expected_invalid(invalid);

    const auto operand = [&](const void* data, Dtype dtype) {
        return Operand{data, dtype, stride_n, stride_c, stride_v};
    };
    std::optional<Operand> mask_operand;
    if (c.masked) mask_operand = operand(mask.data(), Dtype::kUInt8);
    count_histogram_cpu({operand(scores.data(), score_dtype), operand(labels.data(), label_dtype),
                         mask_operand, c.samples, c.tasks, c.voxels, bins, counts.data(), invalid.data()},
                        c.threads);

    const int64_t unknown = 2 * columns + 1;
    for (int64_t n = 0; n < c.samples; ++n)
        for (int64_t t = 0; t < c.tasks; ++t)
            for (int64_t v = 0; v < c.voxels; ++v) {
                const auto i = static_cast<size_t>(n * stride_n + t * stride_c + v * stride_v);
                if (c.masked && mask[i] == 0) continue;
                visit_transform(transform, [&](auto constant) {
                    const uint32_t column =
                        column_of<decltype(constant)::value>(static_cast<float>(scores[i]), bins);
                    const int64_t cell = cell_of(row_of(labels[i]), column, bins);
                    if (cell < 2 * columns)
                        ++expected[static_cast<size_t>(t * 2 * columns + cell)];
                    else if (cell == unknown)
                        ++expected_invalid[static_cast<size_t>(t)];
                });
            }
    if (counts != expected || invalid != expected_invalid) {
        std::fprintf(stderr, "wrong counts: %ld samples, %ld tasks, %ld voxels, %u bins, %d threads\n",
                     static_cast<long>(c.samples), static_cast<long>(c.tasks), static_cast<long>(c.voxels),
                     c.bins, c.threads);
        std::exit(1);
    }
}

void check_all(const Case& c) {
    for (const Transform transform : {Transform::kIdentity, Transform::kSigmoid, Transform::kLogit}) {
        check<float, float>(c, Dtype::kFloat32, Dtype::kFloat32, transform);
        check<double, uint8_t>(c, Dtype::kFloat64, Dtype::kUInt8, transform);
        check<float, int64_t>(c, Dtype::kFloat32, Dtype::kInt64, transform);
        check<float, int8_t>(c, Dtype::kFloat32, Dtype::kInt8, transform);
        check<double, double>(c, Dtype::kFloat64, Dtype::kFloat64, transform);
    }
}

void expect(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "wrong: %s\n", what);
    std::exit(1);
}

// Every number of the half formats is what its bits say.
void check_half_formats() {
    for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
        const auto half = static_cast<uint16_t>(bits);
        const int exponent = half >> 10 & 31, mantissa = half & 1023;
        const float sign = half >> 15 != 0 ? -1.0f : 1.0f;
        const float got = static_cast<float>(Float16{half});
        if (exponent == 31)
            expect(mantissa == 0 ? got == sign * INFINITY : std::isnan(got), "float16 infinity or NaN");
        else
            expect(got == sign * std::ldexp(static_cast<float>(exponent == 0 ? mantissa : mantissa + 1024),
                                            std::max(exponent, 1) - 25),
                   "float16 number");
        expect(bits_of_float(static_cast<float>(BFloat16{half})) == bits << 16, "bfloat16");
    }
}

// The polynomials stay within a few units in the last place.
void check_transforms() {
    for (float x = -87.0f; x < 87.0f; x += 0.01f) {
        const double sigmoid = 1.0 / (1.0 + std::exp(-static_cast<double>(x)));
        const double error = std::abs(transformed<Transform::kSigmoid>(x) - sigmoid);
        expect(error <= 4e-7 * sigmoid, "sigmoid");
    }
    for (float p = 1e-30f; p < 1.0f; p += p < 0.01f ? p * 0.01f : 1e-4f) {
        const double logit = std::log(static_cast<double>(p) / (1.0 - static_cast<double>(p)));
        const double error = std::abs(transformed<Transform::kLogit>(p) - logit);
        expect(error <= 4e-7 * std::max(std::abs(logit), 1.0), "logit");
    }
}

}  // namespace

int main() {
    check_half_formats();
    check_transforms();
    for (const bool side_by_side : {false, true})
        for (const bool masked : {false, true})
            for (const uint32_t bins : {1u, 7u, 1024u, 40000u}) {
                check_all({0, 2, 5, bins, side_by_side, masked, 2});
                check_all({2, 3, 0, bins, side_by_side, masked, 2});
                check_all({2, 0, 3, bins, side_by_side, masked, 2});
                check_all({3, 5, 411, bins, side_by_side, masked, 1});
                check_all({1, 1300, 2, std::min(bins, 8u), side_by_side, masked, 1});
            }
    check_all({2, 3, 40'001, 64, false, true, 4});
    check_all({1, 14, 20'003, 64, true, false, 3});

    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i) callers.emplace_back([] { check_all({1, 3, 30'001, 16, true, false, 2}); });
    for (std::thread& caller : callers) caller.join();
}
