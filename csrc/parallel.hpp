// Threads that live for one call: a pool would not survive a fork.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace fastmed {

// Calls `function(share, first, last)` for equal shares of [0, count), each on a thread of its own.
template <class Function>
void for_each_share(int64_t count, int64_t shares, Function&& function) {
    const auto run = [&](int64_t share) {
        const int64_t each = count / shares, rest = count % shares;
        const int64_t first = share * each + std::min(share, rest);
        function(share, first, first + each + (share < rest));
    };
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
