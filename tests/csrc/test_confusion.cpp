// Runs the counting over awkward shapes and labels for the sanitizers, and checks it against a plain loop.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>
#include <vector>

#include "confusion.hpp"

using namespace fastmed;

namespace {

struct Case {
    int64_t samples, voxels, stride_v;
    uint32_t classes;
    std::optional<int64_t> ignore_index;
    int threads;
};

template <class Label>
std::vector<Label> random_labels(size_t count, uint32_t classes, uint32_t seed) {
    std::vector<Label> labels(count);
    for (Label& label : labels) {
        seed = seed * 1664525u + 1013904223u;
        const uint32_t draw = seed >> 8;
        if (draw % 50 == 0)
            label = std::numeric_limits<Label>::max();
        else if (draw % 50 == 1)
            label = std::numeric_limits<Label>::min();
        else
            label = static_cast<Label>(draw % (classes + 2));
    }
    return labels;
}

template <class Prediction, class Target>
void check(const Case& c, Dtype prediction_dtype, Dtype target_dtype) {
    const auto size = static_cast<size_t>(c.samples * c.voxels * c.stride_v);
    const auto prediction = random_labels<Prediction>(size, c.classes, 1);
    const auto target = random_labels<Target>(size, c.classes, 2);
    const auto cells = static_cast<size_t>(c.samples) * c.classes * c.classes;
    std::vector<int64_t> counts(cells), expected(cells);
    std::vector<int64_t> invalid(static_cast<size_t>(c.samples)), expected_invalid(invalid);

    const int64_t stride_n = c.voxels * c.stride_v;
    count_confusion_cpu({{prediction.data(), prediction_dtype, stride_n, c.stride_v},
                         {target.data(), target_dtype, stride_n, c.stride_v},
                         c.samples,
                         c.voxels,
                         c.classes,
                         c.ignore_index,
                         counts.data(),
                         invalid.data()},
                        c.threads);

    for (int64_t n = 0; n < c.samples; ++n)
        for (int64_t v = 0; v < c.voxels; ++v) {
            const auto i = static_cast<size_t>(n * stride_n + v * c.stride_v);
            const int64_t p = prediction[i], t = target[i], classes = c.classes;
            if (c.ignore_index == t) continue;
            if (p >= 0 && p < classes && t >= 0 && t < classes)
                ++expected[static_cast<size_t>((n * classes + t) * classes + p)];
            else
                ++expected_invalid[static_cast<size_t>(n)];
        }
    if (counts != expected || invalid != expected_invalid) {
        std::fprintf(stderr, "wrong counts: %ld samples of %ld voxels, stride %ld, %u classes, %d threads\n",
                     static_cast<long>(c.samples), static_cast<long>(c.voxels), static_cast<long>(c.stride_v),
                     c.classes, c.threads);
        std::exit(1);
    }
}

void check_all(const Case& c) {
    check<uint8_t, uint8_t>(c, Dtype::kUInt8, Dtype::kUInt8);
    check<int64_t, int64_t>(c, Dtype::kInt64, Dtype::kInt64);
    check<int8_t, uint16_t>(c, Dtype::kInt8, Dtype::kUInt16);
    check<uint32_t, int16_t>(c, Dtype::kUInt32, Dtype::kInt16);
    check<int32_t, int8_t>(c, Dtype::kInt32, Dtype::kInt8);
}

}  // namespace

int main() {
    for (const uint32_t classes : {2u, 4u, 200u, 300u})
        for (const std::optional<int64_t> ignore_index :
             {std::optional<int64_t>(), std::optional<int64_t>(1), std::optional<int64_t>(-1),
              std::optional<int64_t>(255)}) {
            check_all({0, 5, 1, classes, ignore_index, 2});
            check_all({3, 0, 1, classes, ignore_index, 2});
            check_all({3, 2051, 1, classes, ignore_index, 1});
            check_all({2, 777, 3, classes, ignore_index, 1});
        }
    check_all({3, 100'003, 1, 4, 255, 4});
    check_all({1, 300'000, 2, 300, std::nullopt, 3});

    std::vector<std::thread> callers;
    for (int i = 0; i < 3; ++i) callers.emplace_back([] { check_all({2, 140'001, 1, 5, 0, 2}); });
    for (std::thread& caller : callers) caller.join();
}
