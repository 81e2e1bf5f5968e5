// Equal shares of a loop on several threads: those of OpenMP where the extension was built with it.
//
// PyTorch loads GNU's OpenMP under the name that this extension asks for, so both take the same threads:
// those of torch, which wait for their next work by spinning, would otherwise hold the processors that new
// threads need. A process forked after the first use must not enter OpenMP again, and the caller asks for one
// thread there.
#pragma once

#include <algorithm>
#include <cstdint>
#ifndef _OPENMP
#include <system_error>
#include <thread>
#include <vector>
#endif

namespace fastmed {

// Calls `function(share, first, last)` for equal shares of [0, count), as far as possible each on a thread of
// its own.
template <class Function>
void for_each_share(int64_t count, int64_t shares, Function&& function) {
    const auto run = [&](int64_t share) {
        const int64_t each = count / shares, rest = count % shares;
        const int64_t first = share * each + std::min(share, rest);
        function(share, first, first + each + (share < rest));
    };
    if (shares == 1) return run(0);
#ifdef _OPENMP
#pragma omp parallel for num_threads(static_cast<int>(shares)) schedule(static, 1)
    for (int64_t share = 0; share < shares; ++share) run(share);
#else
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
#endif
}

}  // namespace fastmed
