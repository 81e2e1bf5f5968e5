// The pieces of a loop on several threads: those of OpenMP where the extension was built with it.
//
// PyTorch loads GNU's OpenMP under the name that this extension asks for, so both take the same threads:
// those of torch, which wait for their next work by spinning, would otherwise hold the processors that new
// threads need. A process forked after the first use must not enter OpenMP again, and the caller asks for one
// thread there.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#ifndef _OPENMP
#include <system_error>
#include <thread>
#include <vector>
#endif

namespace fastmed {

// Pieces of [0, count), each for the thread that takes it first: one that slept, and comes late, leaves the
// others with more to do, and with nothing to wait for.
class Pieces {
  public:
    Pieces(int64_t count, int64_t piece) : count_(count), piece_(piece) {}

    // Whether there was a piece left: now it is [first, last).
    bool take(int64_t& first, int64_t& last) {
        first = next_.fetch_add(piece_, std::memory_order_relaxed);
        last = std::min(first + piece_, count_);
        return first < count_;
    }

  private:
    std::atomic<int64_t> next_{0};
    const int64_t count_;
    const int64_t piece_;
};

// Pieces for each thread: few enough for what a piece costs, and enough to even out.
constexpr int64_t kPiecesPerThread = 8;

// Shares [0, count) out in pieces of at least so many among so many threads, as far as they are to be had:
// one that gets a piece makes a worker, which runs its pieces and is flushed after the last.
template <class MakeWorker>
void share_pieces(int64_t count, int64_t least, int64_t threads, const MakeWorker& make_worker) {
    const int64_t number = threads == 1 ? 1 : threads * kPiecesPerThread;
    Pieces pieces(count, std::max((count + number - 1) / number, least));
    const auto work = [&] {
        int64_t first = 0, last = 0;
        if (!pieces.take(first, last)) return;
        auto worker = make_worker();
        do worker.run(first, last);
        while (pieces.take(first, last));
        worker.flush();
    };
    if (threads == 1) return work();
#ifdef _OPENMP
#pragma omp parallel num_threads(static_cast<int>(threads))
    work();
#else
    std::vector<std::thread> running;
    running.reserve(static_cast<size_t>(threads));
    try {
        for (int64_t thread = 1; thread < threads; ++thread) running.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads to be had: those there are do the rest.
    }
    work();
    for (std::thread& thread : running) thread.join();
#endif
}

}  // namespace fastmed
