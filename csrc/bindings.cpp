#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "confusion.hpp"
#include "histogram.hpp"

namespace py = pybind11;
using namespace fastmed;

namespace {

ConfusionProblem confusion_problem(const Labels& prediction, const Labels& target, int64_t samples,
                                   int64_t voxels, uint32_t classes, std::optional<int64_t> ignore_index,
                                   uintptr_t counts, uintptr_t invalid) {
    if (classes > kMaxClasses)
        throw std::invalid_argument("num_classes: got " + std::to_string(classes) + ", allowed are at most " +
                                    std::to_string(kMaxClasses));
    return {prediction,
            target,
            samples,
            voxels,
            classes,
            ignore_index,
            reinterpret_cast<int64_t*>(counts),
            reinterpret_cast<int64_t*>(invalid)};
}

HistogramProblem histogram_problem(const Operand& scores, const Operand& target, std::optional<Operand> mask,
                                   int64_t samples, int64_t tasks, int64_t voxels, const Bins& bins,
                                   uintptr_t counts, uintptr_t invalid) {
    return {scores,
            target,
            mask,
            samples,
            tasks,
            voxels,
            bins,
            reinterpret_cast<int64_t*>(counts),
            reinterpret_cast<int64_t*>(invalid)};
}

py::dict build_info() {
    py::dict info;
#if defined(__clang__)
    info["compiler"] = "Clang " __clang_version__;
#elif defined(__GNUC__)
    info["compiler"] = "GCC " __VERSION__;
#else
    info["compiler"] = "unknown";
#endif
#ifdef FASTMED_CUDA
    const CudaBuild build = cuda_build();
    info["cuda"] = std::to_string(build.version / 1000) + "." + std::to_string(build.version % 1000 / 10);
    info["architectures"] = build.architectures;
#else
    info["cuda"] = py::none();
    info["architectures"] = py::list();
#endif
    return info;
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    module.attr("MAX_CLASSES") = kMaxClasses;
    module.def("build_info", &build_info);

    py::enum_<Dtype>(module, "Dtype")
        .value("UINT8", Dtype::kUInt8)
        .value("INT8", Dtype::kInt8)
        .value("INT16", Dtype::kInt16)
        .value("UINT16", Dtype::kUInt16)
        .value("INT32", Dtype::kInt32)
        .value("UINT32", Dtype::kUInt32)
        .value("INT64", Dtype::kInt64)
        .value("FLOAT16", Dtype::kFloat16)
        .value("BFLOAT16", Dtype::kBFloat16)
        .value("FLOAT32", Dtype::kFloat32)
        .value("FLOAT64", Dtype::kFloat64);

    py::enum_<Transform>(module, "Transform")
        .value("IDENTITY", Transform::kIdentity)
        .value("SIGMOID", Transform::kSigmoid)
        .value("LOGIT", Transform::kLogit);

    py::class_<Labels>(module, "Labels")
        .def(py::init([](uintptr_t data, Dtype dtype, int64_t stride_n, int64_t stride_v) {
                 return Labels{reinterpret_cast<const void*>(data), dtype, stride_n, stride_v};
             }),
             py::arg("data"), py::arg("dtype"), py::arg("stride_n"), py::arg("stride_v"));

    py::class_<Operand>(module, "Operand")
        .def(py::init([](uintptr_t data, Dtype dtype, int64_t stride_n, int64_t stride_c, int64_t stride_v) {
                 return Operand{reinterpret_cast<const void*>(data), dtype, stride_n, stride_c, stride_v};
             }),
             py::arg("data"), py::arg("dtype"), py::arg("stride_n"), py::arg("stride_c"),
             py::arg("stride_v"));

    py::class_<Bins>(module, "Bins")
        .def(py::init([](Transform transform, uint32_t count, float low, float high, float scale) {
                 return Bins{transform, count, low, high, scale};
             }),
             py::arg("transform"), py::arg("count"), py::arg("low"), py::arg("high"), py::arg("scale"));

    module.def(
        "confusion_counts_cpu",
        [](const Labels& prediction, const Labels& target, int64_t samples, int64_t voxels, uint32_t classes,
           std::optional<int64_t> ignore_index, uintptr_t counts, uintptr_t invalid, int threads) {
            const ConfusionProblem problem = confusion_problem(prediction, target, samples, voxels, classes,
                                                               ignore_index, counts, invalid);
            const py::gil_scoped_release release;
            count_confusion_cpu(problem, threads);
        },
        py::arg("prediction"), py::arg("target"), py::arg("samples"), py::arg("voxels"),
        py::arg("num_classes"), py::arg("ignore_index"), py::arg("counts"), py::arg("invalid"),
        py::arg("threads"));

    module.def(
        "score_histogram_cpu",
        [](const Operand& scores, const Operand& target, std::optional<Operand> mask, int64_t samples,
           int64_t tasks, int64_t voxels, const Bins& bins, uintptr_t counts, uintptr_t invalid,
           int threads) {
            const HistogramProblem problem =
                histogram_problem(scores, target, mask, samples, tasks, voxels, bins, counts, invalid);
            const py::gil_scoped_release release;
            count_histogram_cpu(problem, threads);
        },
        py::arg("scores"), py::arg("target"), py::arg("mask"), py::arg("samples"), py::arg("tasks"),
        py::arg("voxels"), py::arg("bins"), py::arg("counts"), py::arg("invalid"), py::arg("threads"));

#ifdef FASTMED_CUDA
    module.def(
        "confusion_counts_cuda",
        [](const Labels& prediction, const Labels& target, int64_t samples, int64_t voxels, uint32_t classes,
           std::optional<int64_t> ignore_index, uintptr_t counts, uintptr_t invalid, int device,
           uintptr_t stream) {
            const ConfusionProblem problem = confusion_problem(prediction, target, samples, voxels, classes,
                                                               ignore_index, counts, invalid);
            const py::gil_scoped_release release;
            count_confusion_cuda(problem, device, reinterpret_cast<void*>(stream));
        },
        py::arg("prediction"), py::arg("target"), py::arg("samples"), py::arg("voxels"),
        py::arg("num_classes"), py::arg("ignore_index"), py::arg("counts"), py::arg("invalid"),
        py::arg("device"), py::arg("stream"));

    module.def(
        "score_histogram_cuda",
        [](const Operand& scores, const Operand& target, std::optional<Operand> mask, int64_t samples,
           int64_t tasks, int64_t voxels, const Bins& bins, uintptr_t counts, uintptr_t invalid, int device,
           uintptr_t stream) {
            const HistogramProblem problem =
                histogram_problem(scores, target, mask, samples, tasks, voxels, bins, counts, invalid);
            const py::gil_scoped_release release;
            count_histogram_cuda(problem, device, reinterpret_cast<void*>(stream));
        },
        py::arg("scores"), py::arg("target"), py::arg("mask"), py::arg("samples"), py::arg("tasks"),
        py::arg("voxels"), py::arg("bins"), py::arg("counts"), py::arg("invalid"), py::arg("device"),
        py::arg("stream"));
#endif
}
