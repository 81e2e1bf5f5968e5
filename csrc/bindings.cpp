#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "confusion.hpp"
#include "histogram.hpp"

namespace py = pybind11;
using namespace fastmed;

namespace {

[[noreturn]] void refuse(const char* argument, const std::string& value, const std::string& allowed) {
    throw std::invalid_argument(std::string(argument) + ": got " + value + ", allowed are " + allowed);
}

void check_size(const char* argument, int64_t size) {
    if (size < 0) refuse(argument, std::to_string(size), "0 and more");
}

// Memory of some size needs an address.
void check_address(const char* argument, const void* data, bool is_empty) {
    if (data == nullptr && !is_empty) refuse(argument, "no address", "addresses of memory");
}

bool is_byte(const Operand& operand) { return operand.dtype == Dtype::kUInt8; }

void check_operand(const char* argument, const Operand& operand, bool has_type, const char* types,
                   bool is_empty) {
    if (!has_type) refuse(argument, "another type", types);
    check_address(argument, operand.data, is_empty);
}

// The counting itself takes all of this for granted.
void check(const ConfusionProblem& problem) {
    check_size("samples", problem.samples);
    check_size("voxels", problem.voxels);
    if (problem.classes < 1 || problem.classes > kMaxClasses)
        refuse("classes", std::to_string(problem.classes), "1 to " + std::to_string(kMaxClasses));
    const bool is_empty = problem.samples == 0 || problem.voxels == 0;
    const bool is_scores = problem.kind == Input::kScores,
               is_multi_label = problem.kind == Input::kMultiLabel;
    check_operand("input", problem.input, is_multi_label || is_floating(problem.input.dtype) == is_scores,
                  is_scores ? "floating types" : "integers", is_empty);
    check_operand("target", problem.target, is_multi_label || !is_floating(problem.target.dtype), "integers",
                  is_empty);
    if (problem.mask.data != nullptr)
        check_operand("mask", problem.mask, is_byte(problem.mask), "UINT8", is_empty);
    check_address("thresholds", problem.thresholds, is_empty || !is_multi_label);
    check_address("counts", problem.counts, is_empty);
    check_address("invalid", problem.invalid, is_empty);
}

void check(const HistogramProblem& problem) {
    check_size("samples", problem.samples);
    check_size("tasks", problem.tasks);
    check_size("voxels", problem.voxels);
    if (problem.bins.count < 1) refuse("bins", std::to_string(problem.bins.count), "1 and more");
    const bool is_empty = problem.samples == 0 || problem.tasks == 0 || problem.voxels == 0;
    check_operand("scores", problem.scores, is_floating(problem.scores.dtype), "floating types", is_empty);
    check_address("target", problem.target.data, is_empty);
    if (problem.mask) check_operand("mask", *problem.mask, is_byte(*problem.mask), "UINT8", is_empty);
    check_address("counts", problem.counts, is_empty);
    check_address("invalid", problem.invalid, is_empty);
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

    py::enum_<Input>(module, "Input")
        .value("LABELS", Input::kLabels)
        .value("SCORES", Input::kScores)
        .value("MULTI_LABEL", Input::kMultiLabel);

    py::class_<Operand>(module, "Operand")
        .def(py::init([](uintptr_t data, Dtype dtype, int64_t stride_n, int64_t stride_c, int64_t stride_v) {
                 return Operand{reinterpret_cast<const void*>(data), dtype, stride_n, stride_c, stride_v};
             }),
             py::arg("data"), py::arg("dtype"), py::arg("stride_n"), py::arg("stride_c"),
             py::arg("stride_v"));

    py::class_<ConfusionProblem>(module, "ConfusionProblem")
        .def(py::init([](Input kind, const Operand& input, const Operand& target,
                         const std::optional<Operand>& mask, int64_t samples, int64_t voxels,
                         uint32_t classes, uintptr_t thresholds, std::optional<int64_t> ignore_index,
                         bool pooled, uintptr_t counts, uintptr_t invalid) {
                 return ConfusionProblem{kind,
                                         input,
                                         target,
                                         mask.value_or(Operand{}),
                                         samples,
                                         voxels,
                                         classes,
                                         reinterpret_cast<const double*>(thresholds),
                                         ignore_index,
                                         pooled,
                                         reinterpret_cast<int64_t*>(counts),
                                         reinterpret_cast<int64_t*>(invalid)};
             }),
             py::kw_only(), py::arg("kind"), py::arg("input"), py::arg("target"), py::arg("mask"),
             py::arg("samples"), py::arg("voxels"), py::arg("classes"), py::arg("thresholds"),
             py::arg("ignore_index"), py::arg("pooled").noconvert(), py::arg("counts"), py::arg("invalid"));

    py::class_<Bins>(module, "Bins")
        .def(py::init([](Transform transform, uint32_t count, float low, float high, float scale) {
                 return Bins{transform, count, low, high, scale};
             }),
             py::arg("transform"), py::arg("count"), py::arg("low"), py::arg("high"), py::arg("scale"));

    py::class_<HistogramProblem>(module, "HistogramProblem")
        .def(py::init([](const Operand& scores, const Operand& target, const std::optional<Operand>& mask,
                         int64_t samples, int64_t tasks, int64_t voxels, const Bins& bins, uintptr_t counts,
                         uintptr_t invalid) {
                 return HistogramProblem{scores,
                                         target,
                                         mask,
                                         samples,
                                         tasks,
                                         voxels,
                                         bins,
                                         reinterpret_cast<int64_t*>(counts),
                                         reinterpret_cast<int64_t*>(invalid)};
             }),
             py::kw_only(), py::arg("scores"), py::arg("target"), py::arg("mask"), py::arg("samples"),
             py::arg("tasks"), py::arg("voxels"), py::arg("bins"), py::arg("counts"), py::arg("invalid"));

    module.def(
        "confusion_counts_cpu",
        [](const ConfusionProblem& problem, int threads) {
            check(problem);
            const py::gil_scoped_release release;
            count_confusion_cpu(problem, threads);
        },
        py::arg("problem"), py::arg("threads"));

    module.def(
        "score_histogram_cpu",
        [](const HistogramProblem& problem, int threads) {
            check(problem);
            const py::gil_scoped_release release;
            count_histogram_cpu(problem, threads);
        },
        py::arg("problem"), py::arg("threads"));

#ifdef FASTMED_CUDA
    module.def(
        "confusion_counts_cuda",
        [](const ConfusionProblem& problem, int device, uintptr_t stream) {
            check(problem);
            const py::gil_scoped_release release;
            count_confusion_cuda(problem, device, reinterpret_cast<void*>(stream));
        },
        py::arg("problem"), py::arg("device"), py::arg("stream"));

    module.def(
        "score_histogram_cuda",
        [](const HistogramProblem& problem, int device, uintptr_t stream) {
            check(problem);
            const py::gil_scoped_release release;
            count_histogram_cuda(problem, device, reinterpret_cast<void*>(stream));
        },
        py::arg("problem"), py::arg("device"), py::arg("stream"));
#endif
}
