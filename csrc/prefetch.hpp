#pragma once

#include <cstdint>

namespace fastmed {

// Asks for elements that are read next: a processor looks ahead by itself, but not into another page. It
// holds some tens of lines that it waits for, and stands still where more are asked for at once.
template <class Element>
inline void prefetch(const Element* data, int64_t count) {
#if defined(__GNUC__)
    constexpr int64_t kElementsPerLine = 64 / sizeof(Element);
    for (int64_t i = 0; i < count; i += kElementsPerLine) __builtin_prefetch(data + i);
#endif
}

}  // namespace fastmed
